"""What llama.cpp's engine decides by the kind of model."""

from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.llama import engine as engines
from embedd.engine.llama.engine import MAX_SEQUENCES, LlamaEngine
from embedd.errors import EngineError
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.families import FAMILIES
from tests.families.hybrid import LAYERS, STATE, VALUES
from tests.families.vocabularies import BYTE_PAIRS_SIZE

STATES = 4 * VALUES * STATE * STATE * LAYERS  # bytes of one sequence of the tiny qwen35


@pytest.mark.parametrize(
    ("family", "room", "sequences"),
    [
        ("qwen3", 1, MAX_SEQUENCES),
        ("lfm2", 1, MAX_SEQUENCES),
        ("qwen35", engines.MAX_STATE_BYTES, MAX_SEQUENCES),
        ("qwen35", 3 * STATES + 1, 3),
        ("qwen35", STATES - 1, 1),
    ],
)
def test_recurrent_layers_limit_the_sequences_of_a_batch_by_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, room: int, sequences: int
) -> None:
    monkeypatch.setattr(engines, "MAX_STATE_BYTES", room)
    path = FAMILIES[family].write(tmp_path / "tiny.gguf", Pooling.LAST)
    engine = LlamaEngine.load(make_spec(path, Pooling.LAST), LLAMA_BACKENDS[0], threads=1)
    try:
        assert engine.info.max_sequences == sequences
        ids = np.arange(3, 9, dtype=np.int32)
        assert len(engine.encode([ids] * sequences)) == sequences
        with pytest.raises(EngineError, match=f"allowed are 1 to {sequences}"):
            engine.encode([ids] * (sequences + 1))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("family", "before", "after"),
    [("qwen3", (), (BYTE_PAIRS_SIZE - 1,)), ("llama", (1,), (2,)), ("gemma-embedding", (1,), (2,))],
)
def test_texts_of_decoders_begin_and_end_as_their_file_says(
    tmp_path: Path, family: str, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    path = FAMILIES[family].write(tmp_path / "tiny.gguf", Pooling.LAST)
    engine = LlamaEngine.load(make_spec(path, Pooling.LAST), LLAMA_BACKENDS[0], threads=1)
    try:
        [ids] = engine.tokenizer.tokenize(["the sea"])
        bare = engine.tokenizer.tokenize(["the sea"], add_special=False)[0]
        assert ids.tolist() == [*before, *bare.tolist(), *after]
        special = engine.info.special_tokens
        assert (special.prefix, special.suffix) == (before, after)
    finally:
        engine.close()
