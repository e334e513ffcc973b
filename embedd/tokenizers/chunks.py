"""Windows of a long text's tokens, which end where the text has a natural break."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.types import Offsets

Ranks: TypeAlias = npt.NDArray[np.int8]

# Characters that are looked at together: numpy needs some 40 bytes for each.
SLICE_CHARACTERS: Final = 1 << 18

# Kinds of places between two tokens, the better ones higher
WITHIN_CHARACTER, WITHIN_WORD, WORD, SENTENCE, PARAGRAPH = -1, 0, 1, 2, 3

_SPACES: Final = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_LINE_ENDS: Final = "\n\v\f\x85\u2028"
_PARAGRAPH_ENDS: Final = "\u2029"
_SENTENCE_ENDS: Final = ".!?…:;։؟۔।॥።။។៕‽⁇⁈⁉。！？．｡︒།"
# After these a sentence ends although no space follows
_FULL_WIDTH_ENDS: Final = "。！？｡︒"
_CLOSERS: Final = "\"')]}»›”’」』）】》〉〕"
_NO_SPACE: Final = re.compile(f"[^{re.escape(_SPACES)}]")

# Bits of `_KINDS`
_SPACE, _LINE, _PARAGRAPH, _END, _FULL_WIDTH_END, _CLOSER = (1 << bit for bit in range(6))


def _make_kinds() -> npt.NDArray[np.uint8]:
    """For each character what it is; all beyond the table are as its last one, which is none."""
    table = np.zeros(1 << 16, np.uint8)
    for kind, letters in (
        (_SPACE, _SPACES),
        (_LINE, _LINE_ENDS),
        (_PARAGRAPH, _PARAGRAPH_ENDS),
        (_END, _SENTENCE_ENDS),
        (_FULL_WIDTH_END, _FULL_WIDTH_ENDS),
        (_CLOSER, _CLOSERS),
    ):
        table[[*map(ord, letters)]] |= kind
    return table


_KINDS: Final = _make_kinds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A window of a text.

    Args:
        start: Its first character.
        end: The character after its last.
        first: Index of its first token, without the tokens that frame a text.
        last: Index of the token after its last.
    """

    start: int
    end: int
    first: int
    last: int

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return self.last - self.first


def split_tokens(text: str, offsets: Offsets, *, size: int, overlap: int = 0) -> Iterator[Chunk]:
    """Cut the tokens of *text* into windows of at most *size*.

    Windows follow each other without a gap and cover every character: what lies between two
    tokens belongs to the window before it. A window ends at the last end of a paragraph in
    its second half, else of a sentence there, else of a word, else between two characters,
    and only if one character has more than *size* tokens within it. The next one begins up
    to *overlap* tokens before that end, at the beginning of a word if there is one, and never
    within a character.

    Args:
        text: What was tokenized.
        offsets: Where in it each token stands, as `ModelTokenizer.locate` gives them.
        size: Most tokens of a window, at least 1.
        overlap: Most tokens that a window has in common with the one before it, less than
            *size*.

    Returns:
        At least one window; of a text without tokens one that has none. Each is cut when it is
        asked for, so that a caller may stop at any number of them.

    Raises:
        ValueError: *size* and *overlap* do not fit.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"windows of {size} tokens cannot overlap by {overlap}")
    if len(offsets) <= size:
        return iter((Chunk(start=0, end=len(text), first=0, last=len(offsets)),))
    places, ranks = _rank_places(text, offsets)
    return (
        Chunk(start=int(places[first]), end=int(places[last]), first=first, last=last)
        for first, last in _split(ranks, size=size, overlap=overlap)
    )


def weigh_chunks(chunks: Sequence[Chunk]) -> npt.NDArray[np.float32]:
    """What each window counts for in the mean of a text's windows: its share of all tokens.

    They sum to 1; shape (windows,).
    """
    tokens = np.array([chunk.tokens for chunk in chunks], np.float32)
    total = tokens.sum()
    return tokens / total if total else np.full(len(chunks), 1 / max(1, len(chunks)), np.float32)


def _split(ranks: Ranks, *, size: int, overlap: int) -> Iterator[tuple[int, int]]:
    """First token and the one after the last, of each window."""
    count = len(ranks) - 1
    first = last = 0
    while count - first > size:
        # Beyond the window before it, so that every window brings something new.
        end = _choose_end(ranks, first=first, lowest=max(first, last) + 1, highest=first + size)
        if ranks[end] == WITHIN_CHARACTER and first < last:
            first = last  # more room for the character, at the price of the overlap
            continue
        yield first, end
        first, last = _choose_start(ranks, end, earliest=max(first + 1, end - overlap)), end
    yield first, count


def _choose_end(ranks: Ranks, *, lowest: int, first: int, highest: int) -> int:
    """The best place for a window to end, within *lowest* and *highest*."""
    middle = max(lowest, (first + highest + 1) // 2)
    for rank in (PARAGRAPH, SENTENCE, WORD):
        found = np.flatnonzero(ranks[middle : highest + 1] >= rank)
        if len(found):
            return middle + int(found[-1])
    for rank in (WORD, WITHIN_WORD):
        found = np.flatnonzero(ranks[lowest : highest + 1] >= rank)
        if len(found):
            return lowest + int(found[-1])
    return highest


def _choose_start(ranks: Ranks, last: int, *, earliest: int) -> int:
    """Where the window after one that ends at *last* begins: there, if no place is better."""
    for rank in (WORD, WITHIN_WORD):
        found = np.flatnonzero(ranks[earliest:last] >= rank)
        if len(found):
            return earliest + int(found[0])
    return last


def _rank_places(text: str, offsets: Offsets) -> tuple[npt.NDArray[np.int32], Ranks]:
    """For each place before, between and after the tokens: its character and its kind.

    A place within a character stands behind it.
    """
    starts = np.maximum.accumulate(offsets[1:, 0])
    ends = np.maximum.accumulate(offsets[:-1, 1])
    between = np.minimum(np.maximum(starts, ends), len(text))
    ranks = np.where(starts < ends, WITHIN_CHARACTER, _rank_characters(text)[between])
    outer = np.array([PARAGRAPH], np.int8)
    return (
        np.concatenate(([0], between, [len(text)]), dtype=np.int32),
        np.concatenate((outer, ranks.astype(np.int8), outer)),
    )


def _rank_characters(text: str) -> Ranks:
    """For each place between characters what a window that ends there ends with."""
    ranks = np.zeros(len(text) + 1, np.int8)
    start = 0
    while start < len(text):
        end = _find_slice_end(text, start + SLICE_CHARACTERS)
        # One character more: it says whether a sentence ends with the first of the slice.
        before, first = max(0, start - 1), start + 1 if start else 0
        ranks[first : end + 1] = _rank_slice(text[before:end])[first - before :]
        start = end
    return ranks


def _find_slice_end(text: str, at_least: int) -> int:
    """Where a slice may end without dividing a run of spaces, unless that is a slice itself."""
    match = _NO_SPACE.search(text, at_least, at_least + SLICE_CHARACTERS)
    return match.start() if match else min(at_least + SLICE_CHARACTERS, len(text))


def _rank_slice(text: str) -> Ranks:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _KINDS[np.minimum(codes, len(_KINDS) - 1)]
    edges = np.zeros(len(kinds) + 2, np.int8)
    edges[1:-1] = kinds & _SPACE
    steps = np.diff(edges)
    starts, ends = np.flatnonzero(steps > 0), np.flatnonzero(steps < 0)
    ranks = _rank_runs(kinds, starts, ends)
    # A change of a running total at each end of a run of spaces: no loop over characters.
    changes = np.zeros(len(kinds) + 2, np.int8)
    changes[starts] += ranks
    changes[ends + 1] -= ranks
    result = np.cumsum(changes[:-1], dtype=np.int8)
    after = np.flatnonzero(kinds & _FULL_WIDTH_END) + 1
    result[after] = np.maximum(result[after], SENTENCE)
    return result


def _rank_runs(
    kinds: npt.NDArray[np.uint8], starts: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]
) -> Ranks:
    """What each run of spaces separates: paragraphs, sentences (or lines), words."""
    lines = (kinds & _LINE > 0).astype(np.int32)
    lines += 2 * (kinds & _PARAGRAPH > 0)
    totals = np.zeros(len(lines) + 1, np.int32)
    np.cumsum(lines, out=totals[1:])
    breaks = totals[ends] - totals[starts]
    before = kinds[np.maximum(starts - 1, 0)]
    closed = kinds[np.maximum(starts - 2, 0)]
    ended = (before & _END > 0) | ((before & _CLOSER > 0) & (closed & _END > 0))
    ranks = np.where((breaks > 0) | ended, SENTENCE, WORD)
    return np.where(breaks > 1, PARAGRAPH, ranks).astype(np.int8)
