"""What tokens stand for: their names in a model of `tokenizers` as bytes of text."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from embedd.tokenizers.builders import WORD_START

_BYTE_NAME: Final = re.compile("<0x([0-9A-Fa-f]{2})>")
# What llama.cpp takes out of WordPiece's spaces (`clean_spaces` in src/llama-vocab.cpp)
_CLEANING: Final = (
    (re.compile(rb" ([?!.,])"), rb"\1"),
    (re.compile(rb" ' "), rb"'"),
    (re.compile(rb" '(s|m|re|ve)"), rb"'\1"),
)
# So many bytes are cleaned by one call, which holds the interpreter's lock, and twice as many where
# no place to cut is found.
_SLICE: Final = 1 << 16
_CUT: Final = re.compile(rb"(?<![ ']) ")  # in no match of those above, also after the first


def read_byte_token(name: str) -> bytes:
    """The byte of a token such as ``<0x0A>``; nothing if it is not one."""
    match = _BYTE_NAME.fullmatch(name)
    return bytes.fromhex(match[1]) if match else b""


def clean_wordpieces(text: bytes) -> bytes:
    """Take out the spaces that stand before punctuation, and the first one."""
    return b"".join(map(_clean, _slice(text))).removeprefix(b" ")


def _slice(text: bytes) -> Iterator[bytes]:
    start = 0
    while len(text) - start > _SLICE:
        longest = min(start + 2 * _SLICE, len(text))
        match = _CUT.search(text, start + _SLICE, longest)
        end = match.start() if match else longest
        yield text[start:end]
        start = end
    yield text[start:]


def _clean(text: bytes) -> bytes:
    for pattern, replacement in _CLEANING:
        text = pattern.sub(replacement, text)
    return text


def _from_wordpiece(name: str) -> bytes:
    return name[2:].encode() if name.startswith("##") else b" " + name.encode()


def _from_unigram(name: str) -> bytes:
    return name.replace(WORD_START, " ").encode()


def _from_byte_pairs(name: str) -> bytes:
    return b"".join(_BYTES.get(letter, letter.encode()) for letter in name)


def _list_bytes() -> dict[str, bytes]:
    """Letter → the byte that it stands for, as GPT-2 writes bytes (its src/encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + index): byte for index, byte in enumerate(others)}
    return {letter: bytes([byte]) for letter, byte in letters.items()}


_BYTES: Final = _list_bytes()
# Kind of the vocabulary → how the name of a normal token is read
TO_BYTES: Final[Mapping[str, Callable[[str], bytes]]] = {
    "bert": _from_wordpiece,
    "t5": _from_unigram,
    "gpt2": _from_byte_pairs,
}
