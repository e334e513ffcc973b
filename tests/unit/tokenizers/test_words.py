"""The ids of words that were seen before."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.tokenizers import slices
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from embedd.tokenizers.vocabulary import TokenType
from embedd.tokenizers.words import LONGEST, MAX_WORDS, Words
from embedd.types import TokenIds
from tests.unit.tokenizers import vocabularies

PIECES = (
    *("the", "The", "walking", "x" * 101, "x" * (LONGEST + 1), "1234567", "don't", "e-mail", "…"),
    *("[SEP]", "[MASK]x", "[UNK]", "naïve", "n\u0303", "\u0301", "İ", "ß", "漢字", "か\u3099"),
    *("\u00a0", "\u2028", "\t", "\n", "\x00", "\ufffd", "\ud800", "😀", "", " ", "  "),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map(
    "".join
) | st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=12).map(" ".join)


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> ModelTokenizer:
    original = vocabularies.train_wordpiece(lowercase=request.param)
    path = tmp_path_factory.mktemp("words") / "bert.gguf"
    return load_tokenizer(
        vocabularies.write_wordpiece(path, original, **{"normalizer.lowercase": request.param})
    )[0]


def tokenize_by_library(tokenize: Callable[[list[str]], list[TokenIds]], text: str) -> list[int]:
    """Return the ids of *text* as if it were too long to be cut into words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "INLINE_CHARACTERS", -1)
        ids: list[int] = tokenize([text])[0].tolist()
        return ids


@given(text=TEXTS, parse=st.booleans(), frame=st.booleans())
def test_a_short_text_has_the_ids_that_the_library_finds(
    tokenizer: ModelTokenizer, *, text: str, parse: bool, frame: bool
) -> None:
    tokenize = partial(tokenizer.tokenize, add_special=frame, parse_special=parse)
    expected = tokenize_by_library(tokenize, text)
    for _ in range(2):  # the second time all words are known
        assert tokenize([text])[0].tolist() == expected


@pytest.mark.parametrize(
    ("token", "kind", "text"),
    [
        ("e\u0301", TokenType.USER_DEFINED, "the"),
        ("heh", TokenType.CONTROL, "aheha"),
        ("a b", TokenType.CONTROL, "a b"),
    ],
)
def test_a_token_that_may_be_in_a_word_is_found_there(
    tmp_path: Path, token: str, kind: TokenType, text: str
) -> None:
    """Such a vocabulary remembers no words."""
    letters = [f"{mark}{letter}" for letter in "abehrt" for mark in ("", "\u2581")]
    path = vocabularies.write_vocabulary(
        tmp_path / "bert.gguf",
        "bert",
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", token, *letters],
        [TokenType.CONTROL] * 4 + [kind] + [TokenType.NORMAL] * len(letters),
        pre="default",
        bos_token_id=2,
        seperator_token_id=3,
        unknown_token_id=1,
    )
    tokenizer = load_tokenizer(path)[0]
    expected = tokenize_by_library(tokenizer.tokenize, text)
    assert 4 in expected
    assert tokenizer.tokenize([text])[0].tolist() == expected


class Library:
    """Ids are the places of characters in the alphabet; counts what it is asked."""

    def __init__(self) -> None:
        self.located: list[str] = []
        self.spelt: list[str] = []
        self.words = Words(self.locate, self.spell)

    def locate(self, text: str) -> tuple[list[int], list[int]]:
        self.located.append(text)
        places = [at for at, sign in enumerate(text) if sign != " "]
        return [ord(text[at]) for at in places], places

    def spell(self, word: str) -> list[int]:
        self.spelt.append(word)
        return list(map(ord, word))


def test_the_library_is_asked_for_new_words_only_and_once_for_those_with_other_signs() -> None:
    library = Library()
    text = " one  two- one é two- "
    for _ in range(2):
        ids = np.frombuffer(library.words.encode(text), np.int32).tolist()
        assert ids == [ord(sign) for sign in text if sign != " "]
    assert library.spelt == ["one", "one"]
    assert len(library.located) == 1


def test_words_are_forgotten_before_they_are_too_many_and_long_ones_at_once() -> None:
    library = Library()
    library.words.encode("x" * (LONGEST + 1))
    library.words.encode("x" * (LONGEST + 1))
    assert len(library.spelt) == 2
    for number in range(MAX_WORDS + 1):
        library.words.encode(str(number))
    library.words.encode(str(MAX_WORDS))
    assert len(library.spelt) == 2 + MAX_WORDS + 1
    library.words.encode("0")
    assert len(library.spelt) == 2 + MAX_WORDS + 2
