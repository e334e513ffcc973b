"""Every family of models gives the vectors that its definition gives, in whatever company."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.protocol import Engine, UnsuitableError
from embedd.errors import EngineError
from embedd.gguf.faults import find_fault
from embedd.gguf.header import ENCODERS, read_header_file
from embedd.resolve import choose_pooling
from embedd.types import Pooling, TokenIds, Vectors
from tests.contract.conftest import find_engine, make_spec
from tests.families import FAMILIES
from tests.families.family import Array, Family, Weights, pool, read_weights

COSINE = 0.9999
SCORE = 5e-3  # largest difference of a score; llama.cpp's GELU is a table of float16
# The first backend and the last, which is without flash attention.
BACKENDS = (LLAMA_BACKENDS[0], LLAMA_BACKENDS[-1], OPENVINO_F32)
REFUSED = [family.name for family in FAMILIES.values() if family.refused]
CASES = [
    (backend.name, family.name, pooling)
    for backend in BACKENDS
    for family in FAMILIES.values()
    for pooling in family.poolings
    if not (family.refused and backend.engine == "llama")
]


def choose_lengths(family: Family) -> list[int]:
    """1 … 8, powers of two, half windows, windows and the context, each ± 1."""
    middles = {16, 32, 64, family.window // 2, family.window, family.context}
    lengths = set(range(1, 9)) | {middle + step for middle in middles for step in (-1, 0, 1)}
    return sorted(length for length in lengths if 1 <= length <= family.context)


@functools.cache
def make_texts(name: str, vocabulary: int) -> list[TokenIds]:
    """Random ids of each length, always the same."""
    random = np.random.default_rng(len(name))
    return [
        random.integers(0, vocabulary, length).astype(np.int32)
        for length in choose_lengths(FAMILIES[name])
    ]


def find_least_cosine(a: Vectors | Array, b: Array) -> float:
    """Over pairs of rows."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(axis=-1) / norms).min())


def assert_close(family: Family, pooling: Pooling, got: Vectors, expected: Sequence[Array]) -> None:
    """*expected* has the vectors, scores or token vectors of each text."""
    rows = np.concatenate([np.atleast_2d(one) for one in expected])
    assert got.shape == rows.shape
    if pooling is Pooling.RANK:
        assert np.abs(got - rows).max() <= SCORE
        return
    cosine = find_least_cosine(got, rows)
    assert cosine >= COSINE
    # A cosine does not see a wrong length.
    assert np.linalg.norm(got, axis=1) == pytest.approx(np.linalg.norm(rows, axis=1), rel=0.01)


def check_vectors(engine: Engine, family: Family, weights: Weights, pooling: Pooling) -> None:
    """Alone and together, pooled as *pooling* says and token by token."""
    texts = make_texts(family.name, len(weights["token_embd.weight"]))
    hidden = [family.forward(weights, ids) for ids in texts]
    expected = [family.embed(weights, one, pooling) for one in hidden]
    alone = np.concatenate([engine.encode([ids]) for ids in texts])
    assert_close(family, pooling, alone, expected)
    order = np.random.default_rng(0).permutation(len(texts))
    together = engine.encode([texts[row] for row in order])
    assert_close(family, pooling, together, [expected[row] for row in order])


def open_engine(kind: str, path: Path, family: Family, pooling: Pooling) -> Engine:
    backend = {one.name: one for one in BACKENDS}[kind]
    spec = make_spec(path, pooling, context=family.context)
    opened: Engine = find_engine(backend.engine).load(spec, backend, threads=1)
    return opened


@pytest.mark.parametrize(("kind", "name", "pooling"), CASES)
def test_a_family_has_the_vectors_of_its_definition(
    kind: str, name: str, pooling: Pooling, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    path = family.write(tmp_path / "tiny.gguf", pooling)
    if kind == OPENVINO_F32.name and not family.openvino:
        with pytest.raises(UnsuitableError):
            open_engine(kind, path, family, pooling)
        return
    engine = open_engine(kind, path, family, pooling)
    try:
        check_vectors(engine, family, read_weights(path), pooling)
    finally:
        engine.close()


@pytest.mark.parametrize(("kind", "name"), sorted({(kind, name) for kind, name, _ in CASES}))
def test_a_family_has_the_token_vectors_of_its_definition(
    kind: str, name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    if kind == OPENVINO_F32.name and not family.openvino:
        pytest.skip("OpenVINO refuses it, as another test shows")
    path = family.write(tmp_path / "tiny.gguf", family.poolings[0])
    weights = read_weights(path)
    engine = open_engine(kind, path, family, family.poolings[0])
    try:
        texts = make_texts(name, len(weights["token_embd.weight"]))[::4]
        expected = [
            family.embed(weights, family.forward(weights, ids), Pooling.NONE) for ids in texts
        ]
        together = engine.encode(texts, Pooling.NONE)
        assert_close(family, Pooling.NONE, together, expected)
        too_long = np.ones(family.context + 1, np.int32)
        with pytest.raises(EngineError, match=str(family.context)):
            engine.encode([too_long])
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name, pooling in CASES if pooling is Pooling.RANK]
)
def test_a_cross_encoder_gives_vectors_where_another_pooling_is_chosen(
    kind: str, name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    if kind == OPENVINO_F32.name and not family.openvino:
        pytest.skip("OpenVINO refuses it, as another test shows")
    path = family.write(tmp_path / "tiny.gguf", Pooling.RANK)
    weights = read_weights(path)
    engine = open_engine(kind, path, family, Pooling.MEAN)
    try:
        texts = make_texts(name, len(weights["token_embd.weight"]))[::5]
        expected = [pool(family.forward(weights, ids), Pooling.MEAN) for ids in texts]
        assert_close(family, Pooling.MEAN, engine.encode(texts), expected)
    finally:
        engine.close()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_a_family_shows_in_its_vectors(name: str, tmp_path: Path) -> None:
    """A comparison sees the effect of each: none is forgotten by engine and definition alike."""
    family = FAMILIES[name]
    pooling = Pooling.RANK if family.rerank else family.poolings[0]
    weights = read_weights(family.write(tmp_path / "tiny.gguf", pooling))
    [ids] = [one for one in make_texts(name, len(weights["token_embd.weight"])) if len(one) == 33]

    def compute(changed: Weights) -> tuple[Array, Array]:
        hidden = family.forward(changed, ids)
        return hidden, family.embed(changed, hidden, pooling)

    hidden, vector = compute(weights)
    for tensor in weights.keys() - family.unseen:
        others, other = compute({**weights, tensor: np.flip(weights[tensor])})
        if tensor.startswith("cls"):
            assert np.abs(other - vector).max() > SCORE, tensor
            continue
        if family.project is not None:
            others, hidden = other, vector
        cosine = find_least_cosine(others, hidden)
        assert cosine < COSINE, tensor


@pytest.mark.parametrize("name", REFUSED)
def test_a_family_is_refused_by_its_header_as_llama_cpp_computes_other_vectors(
    name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    path = family.write(tmp_path / "tiny.gguf", Pooling.MEAN)
    assert find_fault(read_header_file(path), Pooling.MEAN) is not None
    weights = read_weights(path)
    [*_, text] = make_texts(name, len(weights["token_embd.weight"]))
    engine = open_engine("llama", path, family, Pooling.MEAN)
    try:
        [found] = engine.encode([text])
    finally:
        engine.close()
    assert find_least_cosine(found, pool(family.forward(weights, text), Pooling.MEAN)) < COSINE


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_the_header_of_a_family_says_what_the_family_does(name: str, tmp_path: Path) -> None:
    family = FAMILIES[name]
    for pooling in family.poolings:
        facts = read_header_file(family.write(tmp_path / "tiny.gguf", pooling))
        assert find_fault(facts, pooling) is None
        assert facts.pooling is pooling
        assert facts.architecture == family.architecture
        assert facts.metadata["tokenizer.ggml.model"] == family.tokenizer
        assert facts.context_length == family.context


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REFUSED])
def test_an_encoder_whose_file_names_no_pooling_is_pooled_by_the_mean(
    name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    path = family.write(tmp_path / "tiny.gguf", None)
    facts = read_header_file(path)
    assert facts.pooling is None
    if not facts.is_encoder:
        assert choose_pooling(None, facts) is None
        return
    assert choose_pooling(None, facts) is Pooling.MEAN
    weights = read_weights(path)
    text = make_texts(name, len(weights["token_embd.weight"]))[6]
    engine = open_engine("llama", path, family, Pooling.MEAN)
    try:
        expected = family.embed(weights, family.forward(weights, text), Pooling.MEAN)
        assert_close(family, Pooling.MEAN, engine.encode([text]), [expected])
    finally:
        engine.close()


def test_every_encoder_that_is_known_is_among_the_families() -> None:
    assert {family.architecture for family in FAMILIES.values()} >= ENCODERS
