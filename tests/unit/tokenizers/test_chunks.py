"""Windows of a text: their laws, and where they like to end."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd.tokenizers import chunks as module
from embedd.tokenizers.chunks import Chunk, split_tokens, weigh_chunks
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from tests.unit.tokenizers.vocabularies import CORPUS, find_gguf

Offsets = npt.NDArray[np.int32]
# Words, single signs, and a rest that is no token (spaces)
TOKEN = re.compile(r"\w{1,4}|[^\w\s]")
TEXTS = st.text(st.sampled_from("aabbxyé가字。.!?)\"' \n\t\r\x85\u2029\u3000😀"), max_size=80)
SIZES = st.integers(1, 9).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


def places(text: str) -> Offsets:
    """Offsets of a simple tokenizer, for which a wide character is four tokens."""
    rows = []
    for match in TOKEN.finditer(text):
        wide = any(letter > "\uffff" for letter in match[0])
        rows += [match.span()] * (4 if wide else 1)
    return np.array(rows, np.int32).reshape(-1, 2)


def cut(text: str, size: int, overlap: int = 0) -> list[str]:
    chunks = split_tokens(text, places(text), size=size, overlap=overlap)
    return [text[chunk.start : chunk.end] for chunk in chunks]


@settings(max_examples=400)
@given(text=TEXTS, sizes=SIZES)
def test_windows_cover_the_text_in_order_and_are_never_too_long(
    text: str, sizes: tuple[int, int]
) -> None:
    size, overlap = sizes
    offsets = places(text)
    chunks = [*split_tokens(text, offsets, size=size, overlap=overlap)]
    assert (chunks[0].start, chunks[0].first) == (0, 0)
    assert (chunks[-1].end, chunks[-1].last) == (len(text), len(offsets))
    for chunk in chunks:
        assert 0 <= chunk.start <= chunk.end
        assert 0 < chunk.tokens <= size or not len(offsets)
    for one, other in pairwise(chunks):
        assert one.first < other.first <= one.last < other.last
        assert one.start <= other.start <= one.end <= other.end
        assert one.last - other.first <= overlap
        if overlap and one.tokens > 1 and "😀" not in text:
            assert other.first < one.last
        if not overlap:
            assert (other.first, other.start) == (one.last, one.end)
    whole = "".join(cut(text, size))
    assert whole == text


@given(text=TEXTS, sizes=SIZES)
def test_a_window_has_the_characters_of_its_tokens(text: str, sizes: tuple[int, int]) -> None:
    size, overlap = sizes
    offsets = places(text)
    for chunk in split_tokens(text, offsets, size=size, overlap=overlap):
        mine = offsets[chunk.first : chunk.last]
        if size >= 4:  # the tokens of one character fit into a window
            assert (mine[:, 0] >= chunk.start).all()
            assert (mine[:, 1] <= chunk.end).all()


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ("One two. Tree\n\nfour five", 5, ["One two. Tree\n\n", "four five"]),
        ("One two. Tree four five", 5, ["One two. ", "Tree four five"]),
        ("One two tree four", 3, ["One two tree ", "four"]),
        ('He said "no." Then a b', 7, ['He said "no." ', "Then a b"]),
        ("one two\ntree four", 3, ["one two\n", "tree four"]),
        ("字字字。字字字", 1, ["字字字", "。", "字字字"]),
        ("aa。bb cc", 3, ["aa。", "bb cc"]),
        ("abcdefghij", 2, ["abcdefgh", "ij"]),
        ("a 😀 b", 3, ["a ", "😀", " b"]),
        ("One. two tree four five", 5, ["One. two tree four ", "five"]),
        ("a b", 9, ["a b"]),
        ("  a\n", 9, ["  a\n"]),
        ("", 9, [""]),
        (" \n ", 9, [" \n "]),
    ],
)
def test_windows_end_at_the_best_break_of_their_second_half(
    text: str, size: int, expected: list[str]
) -> None:
    assert cut(text, size) == expected


def test_an_overlap_begins_with_a_word() -> None:
    text = "one second three fourfour five six"
    assert cut(text, 7, 2) == ["one second three fourfour ", "fourfour five six"]
    assert cut(text, 7, 1) == ["one second three fourfour ", "four five six"]


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (4, 4), (4, -1)])
def test_windows_that_cannot_advance_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        split_tokens("a b", places("a b"), size=size, overlap=overlap)


@pytest.mark.parametrize("length", range(6, 40))
def test_a_text_that_is_looked_at_in_slices_is_cut_at_the_same_places(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = 'One two." \n\nthree four? five 字。字 "six." seven\n\n   eight nine.) ten'
    whole = [cut(text, size) for size in range(1, 20)]
    monkeypatch.setattr(module, "SLICE_CHARACTERS", length)
    assert [cut(text, size) for size in range(1, 20)] == whole


def test_a_run_of_spaces_longer_than_a_slice_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_CHARACTERS", 3)
    assert cut("a" + " " * 20 + "b", 1) == ["a" + " " * 20, "b"]


def test_each_window_weighs_as_many_tokens_as_it_has() -> None:
    def chunk(first: int, last: int) -> Chunk:
        return Chunk(start=0, end=0, first=first, last=last)

    assert weigh_chunks([chunk(0, 6), chunk(6, 8)]).tolist() == [0.75, 0.25]
    assert weigh_chunks([chunk(0, 0)]).tolist() == [1]
    assert weigh_chunks([]).shape == (0,)


@pytest.fixture(scope="module")
def ours(default_store: Path) -> ModelTokenizer:
    return load_tokenizer(find_gguf(default_store))[0]


def test_a_hundred_pages_are_cut_and_put_together_again(ours: ModelTokenizer) -> None:
    paragraph = " ".join(f"{line[0].upper()}{line[1:]}." for line in CORPUS)
    text = "\n\n".join(f"{page}. {paragraph}\r\n{paragraph}" for page in range(100))
    ids, offsets = ours.locate([text])[0]
    chunks = [*split_tokens(text, offsets, size=254, overlap=0)]
    assert "".join(text[chunk.start : chunk.end] for chunk in chunks) == text
    for chunk, following in pairwise(chunks):
        assert re.search(r"[.\n]\s*$", text[chunk.start : chunk.end])
        assert 127 <= chunk.tokens <= 254
        assert following.first == chunk.last
    # A window's text alone has its tokens.
    alone = ours.tokenize([text[one.start : one.end] for one in chunks], add_special=False)
    for chunk, row in zip(chunks, alone, strict=True):
        assert np.array_equal(row, ids[chunk.first : chunk.last])


@given(text=st.text(max_size=60), sizes=SIZES)
def test_the_laws_hold_for_the_default_models_tokens(
    text: str, sizes: tuple[int, int], ours: ModelTokenizer
) -> None:
    size, overlap = sizes
    offsets = ours.locate([text])[0][1]
    chunks = [*split_tokens(text, offsets, size=size, overlap=overlap)]
    assert (chunks[0].start, chunks[-1].end) == (0, len(text))
    assert all(chunk.tokens <= size for chunk in chunks)
    for one, other in pairwise(chunks):
        assert other.start <= one.end <= other.end
