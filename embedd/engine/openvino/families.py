"""Graphs of the architectures that this engine supports."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from embedd.engine.openvino import blocks, decoders, encoders
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig, read_encoder_config, read_grouped_config
from embedd.engine.openvino.heads import add_heads, choose_pooling
from embedd.engine.openvino.library import make_model
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError
from embedd.types import Pooling

FIRST, LAST = "first", "last"  # names of a graph's third input

Build = Callable[[Gguf, GraphInputs, GraphConfig], Node]


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFamily:
    """How the graph of an architecture is built.

    Args:
        read_config: Reads the hyperparameters.
        build: Returns the hidden states of all tokens, or of those at `GraphInputs.kept`.
        narrows: Whether the last layer can do without the others.
    """

    read_config: Callable[[Gguf], GraphConfig] = read_encoder_config
    build: Build
    narrows: bool = False


def build_graph(gguf: Gguf, pooling: Pooling) -> Any:
    """Return the graph of a file: token ids and lengths in, token and pooled vectors out.

    If vectors are those of one token, the first or the last, it has a third input of that name:
    the positions (sequences, kept) of the tokens whose vectors are wanted. Pooled is the first.

    Raises:
        UnsuitableError: The file has an architecture, tensor or setting that this engine does
            not support.
    """
    architecture = gguf.facts.architecture
    if architecture not in FAMILIES:
        raise UnsuitableError(f"architecture {architecture} is not supported by this engine")
    family = FAMILIES[architecture]
    inputs, config = blocks.make_inputs(), family.read_config(gguf)
    name = ONE_TOKEN.get(choose_pooling(gguf, config, pooling))
    if family.narrows and name is not None:
        inputs = blocks.keep_tokens(inputs, name)
    hidden = family.build(gguf, inputs, config)
    tokens, pooled = add_heads(hidden, gguf, inputs, config, pooling=pooling)
    gguf.check_all_used()
    kept = [] if inputs.kept is None else [inputs.kept]
    return make_model([tokens, pooled], [inputs.ids, inputs.lengths, *kept])


def find_kept(graph: Any) -> str | None:
    """Return the name of a graph's third input, None if it has two."""
    names = [one.get_friendly_name() for one in graph.get_parameters()]
    return names[2] if len(names) > 2 else None


ONE_TOKEN: Final[Mapping[Pooling, str]] = {Pooling.CLS: FIRST, Pooling.LAST: LAST}
QWEN: Final = GraphFamily(read_config=read_grouped_config, build=decoders.build_qwen, narrows=True)
FAMILIES: Final[Mapping[str, GraphFamily]] = {
    "bert": GraphFamily(build=encoders.build_bert, narrows=True),
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
