"""The files of a checkpoint's tokenizer, and what all kinds of tokenizers have in them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from embedd.convert.files import read_optional_object
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import TokenType

TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "tokenizer_config.json"
SPECIAL: Final = "special_tokens_map.json"

Object: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerFiles:
    """A tokenizer's files, as they are.

    Args:
        tokenizer: ``tokenizer.json``; empty where there is none.
        config: ``tokenizer_config.json``, likewise.
        names: Role (``pad_token`` …) → token, of the config and ``special_tokens_map.json``.
    """

    folder: Path
    tokenizer: Object
    config: Object
    names: Object

    @property
    def model(self) -> Object:
        """The ``model`` of ``tokenizer.json``; empty where there is none."""
        model = self.tokenizer.get("model")
        return model if isinstance(model, dict) else {}

    def role(self, name: str) -> str | None:
        """The token with the role *name* (``pad``, ``sep`` …), None where there is none."""
        token = self.names.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        return text if isinstance(text, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedToken:
    """A token that is found in texts before they are cut into words.

    Args:
        lstrip: Whether it takes the spaces before it.
    """

    id: int
    text: str
    special: bool
    lstrip: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Ids around a text, and between the two of a pair; None for a pair that is not described."""

    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    middle: tuple[int, ...] | None = None


def read_tokenizer_files(folder: Path) -> TokenizerFiles:
    """Read the files in *folder*, none of which must exist.

    Raises:
        ConversionError: One of them is not a JSON object, or too large.
    """
    config = read_optional_object(folder / CONFIG)
    return TokenizerFiles(
        folder=folder,
        tokenizer=read_optional_object(folder / TOKENIZER),
        config=config,
        names={**read_optional_object(folder / SPECIAL), **config},
    )


def read_added(files: TokenizerFiles) -> list[AddedToken]:
    """All added tokens.

    Raises:
        ConversionError: One has no id or text, or is looked for in a way that a GGUF cannot
            say.
    """
    return [_to_added(*entry) for entry in _iterate_added(files)]


def merge_added(
    pieces: dict[int, str], added: Sequence[AddedToken], *, size: int
) -> dict[int, TokenType]:
    """Add the added tokens to *pieces*; return the types of their ids.

    Raises:
        ConversionError: An id has two tokens, or is not below *size*.
    """
    types: dict[int, TokenType] = {}
    for token in added:
        if pieces.get(token.id, token.text) != token.text:
            raise ConversionError(
                f"id {token.id} is both {pieces[token.id]!r} and the added {token.text!r}"
            )
        pieces[token.id] = token.text
        types[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    check_size(pieces, size)
    return types


def check_size(pieces: Mapping[int, str], size: int) -> None:
    """Raise if an id is not below *size*, the rows of the embedding matrix."""
    if pieces and max(pieces) >= size:
        raise ConversionError(
            f"the vocabulary goes up to id {max(pieces)}, config.json has vocab_size {size}"
        )


def invert(pieces: Mapping[int, str]) -> dict[str, int]:
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


def read_ids(vocabulary: object) -> dict[int, str]:
    """Id → token of a ``vocab`` that maps tokens to ids.

    Raises:
        ConversionError: It does not, or two tokens have the same id.
    """
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    if not isinstance(vocabulary, dict) or not all(type(id_) is int and id_ >= 0 for id_ in ids):
        raise ConversionError(f"{TOKENIZER} has no vocab from tokens to ids")
    if len(set(ids)) < len(ids):
        raise ConversionError(f"{TOKENIZER} gives two tokens the same id")
    return {id_: text for text, id_ in vocabulary.items()}


def fill(pieces: Mapping[int, str], size: int) -> Iterator[tuple[int, str | None, str]]:
    """Ids 0 … *size* - 1, their tokens, and names for those that have none."""
    for id_ in range(size):
        yield id_, pieces.get(id_), f"[PAD{id_}]"


def steps(step: object, parts: str) -> list[Object]:
    """The steps of a part of ``tokenizer.json``: a ``Sequence`` is as many as its *parts*."""
    if step is None:
        return []
    if isinstance(step, dict) and step.get("type") == "Sequence":
        inner = step.get(parts)
        if isinstance(inner, list) and all(isinstance(one, dict) for one in inner):
            return inner
    elif isinstance(step, dict):
        return [step]
    raise ConversionError(f"{TOKENIZER} has the step {step!r:.200}, which is not understood")


def read_frame(files: TokenizerFiles) -> Frame:
    """What the ``post_processor`` puts around texts.

    Raises:
        ConversionError: It is of a kind that is not known, or puts more than one token
            before or after a text.
    """
    found = Frame()
    for step in steps(files.tokenizer.get("post_processor"), "processors"):
        kind = step.get("type")
        if kind == "ByteLevel":
            continue
        if found != Frame() or not isinstance(kind, str) or kind not in _FRAMES:
            raise ConversionError(f"{TOKENIZER} has the post_processor {kind!r}: {_ONLY}")
        found = _FRAMES[kind](step)
    if len(found.prefix) > 1 or len(found.suffix) > 1:
        raise ConversionError(
            f"{TOKENIZER} puts the ids {[*found.prefix]} before and {[*found.suffix]} after a "
            "text: at most one each is converted"
        )
    return found


def _iterate_added(files: TokenizerFiles) -> Iterator[tuple[object, Object]]:
    """Id and description of each added token, unchecked."""
    listed = files.tokenizer.get("added_tokens")
    for entry in listed if isinstance(listed, list) else []:
        if isinstance(entry, dict):
            yield entry.get("id"), entry
    decoder = files.config.get("added_tokens_decoder")
    for key, entry in decoder.items() if isinstance(decoder, dict) else []:
        if isinstance(entry, dict):
            yield int(key) if key.isdecimal() and len(key) < 10 else key, entry


def _to_added(id_: object, entry: Object) -> AddedToken:
    text = entry.get("content")
    if type(id_) is not int or not isinstance(text, str) or id_ < 0:
        raise ConversionError(f"the tokenizer adds token {text!r} with id {id_!r}")
    for flag in ("rstrip", "single_word"):
        if entry.get(flag) is True:
            raise ConversionError(
                f"the tokenizer looks for {text!r} with {flag}, which a GGUF cannot say"
            )
    return AddedToken(
        id=id_,
        text=text,
        special=entry.get("special") is True,
        lstrip=entry.get("lstrip") is True,
    )


def _frame_of_template(step: Object) -> Frame:
    special = step.get("special_tokens")
    ids = special if isinstance(special, dict) else {}
    single, pair = _parts(step.get("single"), ids), _parts(step.get("pair"), ids)
    if len(single) != 2:
        raise ConversionError(f"{TOKENIZER} has a post_processor without one place for a text")
    middle = pair[1] if len(pair) == 3 and (pair[0], pair[2]) == (single[0], single[1]) else None
    return Frame(prefix=single[0], suffix=single[1], middle=middle)


def _parts(template: object, special: Object) -> list[tuple[int, ...]]:
    """The ids before, between and after the texts of a template."""
    parts: list[tuple[int, ...]] = [()]
    for entry in template if isinstance(template, list) else []:
        match entry:
            case {"Sequence": _}:
                parts.append(())
            case {"SpecialToken": {"id": str(name)}}:
                token = special.get(name)
                ids = token.get("ids") if isinstance(token, dict) else None
                if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
                    raise ConversionError(f"{TOKENIZER} frames texts by {name!r}, which has no id")
                parts[-1] += tuple(ids)
            case _:
                raise ConversionError(f"{TOKENIZER} has {entry!r:.200} in its post_processor")
    return parts


def _frame_of_pairs(step: Object) -> Frame:
    """`BertProcessing` and `RobertaProcessing`, which puts two separators between texts."""
    match step:
        case {"cls": [str(_), int(cls)], "sep": [str(_), int(sep)]}:
            middle = (sep, sep) if step.get("type") == "RobertaProcessing" else (sep,)
            return Frame(prefix=(cls,), suffix=(sep,), middle=middle)
    raise ConversionError(f"{TOKENIZER} has a post_processor without cls and sep")


_FRAMES: Final = {
    "TemplateProcessing": _frame_of_template,
    "BertProcessing": _frame_of_pairs,
    "RobertaProcessing": _frame_of_pairs,
}
_ONLY: Final = f"only one of {', '.join(_FRAMES)}, and ByteLevel, are converted"
