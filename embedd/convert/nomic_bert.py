"""Nomic BERT (nomic-embed-text v1, v1.5): rotary positions and a gated feed-forward network."""

from collections.abc import Iterator
from typing import Final

from embedd.convert.graph import Expected, Graph, layer_norm, matrix
from embedd.convert.hyperparameters import (
    Accepted,
    Config,
    check_values,
    read_heads,
    read_positive,
    read_size,
)
from embedd.errors import ConversionError

_ACCEPTED: Final[Accepted] = {
    "activation_function": ("swiglu",),
    "causal": (False, None),
    "prenorm": (False,),
    "qkv_proj_bias": (False,),
    "mlp_fc1_bias": (False,),
    "mlp_fc2_bias": (False,),
    "rotary_emb_fraction": (1.0, 1),
    "rotary_emb_interleaved": (False, None),
    "rotary_emb_scale_base": (None,),
    "use_rms_norm": (False, None),
    "parallel_block": (False, None),
}


def make_graph(config: Config) -> Graph:
    """The graph of *config*.

    Raises:
        ConversionError: An option that llama.cpp does not compute.
    """
    if config.get("moe_every_n_layers"):
        raise ConversionError(
            "config.json has moe_every_n_layers: llama.cpp leaves out the bias that this model "
            "adds after its experts, so that vectors would not be the checkpoint's: it is not "
            "converted"
        )
    check_values(config, _ACCEPTED)
    width, inner = read_size(config, "n_embd"), read_size(config, "n_inner")
    layers, vocabulary = read_size(config, "n_layer"), read_size(config, "vocab_size")
    types = read_size(config, "type_vocab_size", default=2)
    positions = read_size(config, "n_positions")
    # The reference scales positions beyond those that it was trained with, llama.cpp does not.
    context = min(positions, read_size(config, "max_trained_positions", default=positions))
    return Graph(
        title="Nomic BERT",
        architecture="nomic-bert",
        context_length=context,
        embedding_length=width,
        vocabulary_size=vocabulary,
        token_types=types,
        values={
            "block_count": layers,
            "context_length": context,
            "embedding_length": width,
            "feed_forward_length": inner,
            "attention.head_count": read_heads(config, "n_embd", "n_head"),
            "attention.layer_norm_epsilon": read_positive(config, "layer_norm_epsilon", 1e-12),
            "attention.causal": False,
            "rope.freq_base": read_positive(config, "rotary_emb_base", 10_000.0),
        },
        expected=lambda: _expected(width, inner, layers, vocabulary, types),
        rename=_rename,
    )


def _rename(name: str) -> str | None:
    """A tensor's name in a plain model; None for the head of the pre-training."""
    plain = name.removeprefix("bert.")
    return None if plain.startswith(("cls.", "pooler.")) else plain


def _expected(
    width: int, inner: int, layers: int, vocabulary: int, types: int
) -> Iterator[Expected]:
    yield matrix("embeddings.word_embeddings", "token_embd", (vocabulary, width))
    yield matrix("embeddings.token_type_embeddings", "token_types", (types, width), exact=True)
    yield from layer_norm("emb_ln", "token_embd_norm", width)
    for layer in range(layers):
        source, target = f"encoder.layers.{layer}", f"blk.{layer}"
        yield matrix(f"{source}.attn.Wqkv", f"{target}.attn_qkv", (3 * width, width))
        yield matrix(f"{source}.attn.out_proj", f"{target}.attn_output", (width, width))
        yield matrix(f"{source}.mlp.fc11", f"{target}.ffn_up", (inner, width))
        yield matrix(f"{source}.mlp.fc12", f"{target}.ffn_gate", (inner, width))
        yield matrix(f"{source}.mlp.fc2", f"{target}.ffn_down", (width, inner))
        yield from layer_norm(f"{source}.norm1", f"{target}.attn_output_norm", width)
        yield from layer_norm(f"{source}.norm2", f"{target}.layer_output_norm", width)
