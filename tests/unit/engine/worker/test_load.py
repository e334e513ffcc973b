"""What a worker opens for a `Load`, and what it answers where it cannot."""

import asyncio
from pathlib import Path

import pytest

from embedd.cache import VectorCache
from embedd.config import worker_environment
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc.messages import Failed, Fault, Load
from embedd.engine.llama.model import LlamaModel
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.loader import Loader
from embedd.engine.protocol import UnsuitableError
from embedd.engine.tuning.store import SingleUse
from embedd.engine.worker.load import describe_tokenizer, open_tokenizer, to_failure
from embedd.errors import EngineError, InsufficientMemoryError, ModelLoadError
from embedd.metrics import Metrics
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert


def test_a_vocabulary_without_weights_has_no_numbers(tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    load = Load(spec=spec, backend=LLAMA_BACKENDS[-1], vocabulary_only=True)
    info = describe_tokenizer(open_tokenizer(load))
    assert (info.width, info.limit, info.vocabulary) == (0, 0, len(TINY_VOCABULARY))
    assert info.special_tokens.suffix == (TINY_VOCABULARY.index("[SEP]"),)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("q {query} d{document}.", ((" ", ""), True)),
        ("{document} {query}", None),
        ("{query}", None),
    ],
)
def test_a_template_says_what_stands_around_a_pair(
    template: str, expected: tuple[tuple[str, str], bool] | None, tmp_path: Path
) -> None:
    path = write_tiny_bert(tmp_path / "tiny.gguf")
    model = LlamaModel(path, extra_buffers=False, gpu_layers=0, vocabulary_only=True)
    pair = LlamaTokenizer(model)._parse_pair(template)
    if expected is None:
        assert pair is None
    else:
        assert pair is not None
        assert (pair.query_lead, pair.document_lead) == expected[0]
        ids = [TINY_VOCABULARY.index(one) for one in ("q", "d", ".")]
        assert [*pair.prefix, *pair.middle, *pair.suffix] == ids
    model.close()


async def test_a_loader_opens_vocabularies_in_processes_that_end(tmp_path: Path) -> None:
    loader = Loader(
        environment=worker_environment(),
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
    )
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    async with loader.open_vocabulary(spec) as vocabulary:
        [ids] = await vocabulary.tokenize(["the sky"], add_special=False)
        assert await vocabulary.detokenize([ids], special=True) == [b"the sky"]
        assert len(await vocabulary.token_pieces(ids)) == len(ids)
        assert vocabulary.info.vocabulary == len(TINY_VOCABULARY)
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    with pytest.raises(ModelLoadError):
        async with loader.open_vocabulary(make_spec(broken, Pooling.MEAN)):
            pass
    await asyncio.wait_for(loader.close(), 5)


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
