"""BERT, RoBERTa and XLM-R: their sizes from ``config.json``, and their tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from embedd.convert.graph import Expected, Graph, Value, dense, layer_norm, matrix
from embedd.convert.hyperparameters import (
    Accepted,
    Config,
    check_values,
    read_heads,
    read_labels,
    read_positive,
    read_size,
)

ROBERTAS: Final = frozenset({"roberta", "xlm-roberta"})

_ACCEPTED: Final[Accepted] = {
    "hidden_act": ("gelu", None),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False, None),
    "add_cross_attention": (False, None),
    "lora_adaptations": (None,),
}
_LAYER_MATRICES: Final = (
    ("attention.self.query", "attn_q", "width", "width"),
    ("attention.self.key", "attn_k", "width", "width"),
    ("attention.self.value", "attn_v", "width", "width"),
    ("attention.output.dense", "attn_output", "width", "width"),
    ("intermediate.dense", "ffn_up", "inner", "width"),
    ("output.dense", "ffn_down", "width", "inner"),
)
_LAYER_NORMS: Final = (
    ("attention.output.LayerNorm", "attn_output_norm"),
    ("output.LayerNorm", "layer_output_norm"),
)
_OLD_NAMES: Final = ((".gamma", ".weight"), (".beta", ".bias"))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Of a BERT.

    Args:
        first_position: Row of the position matrix that the first token gets.
        positions: Rows from there on.
        head: Names of the matrices of a cross-encoder's head in the checkpoint.
    """

    width: int
    inner: int
    layers: int
    heads: int
    vocabulary: int
    token_types: int
    first_position: int
    positions: int
    labels: tuple[str, ...]
    head: tuple[str, str]


def make_graph(config: Config, *, scores: bool) -> Graph:
    """The graph of *config*; with *scores* that of a cross-encoder.

    Raises:
        ConversionError: An option that llama.cpp does not compute.
    """
    check_values(config, _ACCEPTED)
    sizes = _read_sizes(config, scores=scores)
    values: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": sizes.positions,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.inner,
        "attention.head_count": sizes.heads,
        "attention.layer_norm_epsilon": read_positive(config, "layer_norm_eps", 1e-12),
        "attention.causal": False,
    }
    return Graph(
        title="BERT",
        architecture="bert",
        context_length=sizes.positions,
        embedding_length=sizes.width,
        vocabulary_size=sizes.vocabulary,
        token_types=sizes.token_types,
        labels=sizes.labels,
        values=values,
        expected=lambda: _expected(sizes),
        rename=lambda name: _rename(name, keep_pooler=bool(sizes.labels)),
    )


def _read_sizes(config: Config, *, scores: bool) -> _Sizes:
    is_roberta = config.get("model_type") in ROBERTAS
    # RoBERTa's first position is the one after that of padding, which has its token's id.
    first = read_size(config, "pad_token_id", 1) + 1 if is_roberta else 0
    positions = read_size(config, "max_position_embeddings")
    return _Sizes(
        width=read_size(config, "hidden_size"),
        inner=read_size(config, "intermediate_size"),
        layers=read_size(config, "num_hidden_layers"),
        heads=read_heads(config, "hidden_size", "num_attention_heads"),
        vocabulary=read_size(config, "vocab_size"),
        token_types=read_size(config, "type_vocab_size", default=2),
        first_position=first,
        positions=read_size(
            {"max_position_embeddings": positions - first}, "max_position_embeddings"
        ),
        labels=read_labels(config) if scores else (),
        head=("classifier.dense", "classifier.out_proj")
        if is_roberta
        else ("pooler.dense", "classifier"),
    )


def _rename(name: str, *, keep_pooler: bool) -> str | None:
    """A tensor's name in a plain ``BertModel``; None for heads of other tasks."""
    plain = name.removeprefix("bert.").removeprefix("roberta.")
    if plain == "embeddings.position_ids" or plain.startswith(("cls.", "lm_head.")):
        return None
    if plain.startswith("pooler.") and not keep_pooler:
        return None
    for old, new in _OLD_NAMES:
        if plain.endswith(old):
            plain = plain.removesuffix(old) + new
    return plain


def _expected(sizes: _Sizes) -> Iterator[Expected]:
    width = sizes.width
    yield matrix("embeddings.word_embeddings", "token_embd", (sizes.vocabulary, width))
    yield Expected(
        source="embeddings.position_embeddings.weight",
        target="position_embd.weight",
        shape=(sizes.positions, width),
        exact=True,
        skipped_rows=sizes.first_position,
    )
    types = (sizes.token_types, width)
    yield matrix("embeddings.token_type_embeddings", "token_types", types, exact=True)
    yield from layer_norm("embeddings.LayerNorm", "token_embd_norm", width)
    lengths = {"width": width, "inner": sizes.inner}
    for layer in range(sizes.layers):
        block = f"encoder.layer.{layer}"
        for part, target, rows, columns in _LAYER_MATRICES:
            shape = (lengths[rows], lengths[columns])
            yield from dense(f"{block}.{part}", f"blk.{layer}.{target}", shape)
        for part, target in _LAYER_NORMS:
            yield from layer_norm(f"{block}.{part}", f"blk.{layer}.{target}", width)
    if sizes.labels:
        pooler, classifier = sizes.head
        yield from dense(pooler, "cls", (width, width), exact=True)
        yield from dense(classifier, "cls.output", (len(sizes.labels), width), exact=True)
