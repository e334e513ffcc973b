"""Places of tokens in their text, in bytes of UTF-8."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from embedd.types import TokenPiece


class Span(NamedTuple):
    """A part of a text: its first byte, and the one after its last."""

    start: int
    stop: int


def align(text: str, pieces: Sequence[TokenPiece]) -> list[Span | None]:
    """The span of each piece; None for special tokens, and for pieces that are not found.

    Tokenizers that keep every byte are followed exactly; of those that lower letters or
    strip accents each piece is looked for where the one before ended.
    """
    data = text.encode("utf-8", "replace")
    joined = b"".join(piece.text for piece in pieces if not piece.is_special)
    for blank in (0, 1):  # some tokenizers put a blank before the text
        if joined == b" " * blank + data:
            return _count(pieces, -blank)
    return _search(text, pieces)


def _count(pieces: Sequence[TokenPiece], start: int) -> list[Span | None]:
    spans: list[Span | None] = []
    for piece in pieces:
        if piece.is_special:
            spans.append(None)
            continue
        stop = start + len(piece.text)
        spans.append(Span(max(start, 0), stop))
        start = stop
    return spans


def _search(text: str, pieces: Sequence[TokenPiece]) -> list[Span | None]:
    folded, places = _fold_with_places(text)
    spans: list[Span | None] = []
    cursor = 0
    for piece in pieces:
        wanted = "" if piece.is_special else _fold(piece.text.decode("utf-8", "replace").strip())
        found = folded.find(wanted, cursor) if wanted else -1
        if found < 0:
            spans.append(None)
            continue
        cursor = found + len(wanted)
        spans.append(Span(places[found].start, places[cursor - 1].stop))
    return spans


def _fold_with_places(text: str) -> tuple[str, list[Span]]:
    """The text as `_fold` has it, and for each of its characters the span it came from."""
    folded: list[str] = []
    places: list[Span] = []
    start = 0
    for character in text:
        stop = start + len(character.encode("utf-8", "replace"))
        letters = _fold(character)
        folded.append(letters)
        places += [Span(start, stop)] * len(letters)
        start = stop
    return "".join(folded), places


def _fold(text: str) -> str:
    apart = unicodedata.normalize("NFD", text.lower())
    return "".join(one for one in apart if unicodedata.category(one) != "Mn")
