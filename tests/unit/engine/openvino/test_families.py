"""Every architecture agrees with llama.cpp on the same file; unsupported files are refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.padding import round_length
from embedd.engine.protocol import UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.errors import ModelLoadError
from embedd.types import Pooling, TokenIds, Vectors
from tests.contract.conftest import make_spec
from tests.families import FAMILIES as MODELS
from tests.needs import require_openvino
from tests.tiny_families import CONTEXT, FAMILIES, LAYERS, WIDTH, write_tiny_family
from tests.tiny_models import TINY_VOCABULARY, find_parts

require_openvino()
from embedd.engine.openvino.engine import TOKENS, OpenVinoEngine

# llama.cpp looks its GELU up in a table of 16 bits and has such keys and values too.
TOLERANCE = {"f32": 1e-6, "f16": 5e-6, "q8_0": 3e-3}
POOLINGS = [Pooling.MEAN, Pooling.CLS, Pooling.LAST]


def load(spec: ModelSpec) -> OpenVinoEngine:
    return OpenVinoEngine.load(spec, OPENVINO_F32, threads=1)


def load_both(path: Path, pooling: Pooling) -> tuple[OpenVinoEngine, LlamaEngine]:
    spec = make_spec(path, pooling, context=CONTEXT)
    # The last backend: without flash attention, which rounds keys and values.
    return load(spec), LlamaEngine.load(spec, LLAMA_BACKENDS[-1], threads=1)


def make_sequences(lengths: Sequence[int], seed: int = 0) -> list[TokenIds]:
    random = np.random.default_rng(seed)
    return [random.integers(0, len(TINY_VOCABULARY), n).astype(np.int32) for n in lengths]


def distances(a: Vectors, b: Vectors) -> Vectors:
    """1 - cosine, row by row, in double precision."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(1 - (a * b).sum(axis=1) / norms)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_with_llama_cpp_at_every_length(family: str, tmp_path: Path) -> None:
    path = write_tiny_family(tmp_path / "tiny.gguf", family)
    ours, theirs = load_both(path, Pooling.MEAN)
    sequences = make_sequences(range(1, CONTEXT + 1))
    there = np.concatenate([theirs.encode([ids]) for ids in sequences])
    alone = np.concatenate([ours.encode([ids]) for ids in sequences])
    together = ours.encode(sequences)
    assert distances(alone, there).max() <= TOLERANCE["f32"]
    assert distances(together, alone).max() <= 1e-9


@pytest.mark.parametrize("weights", ["f16", "q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_with_llama_cpp_on_smaller_weights(
    family: str, weights: str, tmp_path: Path
) -> None:
    path = write_tiny_family(tmp_path / "tiny.gguf", family, weights=weights)
    ours, theirs = load_both(path, Pooling.MEAN)
    sequences = make_sequences(range(8, CONTEXT + 1, 11))
    there = np.concatenate([theirs.encode([ids]) for ids in sequences])
    assert distances(ours.encode(sequences), there).max() <= TOLERANCE[weights]


@pytest.mark.parametrize("own", POOLINGS)
@pytest.mark.parametrize("family", ["bert", "modern-bert"])
def test_every_pooling_agrees_whether_or_not_it_is_the_models_own(
    family: str, own: Pooling, tmp_path: Path
) -> None:
    path = write_tiny_family(tmp_path / "tiny.gguf", family)
    ours, theirs = load_both(path, own)
    sequences = make_sequences([1, 2, 7, 33, CONTEXT, 12])
    for pooling in (None, *POOLINGS, Pooling.NONE):
        there = np.concatenate([theirs.encode([ids], pooling) for ids in sequences])
        assert distances(ours.encode(sequences, pooling), there).max() <= TOLERANCE["f32"], pooling


@pytest.mark.parametrize(
    ("own", "computed"),
    [(Pooling.CLS, 1), (Pooling.LAST, 1), (Pooling.MEAN, round_length(9))],
)
def test_the_last_layer_computes_only_the_tokens_that_a_vector_is_made_of(
    own: Pooling, computed: int, tmp_path: Path
) -> None:
    ours, _ = load_both(write_tiny_family(tmp_path / "tiny.gguf"), own)
    counts = []
    for pooling in (None, Pooling.NONE):
        ours.encode(make_sequences([9]), pooling)
        counts.append(ours.find_request().get_output_tensor(TOKENS).shape[1])
    assert counts == [computed, round_length(9)]


def test_scores_agree(tmp_path: Path) -> None:
    path = write_tiny_family(tmp_path / "tiny.gguf", pooling="rank", head=True)
    ours, theirs = load_both(path, Pooling.RANK)
    sequences = make_sequences([3, 17, 40])
    assert ours.info.labels == theirs.info.labels == ("no", "yes")
    there = np.concatenate([theirs.encode([ids]) for ids in sequences])
    assert np.abs(ours.encode(sequences) - there).max() <= 2e-3


def test_the_head_may_follow_the_mean(tmp_path: Path) -> None:
    path = write_tiny_family(
        tmp_path / "tiny.gguf", pooling="rank", head=True, keys={"classifier.pooling_type": 1}
    )
    ours, theirs = load_both(path, Pooling.RANK)
    [ids] = make_sequences([20])
    assert np.abs(ours.encode([ids]) - theirs.encode([ids])).max() <= 2e-3
    write_tiny_family(path, pooling="rank", head=True)
    first = load(make_spec(path, Pooling.RANK, context=CONTEXT))
    assert np.abs(ours.encode([ids]) - first.encode([ids])).max() > 0.1


@pytest.mark.parametrize("shape", [(1, WIDTH), (WIDTH,)])
def test_a_head_of_one_layer_scores_too(shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    path = write_tiny_family(
        tmp_path / "tiny.gguf",
        "jina-bert-v2",
        pooling="rank",
        changes={"cls.weight": weight, "cls.bias": np.ones(1, np.float32)},
    )
    ours, theirs = load_both(path, Pooling.RANK)
    [ids] = make_sequences([20])
    assert np.abs(ours.encode([ids]) - theirs.encode([ids])).max() <= 2e-3


def test_a_split_file_is_one_model(tmp_path: Path) -> None:
    whole = write_tiny_family(tmp_path / "tiny.gguf")
    write_tiny_family(tmp_path / "split.gguf", split=9)
    first, *others = find_parts(tmp_path / "split.gguf")
    spec = make_spec(first, Pooling.MEAN, context=CONTEXT)
    from dataclasses import replace

    sequences = make_sequences([5, 50])
    split = load(replace(spec, parts=tuple(others))).encode(sequences)
    assert len(others) > 1
    assert np.array_equal(
        split, load(make_spec(whole, Pooling.MEAN, context=CONTEXT)).encode(sequences)
    )


def test_the_epsilon_is_that_of_the_file(tmp_path: Path) -> None:
    """A wrong one moves vectors by so little that no comparison would see it."""
    from embedd.engine.openvino.families import build_graph
    from embedd.engine.openvino.tensors import Gguf

    path = write_tiny_family(tmp_path / "tiny.gguf", epsilon=3e-7)
    graph = build_graph(Gguf([path]), Pooling.MEAN)
    norms = [node for node in graph.get_ops() if node.get_type_name() == "MVN"]
    assert len(norms) == 1 + 2 * LAYERS
    for node in norms:
        assert node.get_attributes()["eps"] == pytest.approx(3e-7)
        assert node.get_attributes()["eps_mode"].lower() == "inside_sqrt"


UNKNOWN = {
    "a key": {"keys": {"attention.clamp_kqv": 1.0}},
    "a tensor": {"changes": {"rope_freqs.weight": np.ones(WIDTH // 2, np.float32)}},
    "fewer heads for keys": {"keys": {"attention.head_count_kv": 2}},
    "a scaled rotation": {"family": "nomic-bert", "keys": {"rope.scaling.type": "longrope"}},
    "part of a rotation": {"family": "nomic-bert", "keys": {"rope.dimension_count": 8}},
    "an activation": {"family": "modern-bert", "keys": {"hidden_activation": "relu"}},
    "another pooling before a head": {"keys": {"classifier.pooling_type": 3}, "head": True},
    "experts": {"family": "nomic-bert", "keys": {"moe_every_n_layers": 2}},
    "a bias that llama.cpp drops": {
        "family": "nomic-bert",
        "changes": {"blk.0.ffn_up.bias": np.ones(2 * WIDTH, np.float32)},
    },
    "a missing norm": {"changes": {"blk.1.layer_output_norm.weight": None}},
    "another shape": {"changes": {"token_embd_norm.weight": np.ones(WIDTH + 1, np.float32)}},
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unsupported_key_tensor_or_shape_is_refused(case: str, tmp_path: Path) -> None:
    from embedd.engine.openvino.families import build_graph
    from embedd.engine.openvino.tensors import Gguf

    path = write_tiny_family(tmp_path / "tiny.gguf", **UNKNOWN[case])  # type: ignore[arg-type]  # a dict of keyword arguments
    with pytest.raises(UnsuitableError):
        build_graph(Gguf([path]), Pooling.MEAN)


def test_another_architecture_is_unsuitable_and_a_broken_file_cannot_be_loaded(
    tmp_path: Path,
) -> None:
    path = MODELS["gemma2"].write(tmp_path / "tiny.gguf", Pooling.LAST)
    with pytest.raises(UnsuitableError, match="architecture gemma2"):
        load(make_spec(path, Pooling.LAST))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ModelLoadError):
        load(make_spec(path, Pooling.LAST))
