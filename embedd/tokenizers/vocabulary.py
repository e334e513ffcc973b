"""The values of a GGUF that describe its tokenizer, read with bounds.

The keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#tokenizer. Defaults of what
a file leaves out are llama.cpp's (`llama_vocab::impl::load` in src/llama-vocab.cpp).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from embedd.gguf.arrays import read_raw_arrays
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.gguf.reader import Scalar
from embedd.tokenizers.failures import TokenizerError

MAX_TOKENS: Final = 1_000_000
MAX_MERGES: Final = 2_000_000
MAX_TEXT_BYTES: Final = 64 << 20  # of all tokens, of all merges, of the charsmap

_PREFIX: Final = "tokenizer.ggml."
_TEMPLATE: Final = "tokenizer.chat_template.rerank"
_LIMITS: Final[Mapping[str, int]] = {
    "tokens": MAX_TOKENS,
    "token_type": MAX_TOKENS,
    "scores": MAX_TOKENS,
    "merges": MAX_MERGES,
    "precompiled_charsmap": MAX_TEXT_BYTES,
}
# The types that llama.cpp accepts for each array
_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    "tokens": ("string",),
    "token_type": ("int32", "uint32"),
    "scores": ("float32", "int32"),
    "merges": ("string",),
    "precompiled_charsmap": ("int8", "uint8"),
}
# Model → ids of BOS, EOS, UNK and SEP where the file names none
_DEFAULT_IDS: Final[Mapping[str, tuple[int | None, int | None, int | None, int | None]]] = {
    "bert": (101, None, 100, 102),
    "t5": (None, 1, 2, None),
    "gpt2": (11, 11, None, None),
    "llama": (1, 2, 0, None),
}


class TokenType(IntEnum):
    """``llama_token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """What a GGUF says of its tokenizer.

    Args:
        model: ``tokenizer.ggml.model``: ``bert``, ``t5``, ``gpt2``, ``llama`` …
        pre: ``tokenizer.ggml.pre``, empty where the file has none.
        tokens: By id; every one is different from the others.
        types: `TokenType` by id.
        scores: Log probabilities by id; 0 where the file has none.
        merges: In the order of their rank, two parts with a space between them.
        charsmap: SentencePiece's compiled normalization, empty where there is none.
        bos: Id of the token before a text, None where there is none; `eos`, `sep`, `unk`,
            `pad` and `mask` likewise.
        add_bos: Whether `bos` is put before a text; None where the file does not say.
            `add_eos` and `add_sep` likewise.
        pair_template: The text around ``{query}`` and ``{document}``, if the file has one.
    """

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float32]
    merges: tuple[str, ...]
    charsmap: bytes
    bos: int | None
    eos: int | None
    sep: int | None
    unk: int | None
    pad: int | None
    mask: int | None
    add_bos: bool | None
    add_eos: bool | None
    add_sep: bool | None
    lowercase: bool | None
    strip_accents: bool | None
    add_space_prefix: bool
    remove_extra_whitespaces: bool
    pair_template: str | None

    def ids_of(self, *types: TokenType) -> list[int]:
        """Ids of the tokens that have one of *types*, in order."""
        ids: list[int] = np.flatnonzero(np.isin(self.types, types)).tolist()
        return ids


def read_vocabulary(path: Path) -> Vocabulary:
    """Read the vocabulary of the GGUF at *path*; of a split one, its first file.

    Every count and length is checked before anything of that size is made.

    Raises:
        TokenizerError: There is no vocabulary, it is beyond a limit, or it contradicts itself.
        ModelLoadError: The file is not a usable GGUF.
    """
    facts = read_header_file(path)
    _check_arrays(facts)
    arrays = read_raw_arrays(path, [_PREFIX + name for name in _LIMITS])
    numbers = {key.removeprefix(_PREFIX): data for key, data in arrays.numbers.items()}
    tokens = _decode(arrays.strings, "tokens", "token")
    _check_different(tokens)
    values = facts.metadata
    model = str(values.get(f"{_PREFIX}model", ""))
    bos, eos, unk, sep = _DEFAULT_IDS.get(model, (None, None, None, None))
    roles = {
        "bos": _id(values, "bos_token_id", bos, len(tokens)),
        "eos": _id(values, "eos_token_id", eos, len(tokens)),
        "unk": _id(values, "unknown_token_id", unk, len(tokens)),
        # The key is misspelt in the format itself.
        "sep": _id(values, "seperator_token_id", sep, len(tokens)),
        "mask": _id(values, "mask_token_id", None, len(tokens)),
    }
    return Vocabulary(
        model=model,
        pre=str(values.get(f"{_PREFIX}pre", "")),
        tokens=tokens,
        types=_read_types(numbers.get("token_type"), len(tokens), roles.values()),
        scores=_read_scores(numbers.get("scores"), facts, len(tokens)),
        merges=_decode(arrays.strings, "merges", "merge"),
        charsmap=numbers.get("precompiled_charsmap", b""),
        **roles,
        pad=_id(values, "padding_token_id", None, len(tokens)),
        add_bos=_flag(values, "add_bos_token"),
        add_eos=_flag(values, "add_eos_token"),
        add_sep=_flag(values, "add_sep_token"),
        lowercase=_flag(values, "normalizer.lowercase"),
        strip_accents=_flag(values, "normalizer.strip_accents"),
        add_space_prefix=_flag(values, "add_space_prefix") is True,
        remove_extra_whitespaces=_flag(values, "remove_extra_whitespaces") is True,
        pair_template=template if isinstance(template := values.get(_TEMPLATE), str) else None,
    )


def _check_arrays(facts: GgufFacts) -> None:
    """Check lengths and types of the arrays before any of them is read."""
    if not facts.arrays.get(f"{_PREFIX}tokens"):
        raise TokenizerError("the GGUF has no tokens: convert the model with its vocabulary")
    for name, limit in _LIMITS.items():
        length = facts.arrays.get(f"{_PREFIX}{name}", 0)
        if length > limit:
            raise TokenizerError(f"{length} elements in {name}, at most {limit}", limit=limit)
        kind = facts.array_types.get(f"{_PREFIX}{name}")
        if kind is not None and kind not in _TYPES[name]:
            wanted = " or ".join(_TYPES[name])
            raise TokenizerError(f"{name} is an array of {kind}, not of {wanted}")


def _decode(strings: Mapping[str, list[bytes]], name: str, what: str) -> tuple[str, ...]:
    """The array *name*, each of whose elements is *what*; nothing if the file has none."""
    texts = strings.get(_PREFIX + name, [])
    if (size := sum(map(len, texts))) > MAX_TEXT_BYTES:
        raise TokenizerError(
            f"{size} bytes in {name}, at most {MAX_TEXT_BYTES}", limit=MAX_TEXT_BYTES
        )
    try:
        return tuple([text.decode() for text in texts])
    except UnicodeDecodeError:
        index = next(index for index, text in enumerate(texts) if not _is_utf8(text))
        raise TokenizerError(f"{what} {index} is not UTF-8: {texts[index]!r:.80}") from None


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_different(tokens: tuple[str, ...]) -> None:
    """Check that no token occurs twice; empty ones are never matched and may."""
    if len({*tokens}) == len(tokens):
        return
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if token and seen.setdefault(token, index) != index:
            raise TokenizerError(f"the token {token!r:.80} has the ids {seen[token]} and {index}")


def _read_types(
    data: bytes | None, count: int, roles: Iterable[int | None]
) -> npt.NDArray[np.uint8]:
    """`TokenType` by id; without any, the tokens that have a role are control tokens."""
    types = np.full(count, TokenType.NORMAL, np.uint8)
    if data is None:
        types[[role for role in roles if role is not None]] = TokenType.CONTROL
        return types
    found = np.frombuffer(data, "<i4")
    if len(found) < count:
        raise TokenizerError(f"{len(found)} token types for {count} tokens")
    known = (found >= 0) & (found <= max(TokenType))
    types[:] = np.where(known, found, TokenType.UNDEFINED)[:count]
    return types


def _read_scores(data: bytes | None, facts: GgufFacts, count: int) -> npt.NDArray[np.float32]:
    if data is None:
        return np.zeros(count, np.float32)
    dtype = "<f4" if facts.array_types[f"{_PREFIX}scores"] == "float32" else "<i4"
    scores = np.frombuffer(data, dtype).astype(np.float32)
    if len(scores) < count:
        raise TokenizerError(f"{len(scores)} scores for {count} tokens")
    if not np.isfinite(scores[:count]).all():
        raise TokenizerError("the scores of tokens are not all finite numbers")
    return scores[:count]


def _id(values: Mapping[str, Scalar], key: str, default: int | None, count: int) -> int | None:
    """The id under *key*, else *default*, as far as the vocabulary has them."""
    for id_ in (values.get(f"{_PREFIX}{key}"), default):
        if type(id_) is int and 0 <= id_ < count:
            return id_
    return None


def _flag(values: Mapping[str, Scalar], key: str) -> bool | None:
    value = values.get(f"{_PREFIX}{key}")
    return value if isinstance(value, bool) else None
