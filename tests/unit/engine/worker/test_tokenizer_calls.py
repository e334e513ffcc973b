"""What a worker answers to tokenizer calls."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc.framing import split_located
from embedd.engine.ipc.messages import (
    Detokenize,
    Failed,
    Fault,
    Load,
    Locate,
    Texts,
    Tokenize,
    Tokens,
)
from embedd.engine.worker.load import open_tokenizer
from embedd.engine.worker.tokenizer_calls import answer_call
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import write_tiny_bert


@pytest.mark.parametrize("engine", ["fake", "llama"])
def test_a_vocabulary_answers_every_kind_of_call(engine: str, tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    backend = replace(LLAMA_BACKENDS[0], engine=engine)
    tokenizer = open_tokenizer(Load(spec=spec, backend=backend, vocabulary_only=True))
    said, ids = answer_call(tokenizer, Tokenize(1, ["a", "the sky"]), b"")
    assert isinstance(said, Tokens)
    assert ids is not None
    assert len(ids) == sum(said.lengths)
    located, numbers = answer_call(tokenizer, Locate(6, ["a", "the sky"]), b"")
    assert isinstance(located, Tokens)
    assert numbers is not None
    [_, (_, places)] = split_located(numbers.tobytes(), located.lengths)
    assert places[-1].tolist() == ([6, 7] if engine == "fake" else [4, 7])
    texts, _ = answer_call(tokenizer, Detokenize(2, said.lengths, special=False), ids.tobytes())
    assert texts == Texts(2, [b"a", b"the sky"])
    pieces, _ = answer_call(tokenizer, Detokenize(3, None), ids[:2].tobytes())
    assert isinstance(pieces, Texts)
    assert (len(pieces.texts), pieces.special) == (2, [True, False])
    assert answer_call(tokenizer, Tokenize(4, []), b"")[0] == Tokens(4, [])
    failed, _ = answer_call(tokenizer, Detokenize(5, None), np.array([-1], np.int32).tobytes())
    assert isinstance(failed, Failed)
    assert (failed.id, failed.fault) == (5, Fault.INPUT)
