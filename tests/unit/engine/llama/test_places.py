"""Places of tokens in a text: exact for tokenizers that keep all bytes, else found by search."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.engine.llama.places import IN_VAIN, LOOK_AHEAD, find_places, search_pieces
from embedd.types import TokenPiece

UNK, SEP = (TokenPiece(name, is_special=True) for name in (b"[UNK]", b"[SEP]"))


def pieces(*texts: str | bytes) -> list[TokenPiece]:
    return [TokenPiece(text.encode() if isinstance(text, str) else text, False) for text in texts]


@pytest.mark.parametrize(
    ("text", "tokens", "places"),
    [
        ("", [], []),
        ("ab c", pieces("ab", " c"), [(0, 2), (2, 4)]),
        ("ab c", pieces(" ab", " c"), [(0, 2), (2, 4)]),
        ("ab", pieces("ab", ""), [(0, 2), (2, 2)]),
        ("日本", pieces(b"\xe6\x97", b"\xa5", "本"), [(0, 1), (0, 1), (1, 2)]),
        ("Zürich 日本", pieces(" zurich", " 日", " 本"), [(0, 6), (7, 8), (8, 9)]),
        ("why not?", pieces(" why", " no", "t", " ?"), [(0, 3), (4, 6), (6, 7), (7, 8)]),
        ("İx", pieces(" i", "x"), [(0, 1), (1, 2)]),
        ("ﬁx ½", pieces(" fix", " 1⁄2"), [(0, 2), (3, 4)]),
        # What has no letters in the vocabulary lies between its neighbours.
        ("a ☃ b", [*pieces(" a"), UNK, *pieces(" b")], [(0, 1), (2, 3), (4, 5)]),
        ("☃ b", [UNK, *pieces(" b")], [(0, 1), (2, 3)]),
        ("a ☃ ", [*pieces(" a"), UNK], [(0, 1), (2, 3)]),
        ("a ☃ ☃ b", [*pieces(" a"), UNK, UNK, *pieces(" b")], [(0, 1), (2, 5), (2, 5), (6, 7)]),
        ("a [UNK] b", [*pieces(" a"), UNK, *pieces(" b")], [(0, 1), (2, 7), (8, 9)]),
        ("☃ [UNK]", [UNK, UNK], [(0, 7), (0, 7)]),
        ("B[SEP] c", [*pieces(" b"), SEP, *pieces(" c")], [(0, 1), (1, 6), (7, 8)]),
        ("Ab", pieces(" a", "x", "b"), [(0, 1), (1, 1), (1, 2)]),
        ("A\u200d\u200bB ", pieces(" a", " b"), [(0, 1), (3, 4)]),
        ("A\ud800", pieces(" a", "\ufffd"), [(0, 1), (1, 2)]),
    ],
)  # fmt: skip
def test_the_place_of_a_token_is_that_of_its_letters(
    text: str, tokens: list[TokenPiece], places: list[tuple[int, int]]
) -> None:
    assert [tuple(one) for one in find_places(text, tokens).tolist()] == places


def test_after_a_long_unknown_word_the_others_are_found_again() -> None:
    text = f"{'안' * 5000} one two three four five six seven eight nine"
    words = text.split()[1:]
    found = find_places(text, [UNK, *pieces(*(f" {word}" for word in words))]).tolist()
    start, stop = found[-1]
    assert text[start:stop] == "nine"


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aA é\u0301한")),
    lengths=st.lists(st.integers(1, 5), max_size=30),
    upper=st.booleans(),
)
def test_places_lie_in_the_text_and_in_order(text: str, lengths: list[int], upper: bool) -> None:
    rest, parts = text, []
    for length in lengths:
        parts.append(rest[:length].upper() if upper else rest[:length])
        rest = rest[length:]
    found = find_places(text, pieces(*parts)).tolist()
    assert all(0 <= start <= stop <= len(text) for start, stop in found)
    assert all(one[0] <= other[0] and one[1] <= other[1] for one, other in pairwise(found))


class CountedText(str):
    """A text that counts the characters that are looked at to find something in it."""

    __slots__ = ("looked_at",)

    looked_at: int

    def find(self, *arguments: object) -> int:
        wanted, start, end = arguments
        assert isinstance(wanted, str)
        assert isinstance(start, int)
        assert isinstance(end, int)
        found = super().find(wanted, start, end)
        self.looked_at += (end if found < 0 else found + len(wanted)) - start
        return found


@pytest.mark.parametrize("missing", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [2_000, 32_000])
def test_the_work_is_linear_in_the_text_however_many_pieces_are_not_in_it(
    missing: float, size: int
) -> None:
    random_ = random.Random(7)
    text = CountedText("".join(random_.choices("abcdefgh", k=size)))
    text.looked_at = 0
    search_pieces(text, ["x" if random_.random() < missing else "ab" for _ in range(size)])
    assert size <= text.looked_at <= (IN_VAIN + LOOK_AHEAD + 3) * size


def test_the_blanks_that_a_tokenizer_puts_before_words_are_not_the_text_s() -> None:
    tokens = pieces(" the", " sky")
    assert find_places("the sky", tokens).tolist() == [[0, 3], [3, 7]]
    assert find_places("the sky", tokens, by_words=True).tolist() == [[0, 3], [4, 7]]
