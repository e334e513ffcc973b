"""Unigram vocabularies (XLM-R's and kin), as ``tokenizer.json`` has them."""

import math
from base64 import b64decode
from typing import Final

import numpy as np

from embedd.convert.tokenizer_files import (
    TOKENIZER,
    Object,
    TokenizerFiles,
    merge_added,
    read_added,
    read_frame,
    steps,
)
from embedd.convert.words import find_mask, is_replacement, make_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import MAX_TEXT_BYTES, TokenType, Vocabulary

WORD_START: Final = "\u2581"


def read_unigram(files: TokenizerFiles, *, size: int) -> Vocabulary:
    """The vocabulary of *files*, padded to *size* ids.

    Raises:
        ConversionError: A step of the tokenizer is one that llama.cpp does not have, or the
            vocabulary is damaged.
    """
    charsmap = _read_charsmap(files.tokenizer)
    _check_words(files.tokenizer)
    model = files.model
    entries = _read_entries(model)
    pieces = {id_: piece for id_, (piece, _) in enumerate(entries)}
    unk = model.get("unk_id")
    if type(unk) is not int or not 0 <= unk < len(entries):
        raise ConversionError(f"{TOKENIZER} has unk_id {unk!r} for {len(entries)} tokens")
    added = read_added(files)
    types = merge_added(pieces, added, size=size) | {unk: TokenType.UNKNOWN}
    if model.get("byte_fallback") is True:
        bytes_ = {id_: TokenType.BYTE for id_, piece in pieces.items() if is_byte(piece)}
        types = bytes_ | types
    # An unknown character costs more than the lowest score, which spare ids must not lower.
    scores = np.full(size, min(score for _, score in entries), np.float32)
    scores[: len(entries)] = [score for _, score in entries]
    scores[[token.id for token in added if token.id >= len(entries)]] = 0.0
    return make_vocabulary(
        files,
        "t5",
        pieces,
        types,
        size=size,
        frame=read_frame(files),
        unk=unk,
        mask=find_mask(files, added),
        scores=scores,
        charsmap=charsmap,
        add_space_prefix=True,
        remove_extra_whitespaces=True,
    )


def is_byte(piece: str) -> bool:
    """Whether a token stands for one byte: ``<0x0A>``."""
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _read_entries(model: Object) -> list[tuple[str, float]]:
    """Tokens and their scores, by id."""
    listed = model.get("vocab")
    entries: list[tuple[str, float]] = []
    for id_, entry in enumerate(listed if isinstance(listed, list) else []):
        match entry:
            case [str(piece), int(score) | float(score)] if math.isfinite(score):
                entries.append((piece, float(score)))
            case _:
                raise ConversionError(f"{TOKENIZER} has {entry!r:.200} as token {id_}")
    if not entries:
        raise ConversionError(f"{TOKENIZER} has no vocab of tokens and scores")
    return entries


def _read_charsmap(tokenizer: Object) -> bytes:
    """The compiled normalization; beside it only spaces may be tidied, as llama.cpp does."""
    charsmap = b""
    for step in steps(tokenizer.get("normalizer"), "normalizers"):
        match step:
            case {"type": "Precompiled", "precompiled_charsmap": str(text)} if not charsmap:
                charsmap = _decode(text)
            case {"type": "Strip", "strip_left": _, "strip_right": True}:
                pass
            case _ if any(is_replacement(step, " {2,}", one) for one in (" ", WORD_START)):
                pass
            case _:
                raise ConversionError(
                    f"{TOKENIZER} has the normalizer {step.get('type')!r}: with a unigram model "
                    "only Precompiled and the removal of extra spaces are converted"
                )
    return charsmap


def _decode(text: str) -> bytes:
    try:
        charsmap = b64decode(text, validate=True)
    except ValueError as error:
        raise ConversionError(f"{TOKENIZER} has a charsmap that is not base64: {error}") from error
    size = int.from_bytes(charsmap[:4], "little")
    if not 4 <= size + 4 < len(charsmap) <= MAX_TEXT_BYTES:
        raise ConversionError(
            f"{TOKENIZER} has a charsmap of {len(charsmap)} bytes that begins with the length "
            f"{size}: it is damaged"
        )
    return charsmap


def _check_words(tokenizer: Object) -> None:
    """Check that words are cut at white space and get a mark before them."""
    words = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in words]
    if kinds not in (["Metaspace"], ["WhitespaceSplit", "Metaspace"]):
        raise ConversionError(
            f"{TOKENIZER} has the pre_tokenizer {kinds}: with a unigram model only Metaspace, "
            "with or without WhitespaceSplit, is converted"
        )
    mark = words[-1]
    scheme = mark.get("prepend_scheme", "always" if mark.get("add_prefix_space") else "never")
    found = (mark.get("replacement"), scheme, mark.get("split", True))
    if found != (WORD_START, "always", True):
        raise ConversionError(
            f"{TOKENIZER} has a Metaspace with replacement, prepend_scheme and split {found}: "
            f"only {(WORD_START, 'always', True)} is converted"
        )
