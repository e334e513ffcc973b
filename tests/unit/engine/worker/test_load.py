"""What a worker opens for a `Load`, and what it answers where it cannot."""

from pathlib import Path

import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc.messages import Failed, Fault, Load
from embedd.engine.protocol import UnsuitableError
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER
from embedd.engine.worker.load import describe_tokenizer, open_tokenizer, to_failure
from embedd.errors import EngineError, InsufficientMemoryError, ModelLoadError
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert


def test_a_vocabulary_without_weights_has_no_numbers(tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    load = Load(spec=spec, backend=LLAMA_BACKENDS[-1], vocabulary_only=True)
    info = describe_tokenizer(open_tokenizer(load), LLAMA_TOKENIZER)
    assert (info.width, info.limit, info.vocabulary) == (0, 0, len(TINY_VOCABULARY))
    assert info.special_tokens.suffix == (TINY_VOCABULARY.index("[SEP]"),)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (ModelLoadError("bad file"), "model"),
        (InsufficientMemoryError("full"), "memory"),
        (MemoryError(), "memory"),
        (EngineError("NaN"), "self_test"),
        (UnsuitableError("unknown architecture"), "model"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_fault_says_what_may_help(error: Exception, fault: str) -> None:
    assert to_failure(7, error).fault == fault


def test_a_failure_has_the_id_of_its_call_and_a_reason() -> None:
    assert to_failure(7, ModelLoadError("bad file")) == Failed(7, "bad file", Fault.MODEL)
    assert to_failure(7, MemoryError()).message == "not enough memory"
