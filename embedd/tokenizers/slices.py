"""Cutting texts into slices of bounded work, without changing a token."""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

Slice: TypeAlias = tuple[int, int, str]  # index of the text, place in it, characters
Check: TypeAlias = Callable[[], None]  # raises to end the work that calls it

# Texts that are tokenized one by one on the event loop, and their characters in all. It takes
# some 60 µs, and 1.5 ms where no word was seen before; a thread takes 500 µs for texts of any
# length.
INLINE_TEXTS: Final = 64
INLINE_CHARACTERS: Final = 4096
# So many characters go into one call of the library: 0.1 s on one core, and some 30 MB for
# what it keeps per token, 130 MB if each is a token. Between two calls a deadline is looked at.
CALL_CHARACTERS: Final = 1 << 18
SLICE_CHARACTERS: Final = 1 << 16
# A slice without a place to cut is cut anyway when it is so long, and has other tokens there: ten
# megabytes of full stops in one slice would take 5 GB.
LONGEST_SLICE: Final = 1 << 17
# So many texts go into one call: the library holds the interpreter's lock for some 2 µs per text.
CALL_TEXTS: Final = 1024

_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_REPLACEMENT: Final = "\ufffd"
# Where a text may be cut: before a space between two letters, in every tokenizer that is built;
_WORDS: Final = r"(?<=[^\W\d_]) (?=[^\W\d_])"
# after a line that ends with other than a space, where a letter follows;
_LINES: Final = r"(?<=\S\n)(?=[^\W\d_])"
# and between signs, or two ideographs, each of which is a word in WordPiece.
_SIGNS: Final = (
    r"(?<=[!-/:;=?@\\^`{}~])(?=[!-/:;=?@\\^`{}~\w])|(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])"
)
CUTS: Final = {
    "bert": re.compile(f"{_WORDS}|{_LINES}|{_SIGNS}"),
    "gpt2": re.compile(f"{_WORDS}|{_LINES}"),
    "t5": re.compile(_WORDS),
}


def no_check() -> None:
    """Let the work go on."""


def are_short(texts: Sequence[str]) -> bool:
    """Whether *texts* are tokenized on the event loop."""
    return len(texts) <= INLINE_TEXTS and sum(map(len, texts)) <= INLINE_CHARACTERS


def group_slices(texts: Sequence[str], *, cuts: re.Pattern[str] | None) -> Iterator[list[Slice]]:
    """Slices of all texts, in order, for one call each.

    Args:
        texts: Lone surrogates in them become U+FFFD.
        cuts: Where a long text may be cut, one of `CUTS`; None is nowhere, unless it has to be.
    """
    call: list[Slice] = []
    characters = 0
    for index, text in enumerate(texts):
        for start, part in _slice(text, cuts):
            # Slice by slice: on a whole text it would hold the interpreter's lock for long.
            call.append((index, start, replace_surrogates(part)))
            characters += len(part)
            if characters >= CALL_CHARACTERS or len(call) >= CALL_TEXTS:
                yield call
                call, characters = [], 0
    if call:
        yield call


def replace_surrogates(text: str) -> str:
    """*text* with U+FFFD for every lone surrogate, which UTF-8 cannot express."""
    return text if text.isascii() else _SURROGATES.sub(_REPLACEMENT, text)


def _slice(text: str, cuts: re.Pattern[str] | None) -> Iterator[tuple[int, str]]:
    """Parts of *text* and where they begin."""
    start = 0
    while len(text) - start > SLICE_CHARACTERS:
        longest = min(start + LONGEST_SLICE, len(text))
        match = cuts.search(text, start + SLICE_CHARACTERS, longest) if cuts else None
        end = match.start() if match else longest
        yield start, text[start:end]
        start = end
    if start < len(text) or not text:
        yield start, text[start:]
