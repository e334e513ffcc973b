"""Truncation: what is cut, what is kept, and the facts of an error."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InputTooLongError
from embedd.tokenizers.truncation import (
    PairTemplate,
    SpecialTokens,
    fit_ids,
    fit_text,
    remove_tokens,
    surround_pair,
)
from embedd.types import TokenIds, Truncate

Fit = Callable[..., TokenIds]

BERT = SpecialTokens(prefix=(101,), suffix=(102,))
PARTS = st.sampled_from([Truncate.END, Truncate.START, Truncate.MIDDLE])
SPECIALS = st.builds(
    SpecialTokens,
    prefix=st.lists(st.integers(1, 9), max_size=2).map(tuple),
    suffix=st.lists(st.integers(1, 9), max_size=2).map(tuple),
)
CONTENT = st.lists(st.integers(10, 1000), max_size=40)


def to_ids(*parts: Any) -> TokenIds:
    return np.array([token for part in parts for token in part], np.int32)


@given(special=SPECIALS, content=CONTENT, limit=st.integers(0, 60), truncate=PARTS)
def test_a_text_that_is_too_long_is_cut_to_exactly_limit_tokens_with_its_special_tokens(
    special: SpecialTokens, content: list[int], limit: int, truncate: Truncate
) -> None:
    ids = to_ids(special.prefix, content, special.suffix)
    if len(ids) <= limit:
        expected = ids
    elif limit <= len(special):
        with pytest.raises(InputTooLongError):
            fit_text(ids, special=special, limit=limit, truncate=truncate, index=0)
        return
    else:
        room = limit - len(special)
        kept = content[:room]
        if truncate is Truncate.START:
            kept = content[len(content) - room :]
        if truncate is Truncate.MIDDLE:
            kept = content[: -(-room // 2)] + content[len(content) - room // 2 :]
        expected = to_ids(special.prefix, kept, special.suffix)
    fitted = fit_text(ids, special=special, limit=limit, truncate=truncate, index=0)
    assert fitted.tolist() == expected.tolist()
    assert fitted.dtype == np.int32


@given(special=SPECIALS, ids=CONTENT, limit=st.integers(0, 60), ends=st.booleans())
def test_token_ids_keep_their_head_and_a_final_special_token(
    special: SpecialTokens, ids: list[int], limit: int, ends: bool
) -> None:
    sent = to_ids(ids, special.suffix[-1:] if ends else ())
    if limit <= len(special):
        return
    fitted = fit_ids(sent, special=special, limit=limit, truncate=Truncate.END, index=0).tolist()
    assert len(fitted) == min(len(sent), limit)
    closed = len(sent) > 0 and int(sent[-1]) in special.suffix
    head = len(fitted) - closed
    assert fitted[:head] == sent[:head].tolist()
    if closed:
        assert fitted[-1] == sent[-1]


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [(Truncate.START, [16, 17, 18, 19, 102]), (Truncate.MIDDLE, [10, 11, 12, 19, 102])],
)
def test_token_ids_cut_elsewhere_keep_their_tail(truncate: Truncate, kept: list[int]) -> None:
    sent = to_ids(range(10, 20), [102])
    fitted = fit_ids(sent, special=BERT, limit=5, truncate=truncate, index=0)
    assert fitted.tolist() == kept


@pytest.mark.parametrize("fit", [fit_text, fit_ids])
@pytest.mark.parametrize("truncate", list(Truncate))
def test_nothing_is_cut_from_what_fits(fit: Fit, truncate: Truncate) -> None:
    """Not even with a limit that leaves no room for content: ``[CLS] [SEP]`` fits in 2."""
    for ids in (to_ids([101, 7, 102]), to_ids([101, 102]), to_ids([])):
        assert fit(ids, special=BERT, limit=len(ids), truncate=truncate, index=0) is ids


@pytest.mark.parametrize("fit", [fit_text, fit_ids])
@pytest.mark.parametrize(
    ("limit", "truncate"),
    [(3, Truncate.ERROR), (2, Truncate.END), (2, Truncate.START), (0, Truncate.END)],
    ids=["not allowed", "no room", "no room at the start", "zero"],
)
def test_an_error_has_index_length_limit_and_special_tokens(
    fit: Fit, limit: int, truncate: Truncate
) -> None:
    ids = to_ids([101, 7, 8, 102])
    with pytest.raises(InputTooLongError) as caught:
        fit(ids, special=BERT, limit=limit, truncate=truncate, index=5)
    error = caught.value
    assert (error.index, error.tokens, error.limit, error.special) == (5, 4, limit, 2)


def test_without_special_tokens_a_limit_of_zero_leaves_nothing() -> None:
    bare = SpecialTokens(prefix=(), suffix=())
    with pytest.raises(InputTooLongError):
        fit_ids(to_ids([7]), special=bare, limit=0, truncate=Truncate.END, index=0)


@given(content=CONTENT, keep=st.integers(0, 50), part=PARTS)
def test_a_part_is_removed_and_the_rest_keeps_its_order(
    content: list[int], keep: int, part: Truncate
) -> None:
    left = remove_tokens(to_ids(content), keep=keep, part=part).tolist()
    assert len(left) == min(keep, len(content))
    if len(content) <= keep:
        assert left == content
        return
    head = {Truncate.START: 0, Truncate.MIDDLE: -(-keep // 2), Truncate.END: keep}[part]
    assert left[:head] == content[:head]
    assert left[head:] == content[len(content) - (keep - head) :]


@pytest.mark.parametrize(
    ("end", "separator", "add_separator", "middle"),
    [
        ("[SEP]", 2, False, (2,)),
        ("[SEP]", 2, True, (2,)),
        ("</s>", 2, True, (2, 2)),
        ("</s>", 7, True, (2, 7)),
        ("</s>", None, True, (2, 2)),
        ("</s>", 2, False, (2,)),
    ],
)
def test_berts_pairs_have_one_separator_and_robertas_one_more(
    end: str, separator: int | None, add_separator: bool, middle: tuple[int, ...]
) -> None:
    special = SpecialTokens(prefix=(1,), suffix=(2,))
    pair = surround_pair(special, end=end, separator=separator, add_separator=add_separator)
    assert pair == PairTemplate(prefix=(1,), middle=middle, suffix=(2,))


def test_without_a_token_after_texts_only_a_separator_stands_in_a_pair() -> None:
    special = SpecialTokens(prefix=(), suffix=())
    pairs = [
        surround_pair(special, end="", separator=separator, add_separator=True)
        for separator in (None, 3)
    ]
    assert [pair.middle for pair in pairs] == [(), (3,)]
