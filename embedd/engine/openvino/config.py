"""Hyperparameters of a graph, as the keys of a GGUF have them."""

from dataclasses import dataclass

from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphConfig:
    """Hyperparameters that every model has.

    Args:
        heads: Of queries.
        key_heads: Of keys and values; each serves as many heads of queries as another.
        head_width: Width of one head.
        rms: Whether norms divide by the root of the mean square, without centring.
        causal: Whether a token attends only to itself and those before.
    """

    width: int
    heads: int
    key_heads: int
    head_width: int
    layers: int
    feed_forward: int
    context_length: int
    vocabulary: int
    epsilon: float
    rms: bool
    causal: bool

    @property
    def groups(self) -> int:
        """Heads of queries that share one head of keys and values."""
        return self.heads // self.key_heads


def read_encoder_config(gguf: Gguf) -> GraphConfig:
    """Return the hyperparameters of an encoder with layer norms and a head of keys for each.

    Raises:
        UnsuitableError: A key is missing, or has a value that such an encoder cannot have.
    """
    config = _read(gguf, rms=False, causal=False)
    gguf.expect("attention.head_count_kv", config.heads)
    gguf.expect("attention.key_length", config.width // config.heads)
    gguf.expect("attention.causal", False)  # noqa: FBT003 - what the file must say, switches nothing
    return config


def read_grouped_config(gguf: Gguf, *, causal: bool | None = None) -> GraphConfig:
    """Return the hyperparameters of a model with RMS norms and grouped heads.

    Args:
        causal: As llama.cpp decides for the architecture; None where the file does.

    Raises:
        UnsuitableError: A key is missing, or has a value that such a model cannot have.
    """
    said = gguf.boolean("attention.causal", default=True)
    return _read(gguf, rms=True, causal=said if causal is None else causal)


def _read(gguf: Gguf, *, rms: bool, causal: bool) -> GraphConfig:
    width, heads = gguf.integer("embedding_length"), gguf.integer("attention.head_count")
    key_heads = gguf.integer("attention.head_count_kv", heads)
    if not heads or width % heads:
        raise UnsuitableError(f"{heads} heads do not divide a width of {width}")
    if not key_heads or heads % key_heads:
        raise UnsuitableError(f"{key_heads} heads of keys do not divide {heads} of queries")
    head_width = gguf.integer("attention.key_length", width // heads)
    gguf.expect("attention.value_length", head_width)
    norm = "attention.layer_norm_rms_epsilon" if rms else "attention.layer_norm_epsilon"
    return GraphConfig(
        width=width,
        heads=heads,
        key_heads=key_heads,
        head_width=head_width,
        layers=gguf.integer("block_count"),
        feed_forward=gguf.integer("feed_forward_length"),
        context_length=gguf.integer("context_length"),
        vocabulary=gguf.count_rows("token_embd.weight"),
        epsilon=gguf.number(norm),
        rms=rms,
        causal=causal,
    )
