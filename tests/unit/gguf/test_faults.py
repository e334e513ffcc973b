"""A file whose vectors or scores would be wrong is recognised by its header, with the reason."""

import re

import pytest

from embedd.gguf.faults import PROJECTED, SCORED, WINDOWED, find_fault, lacks_dense_layers
from embedd.gguf.header import GgufFacts, TensorFacts
from embedd.gguf.reader import Scalar
from embedd.library.architectures import ARCHITECTURES
from embedd.types import Pooling

WIDTH = 32
Shapes = dict[str, tuple[int, ...]]


def make_facts(
    architecture: str, shapes: Shapes | None = None, *, labels: int = 0, **keys: Scalar
) -> GgufFacts:
    """Facts of a file of this width with 96 tokens of context, *keys* with ``_`` for a dot."""
    own: dict[str, Scalar] = {"context_length": 96, "embedding_length": WIDTH}
    own |= {key.replace("attention_", "attention."): value for key, value in keys.items()}
    return GgufFacts(
        version=3,
        metadata={
            "general.architecture": architecture,
            **{f"{architecture}.{key}": value for key, value in own.items()},
        },
        arrays={f"{architecture}.classifier.output_labels": labels} if labels else {},
        array_types={},
        tensors=tuple(
            TensorFacts(name=name, shape=shape, type="F32")
            for name, shape in (shapes or {}).items()
        ),
    )


CODE: Shapes = {"blk.0.attn_norm_2.weight": (WIDTH,), "blk.0.ffn_up.weight": (WIDTH, 128)}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (make_facts("neo-bert"), "heads of NeoBERT's attention in another order"),
        (make_facts("jina-bert-v2", CODE, feed_forward_length=64), "wrong half .* with a tensor"),
        (make_facts("jina-bert-v2", CODE, feed_forward_length=128), None),
        (make_facts("jina-bert-v2", {"blk.0.ffn_up.weight": (WIDTH, 128)}), None),
        (make_facts("bert", CODE, feed_forward_length=64), None),
    ],
)
def test_rows_in_another_order_than_llama_cpp_takes_them_are_recognised(
    facts: GgufFacts, message: str | None
) -> None:
    for pooling in (Pooling.MEAN, None):
        check(facts, pooling, message)


SQUARE: Shapes = {"cls.weight": (WIDTH, WIDTH)}
TWO: Shapes = {"cls.output.weight": (WIDTH, 2)}
ONE: Shapes = {"cls.output.weight": (WIDTH, 1)}


@pytest.mark.parametrize(
    ("facts", "pooling", "message"),
    [
        (make_facts("bert"), Pooling.MEAN, None),
        (make_facts("bert"), Pooling.RANK, "no score head .* arbitrary numbers"),
        (make_facts("qwen3", labels=2), Pooling.RANK, "no score head"),
        (make_facts("qwen3", TWO, labels=2), Pooling.RANK, None),
        (make_facts("bert", SQUARE | ONE), Pooling.RANK, None),
        (make_facts("bert", TWO), Pooling.RANK, "2 numbers for 1 labels"),
        (make_facts("bert", SQUARE), Pooling.RANK, "32 numbers for 1 labels"),
        (make_facts("bert", SQUARE), Pooling.MEAN, None),
        (make_facts("jina-bert-v2", {"cls.weight": (WIDTH, 1)}), Pooling.RANK, None),
        (make_facts("jina-bert-v2", {"cls.weight": (WIDTH,)}), Pooling.RANK, None),
        (make_facts("qwen2", TWO, labels=2), Pooling.RANK, "no scores for .* qwen2"),
        (make_facts("llama", ONE), None, "no scores for .* llama"),
    ],
)
def test_a_reranker_needs_a_head_that_llama_cpp_reads_whole(
    facts: GgufFacts, pooling: Pooling | None, message: str | None
) -> None:
    check(facts, pooling, message)


FIRST: Shapes = {"dense_2.weight": (WIDTH, 96)}
SECOND: Shapes = {"dense_3.weight": (96, WIDTH)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, None),
        (FIRST | SECOND, None),
        (FIRST, "dense_2.weight and dense_3.weight, from and to 32 numbers"),
        (SECOND, "or none of the two"),
        (FIRST | {"dense_3.weight": (64, WIDTH)}, "do not fit each other"),
        (FIRST | {"dense_3.weight": (96, 64)}, "from and to 32"),
        ({"dense_2.weight": (64, 96)} | SECOND, "from and to 32"),
    ],
)
@pytest.mark.parametrize("architecture", ["gemma-embedding", "gemma3"])
def test_dense_layers_are_complete_or_absent(
    architecture: str, shapes: Shapes, message: str | None
) -> None:
    check(make_facts(architecture, shapes), Pooling.MEAN, message)


def test_one_dense_layer_is_whole_where_it_makes_the_vector() -> None:
    check(make_facts("lfm2", FIRST), Pooling.MEAN, None)


@pytest.mark.parametrize(
    ("architecture", "shapes", "lacking"),
    [
        ("gemma-embedding", {}, True),
        ("gemma-embedding", FIRST | SECOND, False),
        ("gemma3", {}, False),
    ],
)
def test_an_embeddinggemma_without_dense_layers_is_recognised(
    architecture: str, shapes: Shapes, lacking: bool
) -> None:
    assert lacks_dense_layers(make_facts(architecture, shapes)) is lacking


@pytest.mark.parametrize(
    ("architecture", "causal", "window", "wrong"),
    [
        ("gemma3", False, 8, True),
        ("gemma3", True, 8, False),
        ("gemma3", False, 0, False),
        ("gemma3", False, 96, False),
        ("gemma3", False, 95, True),
        ("lfm2", False, 8, True),
        ("gemma-embedding", False, 8, False),
        ("modern-bert", False, 8, False),
        ("qwen3", False, 8, False),
    ],
)
def test_a_window_on_one_side_is_wrong_for_attention_without_a_direction(
    architecture: str, causal: bool, window: int, wrong: bool
) -> None:
    facts = make_facts(architecture, attention_causal=causal, attention_sliding_window=window)
    message = f"window of {window} tokens, .* {architecture}" if wrong else None
    check(facts, Pooling.MEAN, message)


def test_attention_is_causal_unless_the_file_says_otherwise() -> None:
    check(make_facts("gemma3", attention_sliding_window=8), Pooling.LAST, None)


def check(facts: GgufFacts, pooling: Pooling | None, message: str | None) -> None:
    fault = find_fault(facts, pooling)
    if message is None:
        assert fault is None
    else:
        assert fault is not None
        assert re.search(message, fault)


@pytest.mark.parametrize(
    ("architecture", "pooling", "message"),
    [
        ("gemma-embedding", Pooling.MEAN, None),
        ("gemma-embedding", Pooling.LAST, "pooled by its last token, .* architecture gemma3"),
        ("gemma3", Pooling.LAST, None),
    ],
)
def test_a_causal_gemma_that_was_converted_as_embeddinggemma_is_recognised(
    architecture: str, pooling: Pooling, message: str | None
) -> None:
    check(make_facts(architecture), pooling, message)


def test_the_architectures_that_are_named_are_known_to_llama_cpp() -> None:
    assert SCORED | PROJECTED | WINDOWED <= ARCHITECTURES
