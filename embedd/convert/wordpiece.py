"""WordPiece vocabularies, with tokens written as llama.cpp expects them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from embedd.convert.tokenizer_files import (
    CONFIG,
    TOKENIZER,
    Frame,
    Object,
    TokenizerFiles,
    check_size,
    fill,
    invert,
    merge_added,
    read_added,
    read_frame,
    read_ids,
)
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import TokenType, Vocabulary

VOCABULARY: Final = "vocab.txt"

WORD_START: Final = "\u2581"
CONTINUATION: Final = "##"
# Others split words by rules that llama.cpp's WordPiece does not have.
TOKENIZER_CLASSES: Final = frozenset(
    {"BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"}
)
# Parts of ``tokenizer.json`` and the type each must have
_PIPELINE: Final[Mapping[str, str]] = {
    "normalizer": "BertNormalizer",
    "pre_tokenizer": "BertPreTokenizer",
}
_ROLES: Final[Mapping[str, str]] = {
    "pad": "[PAD]",
    "unk": "[UNK]",
    "cls": "[CLS]",
    "sep": "[SEP]",
    "mask": "[MASK]",
}


def read_wordpiece(files: TokenizerFiles, *, size: int) -> Vocabulary:
    """The vocabulary of *files*, padded to *size* ids.

    Read from ``vocab.txt``, or from ``tokenizer.json`` if that is missing.

    Raises:
        ConversionError: Files are missing, contradict each other or need something that
            llama.cpp's WordPiece does not do, or a token occurs twice.
    """
    normalizer = _check_pipeline(files.config, files.tokenizer)
    pieces = _read_pieces(files.folder, files.tokenizer)
    roles = {role: files.role(role) or default for role, default in _ROLES.items()}
    control = set(roles.values()) | _merge_special(pieces, files, size)
    ids = invert(pieces)
    for name in roles.values():
        if name not in ids:
            raise ConversionError(f"the vocabulary lacks the special token {name!r}")
    cls, sep = ids[roles["cls"]], ids[roles["sep"]]
    _check_frame(files, cls=cls, sep=sep)
    tokens, types = _to_llama(pieces, control=control, size=size)
    return Vocabulary(
        model="bert",
        pre="default",
        tokens=tokens,
        types=types,
        scores=np.zeros(size, np.float32),
        merges=(),
        charsmap=b"",
        bos=cls,
        eos=sep,
        sep=sep,
        unk=ids[roles["unk"]],
        pad=ids[roles["pad"]],
        mask=ids[roles["mask"]],
        add_bos=None,
        add_eos=None,
        add_sep=None,
        lowercase=_flag("do_lower_case", files.config, "lowercase", normalizer) is not False,
        strip_accents=_flag("strip_accents", files.config, "strip_accents", normalizer),
        add_space_prefix=False,
        remove_extra_whitespaces=False,
        pair_template=None,
    )


def _check_pipeline(config: Object, tokenizer: Object) -> Object:
    """The normalizer's options; raises if any step of the tokenizer is not BERT's."""
    kind = config.get("tokenizer_class")
    if kind is not None and kind not in TOKENIZER_CLASSES:
        raise ConversionError(f"{CONFIG} has tokenizer_class {kind!r}: only BERT's is converted")
    normalizer = tokenizer.get("normalizer")
    options = normalizer if isinstance(normalizer, dict) else {}
    if tokenizer:
        for part, wanted in _PIPELINE.items():
            found = tokenizer.get(part)
            kind = found.get("type", wanted) if isinstance(found, dict) else None
            if kind != wanted:
                raise ConversionError(
                    f"{TOKENIZER} has the {part} {kind!r}: only {wanted} is converted"
                )
    if _flag("tokenize_chinese_chars", config, "handle_chinese_chars", options) is False:
        raise ConversionError(
            f"{CONFIG} turns tokenize_chinese_chars off: llama.cpp always splits them"
        )
    return options


def _read_pieces(folder: Path, tokenizer: Object) -> dict[int, str]:
    """Id → token as the checkpoint writes it."""
    model = tokenizer.get("model")
    mapped = _parse_model(model) if isinstance(model, dict) else None
    if (folder / VOCABULARY).is_file():
        listed = _read_lines(folder / VOCABULARY)
        if mapped is not None and mapped != listed:
            raise ConversionError(f"{VOCABULARY} and {TOKENIZER} of {folder} list different tokens")
        return listed
    if not mapped:
        raise ConversionError(f"{folder} has neither {VOCABULARY} nor a vocabulary in {TOKENIZER}")
    return mapped


def _read_lines(path: Path) -> dict[int, str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConversionError(f"{path} is not UTF-8: {error}") from error
    return dict(enumerate(text.removesuffix("\n").split("\n")))


def _parse_model(model: Object) -> dict[int, str]:
    """Id → token of ``tokenizer.json``."""
    prefix = model.get("continuing_subword_prefix", CONTINUATION)
    if prefix != CONTINUATION:
        raise ConversionError(f"{TOKENIZER} marks continuations by {prefix!r}, not {CONTINUATION}")
    return read_ids(model.get("vocab"))


def _merge_special(pieces: dict[int, str], files: TokenizerFiles, size: int) -> set[str]:
    """Add the added tokens to *pieces*; return the texts of the special ones."""
    added = read_added(files)
    for token in added:
        if token.lstrip:
            raise ConversionError(
                f"the tokenizer looks for {token.text!r} with lstrip, which WordPiece cannot say"
            )
        if not token.special and token.id not in pieces:
            raise ConversionError(
                f"the tokenizer adds {token.text!r}, which is not special: WordPiece has no such "
                "tokens"
            )
    merge_added(pieces, added, size=size)
    check_size(pieces, size)
    return {token.text for token in added if token.special}


def _check_frame(files: TokenizerFiles, *, cls: int, sep: int) -> None:
    """Check that texts are framed as by BERT, where *files* say it."""
    if files.tokenizer.get("post_processor") is None:
        return
    frame = read_frame(files)
    if frame not in {
        Frame(prefix=(cls,), suffix=(sep,), middle=(sep,)),
        Frame(prefix=(cls,), suffix=(sep,)),
    }:
        raise ConversionError(
            f"{TOKENIZER} puts the ids {[*frame.prefix]} before and {[*frame.suffix]} after a "
            f"text: with WordPiece only {[cls]} and {[sep]} are converted"
        )


def _to_llama(
    pieces: Mapping[int, str], *, control: set[str], size: int
) -> tuple[tuple[str, ...], npt.NDArray[np.uint8]]:
    """Tokens and types of ids 0 … *size* - 1, written as llama.cpp expects them."""
    tokens: list[str] = []
    types = np.full(size, TokenType.NORMAL, np.uint8)
    for id_, piece, unused in fill(pieces, size):
        if piece is None:
            tokens.append(unused)
            types[id_] = TokenType.UNUSED
        elif piece in control:
            tokens.append(piece)
            types[id_] = TokenType.CONTROL
        else:
            bare = piece.removeprefix(CONTINUATION)
            tokens.append(bare if bare != piece else WORD_START + piece)
    invert(dict(enumerate(tokens)))
    return tuple(tokens), types


def _flag(key: str, config: Object, option: str, normalizer: Object) -> bool | None:
    """A flag of ``tokenizer_config.json``, else of the normalizer; None if neither has it."""
    for value in (config.get(key), normalizer.get(option)):
        if isinstance(value, bool):
            return value
    return None
