"""ModernBERT: rotary positions, windows of attention, normalization before each part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from embedd.convert.graph import Expected, Graph, Value, dense, matrix, vector
from embedd.convert.hyperparameters import (
    SLIDING,
    Accepted,
    Config,
    check_layer_types,
    check_values,
    read_heads,
    read_labels,
    read_positive,
    read_rope_base,
    read_size,
)
from embedd.types import Pooling

_ACCEPTED: Final[Accepted] = {
    "hidden_activation": ("gelu", "silu", None),
    "norm_bias": (False, None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
}
_ACCEPTED_HEAD: Final[Accepted] = {
    "classifier_activation": ("gelu", None),
    "classifier_bias": (False, None),
    "classifier_pooling": ("cls", "mean", None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    width: int
    inner: int
    layers: int
    vocabulary: int
    labels: tuple[str, ...]


def make_graph(config: Config, *, scores: bool) -> Graph:
    """The graph of *config*; with *scores* that of a cross-encoder.

    Raises:
        ConversionError: An option that llama.cpp does not compute.
    """
    check_values(config, _ACCEPTED)
    sizes = _Sizes(
        width=read_size(config, "hidden_size"),
        inner=read_size(config, "intermediate_size"),
        layers=read_size(config, "num_hidden_layers"),
        vocabulary=read_size(config, "vocab_size"),
        labels=read_labels(config) if scores else (),
    )
    positions = read_size(config, "max_position_embeddings")
    every = read_size(config, "global_attn_every_n_layers", default=3)
    check_layer_types(config, sizes.layers, is_full=lambda layer: layer % every == 0)
    values: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": positions,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.inner,
        "attention.head_count": read_heads(config, "hidden_size", "num_attention_heads"),
        "attention.layer_norm_epsilon": read_positive(config, "norm_eps", 1e-5),
        "attention.causal": False,
        "attention.sliding_window": read_size(config, "local_attention", default=128),
        "attention.sliding_window_pattern": every,
        "rope.freq_base": read_rope_base(config, "global_rope_theta", 160_000.0),
        "rope.freq_base_swa": read_rope_base(config, "local_rope_theta", 10_000.0, layers=SLIDING),
        "rope.scaling.type": "none",
        "vocab_size": sizes.vocabulary,
        "hidden_activation": str(config.get("hidden_activation") or "gelu"),
    }
    if scores:
        check_values(config, _ACCEPTED_HEAD)
        pooled = Pooling.MEAN if config.get("classifier_pooling") == "mean" else Pooling.CLS
        values["classifier.pooling_type"] = {Pooling.MEAN: 1, Pooling.CLS: 2}[pooled]
    return Graph(
        title="ModernBERT",
        architecture="modern-bert",
        context_length=positions,
        embedding_length=sizes.width,
        vocabulary_size=sizes.vocabulary,
        token_types=None,
        labels=sizes.labels,
        values=values,
        expected=lambda: _expected(sizes),
        rename=lambda name: _rename(name, keep_head=scores),
    )


def _rename(name: str, *, keep_head: bool) -> str | None:
    """A tensor's name in a plain ``ModernBertModel``; None for heads of other tasks."""
    plain = name.removeprefix("model.")
    if plain.startswith("decoder.") or (plain.startswith("head.") and not keep_head):
        return None
    return plain


def _expected(sizes: _Sizes) -> Iterator[Expected]:
    width, inner = sizes.width, sizes.inner
    yield matrix("embeddings.tok_embeddings", "token_embd", (sizes.vocabulary, width))
    yield vector("embeddings.norm.weight", "token_embd_norm.weight", width)
    yield vector("final_norm.weight", "output_norm.weight", width)
    for layer in range(sizes.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        if layer:  # the first is normalised by that of the embeddings
            yield vector(f"{source}.attn_norm.weight", f"{target}.attn_norm.weight", width)
        yield matrix(f"{source}.attn.Wqkv", f"{target}.attn_qkv", (3 * width, width))
        yield matrix(f"{source}.attn.Wo", f"{target}.attn_output", (width, width))
        yield vector(f"{source}.mlp_norm.weight", f"{target}.ffn_norm.weight", width)
        yield matrix(f"{source}.mlp.Wi", f"{target}.ffn_up", (2 * inner, width))
        yield matrix(f"{source}.mlp.Wo", f"{target}.ffn_down", (width, inner))
    if sizes.labels:
        yield matrix("head.dense", "cls", (width, width), exact=True)
        yield vector("head.norm.weight", "cls.norm.weight", width)
        yield from dense("classifier", "cls.output", (len(sizes.labels), width), exact=True)
