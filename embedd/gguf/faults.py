"""What llama.cpp would compute wrongly, or end its process on, as a GGUF's header shows.

Found by comparing the pinned release with independent computations of each family.
"""

import math
from collections.abc import Mapping
from typing import Final, TypeAlias

from embedd.gguf.header import GgufFacts
from embedd.types import Pooling

# Architectures whose score heads llama.cpp reads.
SCORED: Final = frozenset({"bert", "jina-bert-v2", "modern-bert", "qwen3", "qwen3vl"})
# Architectures with dense layers after the pooling; one alone gives vectors of another width.
PROJECTED: Final = frozenset({"gemma-embedding", "gemma3"})
# Architectures whose attention window llama.cpp applies to the tokens before only: without
# causal attention, a token would see all that come after it.
WINDOWED: Final = frozenset(
    """
    afmoe cohere2 cohere2moe exaone-moe exaone4 gemma2 gemma3 gemma3n gemma4 gpt-oss granite_swa
    laguna lfm2 lfm2moe llama4 maple mellum mimo2 muse-glimmer olmo2 plamo3 smallthinker spark2_5
    step35
    """.split()  # noqa: SIM905 - as a list it would take 24 lines
)
HEAD, OUTPUT = "cls.weight", "cls.output.weight"
DENSE: Final = frozenset({"dense_2.weight", "dense_3.weight"})

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # row length first


def find_fault(facts: GgufFacts, pooling: Pooling | None) -> str | None:
    """Return why vectors or scores of the file would be wrong; None if nothing is known.

    Args:
        pooling: The pooling that it is used with; None for a language model.
    """
    shapes = {tensor.name: tensor.shape for tensor in facts.tensors}
    return (
        _check_order(facts, shapes)
        or _check_head(facts, shapes, pooling)
        or _check_dense(facts, shapes)
        or _check_window(facts)
        or _check_direction(facts, pooling)
    )


def lacks_dense_layers(facts: GgufFacts) -> bool:
    """Whether the file is an embeddinggemma without the two layers after its pooling."""
    names = {tensor.name for tensor in facts.tensors}
    return facts.architecture == "gemma-embedding" and DENSE.isdisjoint(names)


def _check_order(facts: GgufFacts, shapes: Shapes) -> str | None:
    """Look for matrices with rows in another order than llama.cpp takes them."""
    if facts.architecture == "neo-bert":
        return (
            "llama.cpp takes the heads of NeoBERT's attention in another order than the model "
            "has them: choose another model"
        )
    # Other models have the gate in the first half of ffn_up, as llama.cpp takes it, or have none.
    rows = shapes.get("blk.0.ffn_up.weight", (0, 0))[-1]
    is_code = facts.architecture == "jina-bert-v2" and "blk.0.attn_norm_2.weight" in shapes
    if is_code and rows != facts.feed_forward_length:
        return (
            "llama.cpp takes the wrong half of ffn_up for the gate of "
            "jina-embeddings-v2-base-code: choose a conversion with a tensor ffn_gate in each block"
        )
    return None


def _check_head(facts: GgufFacts, shapes: Shapes, pooling: Pooling | None) -> str | None:
    architecture = facts.architecture
    if facts.has_score_head and architecture not in SCORED:
        return f"llama.cpp computes no scores for the architecture {architecture}"
    if pooling is not Pooling.RANK:
        return None
    if not facts.has_score_head:
        return (
            "it has no score head (tensor cls.output.weight), so that its scores would be "
            "arbitrary numbers: choose a conversion of the reranker that has one"
        )
    # llama.cpp reads as many numbers per text as there are labels, whatever the head gives.
    last = shapes.get(OUTPUT) or shapes[HEAD]
    found, wanted = math.prod(last[1:]), max(1, facts.label_count)
    if found != wanted:
        return f"its score head gives {found} numbers for {wanted} labels: convert it again"
    return None


def _check_dense(facts: GgufFacts, shapes: Shapes) -> str | None:
    if facts.architecture not in PROJECTED or DENSE.isdisjoint(shapes):
        return None
    width = facts.embedding_length
    first, second = (shapes.get(name, ()) for name in sorted(DENSE))
    if len(first) == len(second) == 2 and (first[0], second[1]) == (width, width):
        return None if first[1] == second[0] else "its dense layers do not fit each other"
    return (
        "it must have the tensors dense_2.weight and dense_3.weight, from and to "
        f"{width} numbers, or none of the two: choose a conversion that is complete"
    )


def _check_window(facts: GgufFacts) -> str | None:
    architecture = facts.architecture
    if architecture not in WINDOWED:
        return None
    is_causal = facts.metadata.get(f"{architecture}.attention.causal", True)
    window = facts.metadata.get(f"{architecture}.attention.sliding_window", 0)
    if is_causal or not window or int(window) >= (facts.context_length or 0):
        return None
    return (
        f"its attention has no direction and a window of {window} tokens, which llama.cpp limits "
        f"on one side only in the architecture {architecture}"
    )


def _check_direction(facts: GgufFacts, pooling: Pooling | None) -> str | None:
    if facts.architecture != "gemma-embedding" or pooling is not Pooling.LAST:
        return None
    return (
        "it is pooled by its last token, as causal models are, but llama.cpp computes "
        "gemma-embedding without a direction, and its converter takes every text model of Gemma 3 "
        "for one: choose a conversion to the architecture gemma3"
    )
