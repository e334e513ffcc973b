"""WordPiece vocabularies, with tokens written as llama.cpp expects them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

from embedd.convert.files import read_optional_object
from embedd.errors import ConversionError

VOCABULARY: Final = "vocab.txt"
TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "tokenizer_config.json"
SPECIAL: Final = "special_tokens_map.json"

WORD_START: Final = "\u2581"
CONTINUATION: Final = "##"
# Others split words by rules that llama.cpp's WordPiece does not have.
TOKENIZER_CLASSES: Final = frozenset(
    {"BertTokenizer", "BertTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"}
)
# Parts of ``tokenizer.json`` and the type each must have
_PIPELINE: Final[Mapping[str, str]] = {
    "model": "WordPiece",
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


class TokenType(IntEnum):
    """The values of ``llama_token_type`` that WordPiece has."""

    NORMAL = 1
    CONTROL = 3
    UNUSED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Tokens by id, and the ids with a role.

    Args:
        tokens: As llama.cpp writes them: word starts are marked, continuations are not.
        strip_accents: None means the same as *lowercase*.
    """

    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    lowercase: bool
    strip_accents: bool | None


def read_vocabulary(folder: Path, *, size: int) -> Vocabulary:
    """The vocabulary of the checkpoint in *folder*, padded to *size* ids.

    Read from ``vocab.txt``, or from ``tokenizer.json`` if that is missing.

    Raises:
        ConversionError: Files are missing, contradict each other or need something that
            llama.cpp's WordPiece does not do, or a token occurs twice.
    """
    config = read_optional_object(folder / CONFIG)
    tokenizer = read_optional_object(folder / TOKENIZER)
    normalizer = _check_pipeline(config, tokenizer)
    pieces = _read_pieces(folder, tokenizer)
    names = {**read_optional_object(folder / SPECIAL), **config}
    roles = {role: _text(names.get(f"{role}_token")) or default for role, default in _ROLES.items()}
    control = set(roles.values()) | _merge_added(pieces, config, tokenizer)
    if max(pieces) >= size:
        raise ConversionError(
            f"the vocabulary goes up to id {max(pieces)}, config.json has vocab_size {size}"
        )
    ids = _inverted(pieces)
    for name in roles.values():
        if name not in ids:
            raise ConversionError(f"the vocabulary lacks the special token {name!r}")
    tokens, types = _to_llama(pieces, control=control, size=size)
    return Vocabulary(
        tokens=tokens,
        types=types,
        lowercase=_flag("do_lower_case", config, "lowercase", normalizer) is not False,
        strip_accents=_flag("strip_accents", config, "strip_accents", normalizer),
        **{role: ids[name] for role, name in roles.items()},
    )


def _check_pipeline(
    config: Mapping[str, object], tokenizer: Mapping[str, object]
) -> Mapping[str, object]:
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


def _read_pieces(folder: Path, tokenizer: Mapping[str, object]) -> dict[int, str]:
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


def _parse_model(model: Mapping[str, object]) -> dict[int, str]:
    """Id → token of ``tokenizer.json``."""
    prefix = model.get("continuing_subword_prefix", CONTINUATION)
    if prefix != CONTINUATION:
        raise ConversionError(f"{TOKENIZER} marks continuations by {prefix!r}, not {CONTINUATION}")
    vocabulary = model.get("vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if not isinstance(vocabulary, dict) or not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise ConversionError(f"{TOKENIZER} has no vocab from tokens to ids")
    if len(set(ids)) < len(ids):
        raise ConversionError(f"{TOKENIZER} gives two tokens the same id")
    return {id_: text for text, id_ in vocabulary.items()}


def _merge_added(
    pieces: dict[int, str], config: Mapping[str, object], tokenizer: Mapping[str, object]
) -> set[str]:
    """Add the added tokens to *pieces*; return the texts of the special ones."""
    special: set[str] = set()
    for id_, text, is_special in _added(config, tokenizer):
        if type(id_) is not int or not isinstance(text, str) or id_ < 0:
            raise ConversionError(f"the tokenizer adds token {text!r} with id {id_!r}")
        if pieces.get(id_, text) != text:
            raise ConversionError(f"id {id_} is both {pieces[id_]!r} and the added {text!r}")
        if is_special is True:
            special.add(text)
        elif id_ not in pieces:
            raise ConversionError(
                f"the tokenizer adds {text!r}, which is not special: WordPiece has no such tokens"
            )
        pieces[id_] = text
    return special


def _added(
    config: Mapping[str, object], tokenizer: Mapping[str, object]
) -> Iterator[tuple[object, object, object]]:
    """Id, text and ``special`` of each added token, unchecked."""
    listed = tokenizer.get("added_tokens")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            yield entry.get("id"), entry.get("content"), entry.get("special")
    decoder = config.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else []:
        if isinstance(entry, dict):
            id_ = int(key) if key.isdecimal() and len(key) < 10 else key
            yield id_, entry.get("content"), entry.get("special")


def _to_llama(
    pieces: Mapping[int, str], *, control: set[str], size: int
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Tokens and types of ids 0 … *size* - 1, written as llama.cpp expects them."""
    tokens: list[str] = []
    types: list[TokenType] = []
    for id_ in range(size):
        piece = pieces.get(id_)
        if piece is None:
            tokens.append(f"[PAD{id_}]")
            types.append(TokenType.UNUSED)
        elif piece in control:
            tokens.append(piece)
            types.append(TokenType.CONTROL)
        else:
            bare = piece.removeprefix(CONTINUATION)
            tokens.append(bare if bare != piece else WORD_START + piece)
            types.append(TokenType.NORMAL)
    _inverted(dict(enumerate(tokens)))
    return tuple(tokens), tuple(types)


def _inverted(pieces: Mapping[int, str]) -> dict[str, int]:
    """Token → id.

    Raises:
        ConversionError: A token occurs twice: llama.cpp ends the process on such a file.
    """
    ids: dict[str, int] = {}
    for id_, piece in pieces.items():
        if piece in ids:
            raise ConversionError(
                f"the vocabulary has {piece!r} twice, as id {ids[piece]} and as id {id_}"
            )
        ids[piece] = id_
    return ids


def _text(token: object) -> str | None:
    """The text of a token, which is a string or an object with ``content``."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _flag(
    key: str, config: Mapping[str, object], option: str, normalizer: Mapping[str, object]
) -> bool | None:
    """A flag of ``tokenizer_config.json``, else of the normalizer; None if neither has it."""
    for value in (config.get(key), normalizer.get(option)):
        if isinstance(value, bool):
            return value
    return None
