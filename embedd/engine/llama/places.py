"""Places of llama.cpp's tokens in a text: the library gives ids alone."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedd.types import Offsets, TokenPiece

# A piece is looked for in so many characters after the end of the one before. The window
# doubles with every piece that is not found, as long as all that was looked at in vain is less
# than so many times the text: the time is linear in it, whatever it says.
LOOK_AHEAD: Final = 64
IN_VAIN: Final = 16

# Pieces that stand for text that the vocabulary cannot express
UNKNOWN: Final = frozenset({b"[UNK]", b"<unk>"})
# Marks, separators, controls: tokenizers drop or move them
_IGNORED: Final = "MZC"
_REPLACEMENT: Final = "\ufffd"


def find_places(text: str, pieces: Sequence[TokenPiece], *, by_words: bool = False) -> Offsets:
    """The first character of each of *pieces* in *text*, and the one after its last.

    Tokenizers that keep every byte are followed exactly; of those that lower letters or strip
    accents each piece is looked for where the one before ended. Pieces that are not found, and
    unknown ones, have the place of all that lies between their neighbours.

    Args:
        text: As it was tokenized, without special tokens around it.
        pieces: Of its tokens, in order.
        by_words: Whether the blanks before words are the tokenizer's, not the text's.
    """
    if by_words:
        return _search(text, pieces)
    data = text.encode("utf-8", "replace")
    joined = b"".join(piece.text for piece in pieces)
    for blank in (0, 1):  # some tokenizers put a blank before the text
        if joined == b" " * blank + data:
            return _count(data, [len(piece.text) for piece in pieces], blank)
    return _search(text, pieces)


def search_pieces(text: str, pieces: Sequence[str]) -> list[int]:
    """Where in *text* each piece begins after the one before; -1 where it is not found.

    Empty pieces are never found.
    """
    places: list[int] = []
    cursor, window, patience = 0, LOOK_AHEAD, IN_VAIN * len(text)
    for piece in pieces:
        end = min(cursor + len(piece) + window, len(text))
        place = text.find(piece, cursor, end) if piece else -1
        places.append(place)
        if place >= 0:
            cursor, window = place + len(piece), LOOK_AHEAD
        elif piece:
            patience -= end - cursor
            window = max(LOOK_AHEAD, min(2 * window, patience))
    return places


def _count(data: bytes, lengths: Sequence[int], blank: int) -> Offsets:
    """Places of pieces of so many bytes, which are *data* after a *blank*."""
    widths = np.array(lengths, np.int64)
    stops = np.cumsum(widths) - blank
    starts = np.maximum(stops - widths, 0)
    continues = np.zeros(len(data) + 1, np.bool_)
    continues[:-1] = (np.frombuffer(data, np.uint8) & 0xC0) == 0x80
    # Of each byte: how many characters begin before it.
    before = np.concatenate(([0], np.cumsum(~continues[:-1])))
    first = before[starts] - continues[starts]
    return np.stack((first, before[stops]), axis=1).astype(np.int32)


def _search(text: str, pieces: Sequence[TokenPiece]) -> Offsets:
    known = {letter: _fold(letter) for letter in {*text}}
    folded = "".join(map(known.__getitem__, text))
    origins = _find_origins(text, known)
    wanted = [
        "" if piece.text in UNKNOWN else _fold(piece.text.decode("utf-8", "replace"))
        for piece in pieces
    ]
    places = search_pieces(folded, wanted)
    offsets = np.empty((len(pieces), 2), np.int32)
    end = len(text)
    # From the last piece on: what is not found reaches up to the next that is.
    for index in range(len(pieces) - 1, -1, -1):
        place = places[index]
        if place >= 0:
            offsets[index] = origins[place], origins[place + len(wanted[index]) - 1] + 1
            end = int(offsets[index, 0])
        else:
            offsets[index] = -1, end
    _fill_gaps(text, offsets)
    return offsets


def _find_origins(text: str, known: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """For each character of the folded text, the character of *text* that it came from."""
    widths = np.fromiter((len(known[letter]) for letter in text), np.int64, len(text))
    return np.repeat(np.arange(len(text)), widths)


def _fill_gaps(text: str, offsets: Offsets) -> None:
    """Let every place without a beginning begin where the last one with it ended, but for blanks.

    All of one gap have the same place.
    """
    last, gap = 0, None
    for index, (start, stop) in enumerate(offsets.tolist()):
        if start >= 0:
            last, gap = stop, None
            continue
        if gap is None:
            gap = _strip(text, last, max(last, stop))
        offsets[index] = gap


def _strip(text: str, start: int, stop: int) -> tuple[int, int]:
    """The part of *text* from *start* to *stop* without the blanks around it."""
    part = text[start:stop]
    first = start + len(part) - len(part.lstrip())
    return first, max(first, start + len(part.rstrip()))


def _fold(text: str) -> str:
    """*text* as what tokenizers may change in it does not show: case, accents, blanks."""
    apart = unicodedata.normalize("NFKD", text.lower())
    return "".join(
        one for one in apart if one != _REPLACEMENT and unicodedata.category(one)[0] not in _IGNORED
    )
