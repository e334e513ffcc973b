"""Inputs to sequences: texts, ids and mixed inputs; documents of pairs are cut to fit."""

from pathlib import Path

import numpy as np
import pytest

from embedd.embedder.inputs import check_ids, tokenize, tokenize_pairs
from embedd.errors import InputTooLongError, InvalidTokenIdError
from embedd.tokenizers.truncation import PairTemplate
from embedd.types import ClientIds, Input, Pooling, Truncate
from tests.contract.conftest import make_spec
from tests.fakes import FakeModel

FIRST, LAST = 1, 2


@pytest.fixture
def vocabulary(tmp_path: Path) -> FakeModel:
    return FakeModel(make_spec(tmp_path / "model", Pooling.RANK))


def ids(*numbers: int) -> ClientIds:
    return np.array(numbers, np.int64)


async def test_special_tokens_are_put_around_texts_and_a_text_that_begins_a_mixed_input(
    vocabulary: FakeModel,
) -> None:
    inputs: list[Input] = ["a", ids(7), ("b", ids(8), "c"), (ids(9), "d", ids(3, 4))]
    rows = await tokenize(vocabulary, inputs, prefix=">")
    assert [row.tolist() for row in rows] == [
        [FIRST, ord(">"), ord("a"), LAST],
        [7],
        [FIRST, ord(">"), ord("b"), LAST, 8, ord("c")],
        [9, ord("d"), 3, 4],
    ]
    assert all(row.dtype == np.int32 for row in rows)


async def test_special_tokens_may_be_left_out(vocabulary: FakeModel) -> None:
    rows = await tokenize(vocabulary, ["a", ("b", ids(8))], add_special=False)
    assert [row.tolist() for row in rows] == [[ord("a")], [ord("b"), 8]]


def test_ids_in_a_mixed_input_are_checked_too() -> None:
    check_ids(["a", ("a", ids(5))], 6)
    with pytest.raises(InvalidTokenIdError) as caught:
        check_ids(["a", ("a", ids(5), ids(1, 6))], 6)
    assert (caught.value.index, caught.value.value) == (1, "6")


TEMPLATE = PairTemplate(prefix=(FIRST,), middle=(LAST,), suffix=(LAST,), document_lead=" ")


@pytest.mark.parametrize(
    ("cap", "truncate", "document"),
    [
        (None, Truncate.END, " abcde"),
        (3, Truncate.END, " ab"),
        (3, Truncate.ERROR, " ab"),
        (None, Truncate.START, "bcdefg"),
    ],
)
async def test_the_document_is_cut_and_never_the_query(
    vocabulary: FakeModel, cap: int | None, truncate: Truncate, document: str
) -> None:
    sequences, truncated = await tokenize_pairs(
        vocabulary,
        "qq",
        ["abcdefg"],
        template=TEMPLATE,
        limit=11,
        max_tokens_per_doc=cap,
        truncate=truncate,
    )
    [pair] = sequences
    assert pair.tolist() == [FIRST, *b"qq", LAST, *document.encode(), LAST]
    [cut] = truncated
    assert (cut.index, cut.tokens, cut.kept) == (0, 13, len(pair))


async def test_a_pair_that_fits_is_not_cut_and_its_text_cannot_contain_a_separator(
    vocabulary: FakeModel,
) -> None:
    sequences, truncated = await tokenize_pairs(
        vocabulary,
        "q",
        ["a\x02b"],
        template=TEMPLATE,
        limit=11,
        max_tokens_per_doc=None,
        truncate=Truncate.ERROR,
    )
    assert [row.tolist() for row in sequences] == [[FIRST, ord("q"), LAST, *b" ab", LAST]]
    assert truncated == []


@pytest.mark.parametrize(("query", "truncate"), [("q", Truncate.ERROR), ("q" * 8, Truncate.END)])
async def test_a_pair_that_cannot_be_cut_to_fit_is_refused(
    vocabulary: FakeModel, query: str, truncate: Truncate
) -> None:
    with pytest.raises(InputTooLongError) as caught:
        await tokenize_pairs(
            vocabulary,
            query,
            ["", "abcdefghij"],
            template=TEMPLATE,
            limit=11,
            max_tokens_per_doc=None,
            truncate=truncate,
        )
    assert (caught.value.index, caught.value.limit) == (int(query == "q"), 11)
