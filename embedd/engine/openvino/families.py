"""Graphs of the architectures that this engine supports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from embedd.engine.openvino import blocks, decoders, encoders
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig, read_encoder_config, read_grouped_config
from embedd.engine.openvino.heads import add_heads
from embedd.engine.openvino.library import make_model
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError
from embedd.types import Pooling

Build = Callable[[Gguf, GraphInputs, GraphConfig], Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFamily:
    """How the graph of an architecture is built.

    Args:
        read_config: Reads the hyperparameters.
        build: Returns the hidden states of all tokens.
    """

    read_config: Callable[[Gguf], GraphConfig] = read_encoder_config
    build: Build


def build_graph(gguf: Gguf, pooling: Pooling) -> Any:
    """Return the graph of a file: token ids and lengths in, token and pooled vectors out.

    Raises:
        UnsuitableError: The file has an architecture, tensor or setting that this engine does
            not support.
    """
    architecture = gguf.facts.architecture
    if architecture not in FAMILIES:
        raise UnsuitableError(f"architecture {architecture} is not supported by this engine")
    family = FAMILIES[architecture]
    inputs, config = blocks.make_inputs(), family.read_config(gguf)
    hidden = family.build(gguf, inputs, config)
    tokens, pooled = add_heads(hidden, gguf, inputs, config, pooling=pooling)
    gguf.check_all_used()
    return make_model([tokens, pooled], [inputs.ids, inputs.lengths])


QWEN: Final = GraphFamily(read_config=read_grouped_config, build=decoders.build_qwen)
FAMILIES: Final[Mapping[str, GraphFamily]] = {
    "bert": GraphFamily(build=encoders.build_bert),
    "eurobert": QWEN,
    "gemma-embedding": GraphFamily(
        # llama.cpp computes it without a direction, whatever the file says.
        read_config=partial(read_grouped_config, causal=False),
        build=decoders.build_gemma,
    ),
    "gemma3": GraphFamily(read_config=read_grouped_config, build=decoders.build_gemma),
    "jina-bert-v2": GraphFamily(build=encoders.build_jina_bert_v2),
    "jina-bert-v3": GraphFamily(build=encoders.build_jina_bert_v3),
    "modern-bert": GraphFamily(build=encoders.build_modern_bert),
    "nomic-bert": GraphFamily(build=encoders.build_nomic_bert),
    "nomic-bert-moe": GraphFamily(build=encoders.build_nomic_bert_moe),
    "qwen2": QWEN,
    "qwen3": QWEN,
}
