"""EmbeddingGemma: Gemma 3 that attends both ways, and its Dense modules after pooling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from embedd.convert.graph import Expected, Graph, Value, matrix, vector
from embedd.convert.hyperparameters import (
    SLIDING,
    Accepted,
    Config,
    check_layer_types,
    check_values,
    read_positive,
    read_rope_base,
    read_size,
)
from embedd.convert.modules import DenseModule
from embedd.errors import ConversionError

# Without the Dense modules that it was trained with, its vectors would be others.
DENSE_MODULES: Final = 2

_ACCEPTED: Final[Accepted] = {
    "use_bidirectional_attention": (True,),
    "hidden_activation": ("gelu_pytorch_tanh", None),
    "attention_bias": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}
_NORMS: Final = (
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    dense: tuple[DenseModule, ...]


def make_graph(config: Config, *, modules: Sequence[DenseModule]) -> Graph:
    """The graph of *config* with the Dense *modules*, none or two.

    Raises:
        ConversionError: An option that llama.cpp does not compute.
    """
    check_values(config, _ACCEPTED)
    head_width = read_size(config, "head_dim", default=256)
    check_values(config, {"query_pre_attn_scalar": (head_width, float(head_width))})
    sizes = _Sizes(
        width=read_size(config, "hidden_size"),
        inner=read_size(config, "intermediate_size"),
        layers=read_size(config, "num_hidden_layers"),
        heads=read_size(config, "num_attention_heads"),
        kv_heads=read_size(config, "num_key_value_heads"),
        head_width=head_width,
        vocabulary=read_size(config, "vocab_size"),
        dense=tuple(modules),
    )
    _check_dense(sizes)
    pattern = read_size(config, "_sliding_window_pattern", default=6)
    check_layer_types(config, sizes.layers, is_full=lambda layer: (layer + 1) % pattern == 0)
    positions = read_size(config, "max_position_embeddings")
    values: dict[str, Value] = {
        "block_count": sizes.layers,
        "context_length": positions,
        "embedding_length": sizes.width,
        "feed_forward_length": sizes.inner,
        "attention.head_count": sizes.heads,
        "attention.head_count_kv": sizes.kv_heads,
        "attention.key_length": sizes.head_width,
        "attention.value_length": sizes.head_width,
        "attention.layer_norm_rms_epsilon": read_positive(config, "rms_norm_eps", 1e-6),
        "attention.sliding_window": read_size(config, "sliding_window"),
        "attention.sliding_window_pattern": pattern,
        "rope.freq_base": read_rope_base(config, "rope_theta", 1_000_000.0),
        "rope.freq_base_swa": read_rope_base(
            config, "rope_local_base_freq", 10_000.0, layers=SLIDING
        ),
    }
    for number, module in enumerate(sizes.dense, start=2):
        values[f"dense_{number}_feat_in"] = module.inputs
        values[f"dense_{number}_feat_out"] = module.outputs
    return Graph(
        title="EmbeddingGemma",
        architecture="gemma-embedding",
        context_length=positions,
        embedding_length=sizes.width,
        vocabulary_size=sizes.vocabulary,
        token_types=None,
        values=values,
        expected=lambda: _expected(sizes),
        rename=lambda name: name.removeprefix("model."),
    )


def _check_dense(sizes: _Sizes) -> None:
    """Check that the Dense modules follow each other and end at the model's width."""
    if not sizes.dense:
        return
    widths = [(module.inputs, module.outputs) for module in sizes.dense]
    if len(widths) != DENSE_MODULES:
        raise ConversionError(
            f"modules.json has {len(widths)} Dense modules: llama.cpp computes none or two"
        )
    (first, inner), (second, last) = widths
    if (first, inner, last) != (sizes.width, second, sizes.width):
        raise ConversionError(
            f"the Dense modules map {first} to {inner} and {second} to {last}: they must follow "
            f"each other and begin and end at hidden_size {sizes.width}"
        )


def _expected(sizes: _Sizes) -> Iterator[Expected]:
    width, inner = sizes.width, sizes.inner
    queries, keys = sizes.heads * sizes.head_width, sizes.kv_heads * sizes.head_width
    yield matrix("embed_tokens", "token_embd", (sizes.vocabulary, width))
    yield _norm("norm", "output_norm", width)
    for layer in range(sizes.layers):
        source, target = f"layers.{layer}", f"blk.{layer}"
        attention = f"{source}.self_attn"
        yield matrix(f"{attention}.q_proj", f"{target}.attn_q", (queries, width))
        yield matrix(f"{attention}.k_proj", f"{target}.attn_k", (keys, width))
        yield matrix(f"{attention}.v_proj", f"{target}.attn_v", (keys, width))
        yield matrix(f"{attention}.o_proj", f"{target}.attn_output", (width, queries))
        for part in "qk":
            yield _norm(f"{attention}.{part}_norm", f"{target}.attn_{part}_norm", sizes.head_width)
        for part, name in _NORMS:
            yield _norm(f"{source}.{part}", f"{target}.{name}", width)
        yield matrix(f"{source}.mlp.gate_proj", f"{target}.ffn_gate", (inner, width))
        yield matrix(f"{source}.mlp.up_proj", f"{target}.ffn_up", (inner, width))
        yield matrix(f"{source}.mlp.down_proj", f"{target}.ffn_down", (width, inner))
    for number, module in enumerate(sizes.dense, start=2):
        shape = (module.outputs, module.inputs)
        yield matrix(f"{module.name}.linear", f"dense_{number}", shape)


def _norm(source: str, target: str, length: int) -> Expected:
    """A normalization's weight, which the checkpoint stores without its one."""
    return vector(f"{source}.weight", f"{target}.weight", length, added=1.0)
