"""Cutting texts into slices of bounded work, without changing a token."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

Slice: TypeAlias = tuple[int, int, str]  # index of the text, place in it, characters
Check: TypeAlias = Callable[[], None]  # raises to end the work that calls it

# A lone text up to this length is tokenized in one call, on the event loop: it takes some
# 300 µs, no longer than another thread takes to begin.
INLINE_CHARACTERS: Final = 4096
# So many characters go into one call of the library: 0.1 s on one core, and some 30 MB for
# what it keeps per token. Between two calls a deadline is looked at.
CALL_CHARACTERS: Final = 1 << 18
SLICE_CHARACTERS: Final = 1 << 16

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
# A space between two letters begins a new word in every tokenizer that is built.
_BETWEEN_WORDS: Final = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


def no_check() -> None:
    """Let the work go on."""


def group_slices(texts: Sequence[str], *, cut: bool) -> Iterator[list[Slice]]:
    """Slices of all texts, in order, for one call each.

    Args:
        texts: Lone surrogates in them become U+FFFD.
        cut: Whether a long text may become several slices.
    """
    call: list[Slice] = []
    characters = 0
    for index, text in enumerate(texts):
        for start, part in _slice(text) if cut else ((0, text),):
            # Slice by slice: on a whole text it would hold the interpreter's lock for long.
            call.append((index, start, replace_surrogates(part)))
            characters += len(part)
            if characters >= CALL_CHARACTERS:
                yield call
                call, characters = [], 0
    if call:
        yield call


def has_word_end(token: str) -> bool:
    """Whether a cut between two words could be within *token*."""
    return _BETWEEN_WORDS.search(token) is not None


def replace_surrogates(text: str) -> str:
    """*text* with U+FFFD for every lone surrogate, which UTF-8 cannot express."""
    return text if text.isascii() else _SURROGATES.sub(_REPLACEMENT, text)


def _slice(text: str) -> Iterator[tuple[int, str]]:
    """Parts of *text* and where they begin, cut where a space stands between two letters."""
    start = 0
    while len(text) - start > SLICE_CHARACTERS:
        match = _BETWEEN_WORDS.search(text, start + SLICE_CHARACTERS)
        if match is None:
            break
        yield start, text[start : match.start()]
        start = match.start()
    yield start, text[start:]
