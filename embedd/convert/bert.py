"""BERT: its sizes from ``config.json``, and the place of each tensor in the GGUF."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from embedd.convert.tensors import StoredTensor
from embedd.errors import ConversionError


@dataclass(frozen=True, slots=True, kw_only=True)
class BertConfig:
    """Sizes of a BERT, named after the GGUF keys.

    Args:
        context_length: Rows of the position matrix, the maximum length of a sequence.
        labels: One per score of a cross-encoder; empty for an embedding model.
    """

    embedding_length: int
    block_count: int
    head_count: int
    feed_forward_length: int
    context_length: int
    vocabulary_size: int
    token_types: int
    layer_norm_epsilon: float
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetTensor:
    """A tensor of the GGUF and where its values are stored; the shape stays the same.

    *exact* tensors stay float32 whatever the weight type.
    """

    name: str
    exact: bool
    source: StoredTensor


# A tensor that a BERT must have: name in the checkpoint, name in the GGUF, shape, exact
_Expected: TypeAlias = tuple[str, str, tuple[int, ...], bool]

# What the graph of llama.cpp computes: key → accepted values, None where the key may be absent
_REQUIRED: Mapping[str, tuple[object, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", None),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
}
_LAYER_MATRICES = (
    ("attention.self.query", "attn_q", "width", "width"),
    ("attention.self.key", "attn_k", "width", "width"),
    ("attention.self.value", "attn_v", "width", "width"),
    ("attention.output.dense", "attn_output", "width", "width"),
    ("intermediate.dense", "ffn_up", "inner", "width"),
    ("output.dense", "ffn_down", "width", "inner"),
)
_LAYER_NORMS = (
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("output.LayerNorm", "layer_output_norm"),
)


def parse_config(config: Mapping[str, object], *, scores: bool) -> BertConfig:
    """The sizes in *config*; with *scores* also the labels of a cross-encoder.

    Raises:
        ConversionError: Another architecture, or an option that llama.cpp does not compute.
    """
    for key, accepted in _REQUIRED.items():
        if config.get(key) not in accepted:
            wanted = " or ".join(repr(value) for value in accepted if value is not None)
            raise ConversionError(
                f"config.json has {key} {config.get(key)!r}: only {wanted} is converted"
            )
    width, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if width % heads:
        raise ConversionError(
            f"config.json: hidden_size {width} is not a multiple of {heads} heads"
        )
    return BertConfig(
        embedding_length=width,
        block_count=_size(config, "num_hidden_layers"),
        head_count=heads,
        feed_forward_length=_size(config, "intermediate_size"),
        context_length=_size(config, "max_position_embeddings"),
        vocabulary_size=_size(config, "vocab_size"),
        token_types=_size(config, "type_vocab_size", default=2),
        layer_norm_epsilon=_epsilon(config),
        labels=_labels(config) if scores else (),
    )


def choose_tensors(
    config: BertConfig, stored: Mapping[str, StoredTensor]
) -> tuple[TargetTensor, ...]:
    """All tensors of the GGUF, in its order, each from its place in the checkpoint.

    Raises:
        ConversionError: A tensor is missing, has another shape than *config* says, or
            is one that an encoder (or cross-encoder) does not have.
    """
    sources = _renamed(stored, keep_pooler=bool(config.labels))
    targets: list[TargetTensor] = []
    for name, target, shape, exact in _expected(config):
        source = sources.pop(name, None)
        if source is None:
            raise ConversionError(f"the checkpoint has no tensor {name!r}")
        if source.shape != shape:
            raise ConversionError(
                f"tensor {source.name!r} has shape {list(source.shape)}, "
                f"by config.json it must have {list(shape)}"
            )
        targets.append(TargetTensor(name=target, exact=exact, source=source))
    if sources:
        unknown = min(source.name for source in sources.values())
        raise ConversionError(f"tensor {unknown!r} has no place in a BERT of this kind")
    return tuple(targets)


def _renamed(stored: Mapping[str, StoredTensor], *, keep_pooler: bool) -> dict[str, StoredTensor]:
    """Tensors by their names in a plain ``BertModel``, without those that are not converted."""
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        plain = name.removeprefix("bert.")
        if plain == "embeddings.position_ids" or plain.startswith("cls."):
            continue
        if plain.startswith("pooler.") and not keep_pooler:
            continue
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            if plain.endswith(old):
                plain = plain.removesuffix(old) + new
        if plain in renamed:
            raise ConversionError(
                f"tensors {renamed[plain].name!r} and {name!r} are both {plain!r}"
            )
        renamed[plain] = tensor
    return renamed


def _expected(config: BertConfig) -> Iterator[_Expected]:
    """Every tensor; lazily, so that an absurd number of layers costs nothing before the first."""
    width = config.embedding_length
    sizes = {"width": width, "inner": config.feed_forward_length}
    for part, target, rows, exact in (
        ("word_embeddings", "token_embd", config.vocabulary_size, False),
        ("position_embeddings", "position_embd", config.context_length, True),
        ("token_type_embeddings", "token_types", config.token_types, True),
    ):
        yield _matrix(f"embeddings.{part}", target, (rows, width), exact=exact)
    yield from _norm("embeddings.LayerNorm", "token_embd_norm", width)
    for layer in range(config.block_count):
        block = f"encoder.layer.{layer}"
        for part, target, rows_of, columns_of in _LAYER_MATRICES:
            shape = (sizes[rows_of], sizes[columns_of])
            yield from _dense(f"{block}.{part}", f"blk.{layer}.{target}", shape, exact=False)
        for part, target in _LAYER_NORMS:
            yield from _norm(f"{block}.{part}", f"blk.{layer}.{target}", width)
    if config.labels:
        yield from _dense("pooler.dense", "cls", (width, width), exact=True)
        yield from _dense("classifier", "cls.output", (len(config.labels), width), exact=True)


def _matrix(source: str, target: str, shape: tuple[int, int], *, exact: bool) -> _Expected:
    return f"{source}.weight", f"{target}.weight", shape, exact


def _vector(source: str, target: str, length: int) -> _Expected:
    return source, target, (length,), True


def _dense(source: str, target: str, shape: tuple[int, int], *, exact: bool) -> Iterator[_Expected]:
    yield _matrix(source, target, shape, exact=exact)
    yield _vector(f"{source}.bias", f"{target}.bias", shape[0])


def _norm(source: str, target: str, width: int) -> Iterator[_Expected]:
    yield _vector(f"{source}.weight", f"{target}.weight", width)
    yield _vector(f"{source}.bias", f"{target}.bias", width)


def _size(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = config.get(key, default)
    if type(value) is not int or not 0 < value < 2**31:
        raise ConversionError(f"config.json has {key} {value!r}: it must be a positive integer")
    return value


def _epsilon(config: Mapping[str, object]) -> float:
    value = config.get("layer_norm_eps", 1e-12)  # the default of the reference implementation
    if type(value) is not float or not (math.isfinite(value) and value > 0):
        raise ConversionError(f"config.json has layer_norm_eps {value!r}: it must be positive")
    return value


def _labels(config: Mapping[str, object]) -> tuple[str, ...]:
    """The scores' names in their order, from ``id2label``."""
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels:
        ordered = [labels.get(str(index)) for index in range(len(labels))]
        if all(isinstance(label, str) for label in ordered):
            return tuple(str(label) for label in ordered)
    raise ConversionError(
        f"config.json has id2label {labels!r}: a cross-encoder needs a label for each score"
    )
