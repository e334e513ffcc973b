"""What every engine promises, whatever computes behind it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.protocol import Engine, Stop, StoppedError
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds, Vectors
from tests.contract.conftest import CONTEXT, OpenEngine, make_spec
from tests.tiny_models import find_parts, write_tiny_bert

TEXTS = ["the cat sat", "on a mat", "and then it slept for a long while", "x"]
TOLERANCE = 1e-5  # 1 - cosine, float32 weights


@pytest.fixture(params=[Pooling.MEAN, Pooling.CLS, Pooling.LAST])
def engine(request: pytest.FixtureRequest, open_engine: OpenEngine) -> Engine:
    return open_engine(request.param)


def cosines(a: Vectors, b: Vectors) -> Vectors:
    product: Vectors = (a * b).sum(axis=1)
    norms: Vectors = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return product / norms


def test_info_describes_the_loaded_model(engine: Engine) -> None:
    info = engine.info
    assert info.limit == CONTEXT
    assert info.width > 0
    assert info.max_batch_tokens > 0
    assert info.max_sequences > 0
    assert info.backend == "llama"


def test_a_text_is_tokenized_inside_the_frame(engine: Engine) -> None:
    frame = engine.info.special_tokens
    rows = engine.tokenizer.tokenize(TEXTS)
    assert len(rows) == len(TEXTS)
    for ids in rows:
        assert tuple(ids[: len(frame.prefix)]) == frame.prefix
        assert tuple(ids[len(ids) - len(frame.suffix) :]) == frame.suffix
        assert ids.dtype == np.int32


def test_an_empty_text_is_the_frame_alone(engine: Engine) -> None:
    [ids] = engine.tokenizer.tokenize([""])
    assert tuple(ids) == engine.info.special_tokens.prefix + engine.info.special_tokens.suffix


@pytest.mark.parametrize("text", ["a\x00b", "\ud800", "🙂" * 10, "ﷺ" * 100, " " * 500])
def test_odd_texts_are_tokenized_all_the_same(engine: Engine, text: str) -> None:
    [ids] = engine.tokenizer.tokenize([text])
    assert len(ids) >= len(engine.info.special_tokens)


def test_one_row_per_sequence_in_order(engine: Engine) -> None:
    sequences = engine.tokenizer.tokenize(TEXTS)
    together = engine.encode(sequences)
    assert together.shape == (len(TEXTS), engine.info.width)
    assert together.dtype == np.float32
    alone = np.concatenate([engine.encode([ids]) for ids in sequences])
    assert (1 - cosines(together, alone) <= TOLERANCE).all()


def test_permuting_the_inputs_permutes_the_rows(engine: Engine) -> None:
    sequences = engine.tokenizer.tokenize(TEXTS)
    order = [2, 0, 3, 1]
    there = engine.encode(sequences)[order]
    assert (1 - cosines(there, engine.encode([sequences[i] for i in order])) <= TOLERANCE).all()


def test_the_same_batch_twice_gives_the_same_bits(engine: Engine) -> None:
    sequences = engine.tokenizer.tokenize(TEXTS)
    assert np.array_equal(engine.encode(sequences), engine.encode(sequences))


def test_different_texts_have_different_vectors(engine: Engine) -> None:
    a, b = engine.encode(engine.tokenizer.tokenize(["the cat", "dog"]))
    assert not np.allclose(a, b)


def test_without_pooling_there_is_a_row_per_token(engine: Engine) -> None:
    sequences = engine.tokenizer.tokenize(TEXTS[:2])
    rows = engine.encode(sequences, Pooling.NONE)
    assert rows.shape == (sum(map(len, sequences)), engine.info.width)
    again = engine.encode(sequences)
    assert again.shape == (2, engine.info.width)


@pytest.mark.parametrize("length", [1, 2, 63, 64])
def test_every_length_up_to_the_limit_is_computed(engine: Engine, length: int) -> None:
    ids = np.full(length, 5, np.int32)
    assert np.isfinite(engine.encode([ids])).all()


def bad_batches(info_limit: int, vocabulary: int, max_sequences: int) -> list[list[TokenIds]]:
    good = np.array([5, 6], np.int32)
    return [
        [],
        [good, np.empty(0, np.int32)],
        [np.full(info_limit + 1, 5, np.int32)],
        [good, np.array([vocabulary], np.int32)],
        [np.array([-1], np.int32)],
        [good] * (max_sequences + 1),
    ]


def test_a_bad_batch_is_refused_and_leaves_no_trace(engine: Engine) -> None:
    """The next vectors are the right ones, never those of the batch before."""
    sequences = engine.tokenizer.tokenize(TEXTS)
    expected = engine.encode(sequences)
    info = engine.info
    for batch in bad_batches(info.limit, info.vocabulary, info.max_sequences):
        engine.encode(engine.tokenizer.tokenize(["something else"]))
        with pytest.raises(EngineError):
            engine.encode(batch)
        assert np.array_equal(engine.encode(sequences), expected)


@pytest.mark.parametrize("pooling", [None, Pooling.NONE])
def test_a_stopped_batch_has_no_vectors_and_leaves_no_trace(
    pooling: Pooling | None, engine: Engine
) -> None:
    sequences = engine.tokenizer.tokenize(TEXTS)
    expected = engine.encode(sequences, pooling)
    stop = Stop()
    assert np.array_equal(engine.encode(sequences, pooling, stop=stop), expected)
    stop.set()
    with pytest.raises(StoppedError):
        engine.encode(engine.tokenizer.tokenize(["something else"]), pooling, stop=stop)
    assert np.array_equal(engine.encode(sequences, pooling), expected)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    lengths=st.lists(st.integers(1, CONTEXT), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_composition_of_a_batch_does_not_matter(
    engine: Engine, lengths: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    top = min(engine.info.vocabulary, 40)
    sequences = [random.integers(5, top, length).astype(np.int32) for length in lengths]
    together = engine.encode(sequences)
    alone = np.concatenate([engine.encode([ids]) for ids in sequences])
    assert (1 - cosines(together, alone) <= TOLERANCE).all()


def test_a_split_gguf_gives_the_vectors_of_the_whole_one(tmp_path: Path) -> None:
    whole = write_tiny_bert(tmp_path / "whole.gguf")
    write_tiny_bert(tmp_path / "split.gguf", split=8)
    parts = find_parts(tmp_path / "split.gguf")
    assert len(parts) > 1
    # In the store the parts have names that say nothing of their order.
    paths = [part.rename(tmp_path / f"blob{number}") for number, part in enumerate(parts)]
    spec = make_spec(paths[0], Pooling.MEAN)
    vectors = []
    for one in (make_spec(whole, Pooling.MEAN), replace(spec, parts=tuple(paths[1:]))):
        engine = LlamaEngine.load(one, LLAMA_BACKENDS[0], threads=1)
        vectors.append(engine.encode(engine.tokenizer.tokenize(TEXTS)))
        engine.close()
    assert np.array_equal(vectors[0], vectors[1])
