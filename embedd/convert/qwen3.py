"""Qwen3 as an embedding model: a causal decoder whose last token is the text's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from embedd.convert.graph import Expected, Graph, matrix, vector
from embedd.convert.hyperparameters import (
    Accepted,
    Config,
    check_layer_types,
    check_values,
    read_positive,
    read_rope_base,
    read_size,
)

_ACCEPTED: Final[Accepted] = {
    "hidden_act": ("silu", None),
    "attention_bias": (False, None),
    "use_sliding_window": (False, None),
    "is_causal": (True, None),
    "use_bidirectional_attention": (False, None),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int


def make_graph(config: Config) -> Graph:
    """The graph of *config*.

    Raises:
        ConversionError: An option that llama.cpp does not compute.
    """
    check_values(config, _ACCEPTED)
    heads = read_size(config, "num_attention_heads")
    sizes = _Sizes(
        width=read_size(config, "hidden_size"),
        inner=read_size(config, "intermediate_size"),
        layers=read_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=read_size(config, "num_key_value_heads", default=heads),
        head_width=read_size(config, "head_dim", default=128),
        vocabulary=read_size(config, "vocab_size"),
    )
    check_layer_types(config, sizes.layers, is_full=lambda _layer: True)
    positions = read_size(config, "max_position_embeddings")
    return Graph(
        title="Qwen3",
        architecture="qwen3",
        context_length=positions,
        embedding_length=sizes.width,
        vocabulary_size=sizes.vocabulary,
        token_types=None,
        values={
            "block_count": sizes.layers,
            "context_length": positions,
            "embedding_length": sizes.width,
            "feed_forward_length": sizes.inner,
            "attention.head_count": sizes.heads,
            "attention.head_count_kv": sizes.kv_heads,
            "attention.key_length": sizes.head_width,
            "attention.value_length": sizes.head_width,
            "attention.layer_norm_rms_epsilon": read_positive(config, "rms_norm_eps", 1e-6),
            "rope.freq_base": read_rope_base(config, "rope_theta", 10_000.0),
        },
        expected=lambda: _expected(sizes),
        rename=_rename,
    )


def _rename(name: str) -> str | None:
    """A tensor's name in a plain ``Qwen3Model``; None for the head of language models."""
    return None if name.startswith("lm_head.") else name.removeprefix("model.")


def _expected(sizes: _Sizes) -> Iterator[Expected]:
    width, inner = sizes.width, sizes.inner
    queries, keys = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    yield matrix("embed_tokens", "token_embd", (sizes.vocabulary, width))
    yield vector("norm.weight", "output_norm.weight", width)
    for layer in range(sizes.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        attention = f"{source}.self_attn"
        yield vector(f"{source}.input_layernorm.weight", f"{target}.attn_norm.weight", width)
        yield matrix(f"{attention}.q_proj", f"{target}.attn_q", (queries, width))
        yield matrix(f"{attention}.k_proj", f"{target}.attn_k", (keys, width))
        yield matrix(f"{attention}.v_proj", f"{target}.attn_v", (keys, width))
        yield matrix(f"{attention}.o_proj", f"{target}.attn_output", (width, queries))
        for part in "qk":
            norm = f"{attention}.{part}_norm.weight", f"{target}.attn_{part}_norm.weight"
            yield vector(*norm, sizes.head_width)
        after = f"{source}.post_attention_layernorm.weight"
        yield vector(after, f"{target}.ffn_norm.weight", width)
        yield matrix(f"{source}.mlp.gate_proj", f"{target}.ffn_gate", (inner, width))
        yield matrix(f"{source}.mlp.up_proj", f"{target}.ffn_up", (inner, width))
        yield matrix(f"{source}.mlp.down_proj", f"{target}.ffn_down", (width, inner))
