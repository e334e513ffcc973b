"""What a worker opens for a message, and what a tokenizer answers."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import pytest

from embedd.cache import VectorCache
from embedd.config import worker_environment
from embedd.engine.ipc import messages
from embedd.engine.ipc.facts import to_vocabulary_load
from embedd.engine.llama.vocabulary import LlamaVocabulary
from embedd.engine.loader import Loader
from embedd.engine.tuning.store import SingleUse
from embedd.engine.worker.load import answer_call, open_tokenizer
from embedd.errors import EngineError, ModelLoadError
from embedd.metrics import Metrics
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert

NO_IDS = np.empty(0, np.int32)


@pytest.mark.parametrize("engine", ["fake", "llama"])
def test_a_vocabulary_answers_every_kind_of_call(engine: str, tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    message = to_vocabulary_load(spec)
    assert message.vocabulary_only
    tokenizer = open_tokenizer(msgspec.structs.replace(message, engine=engine))
    said, ids = answer_call(tokenizer, messages.Tokenize(1, ["a", "the sky"]), NO_IDS)
    assert isinstance(said, messages.Tokens)
    assert ids is not None
    assert len(ids) == sum(said.lengths)
    texts, _ = answer_call(tokenizer, messages.Detokenize(2, said.lengths, special=False), ids)
    assert texts == messages.Texts(2, [b"a", b"the sky"])
    pieces, _ = answer_call(tokenizer, messages.Spell(3), ids[:2])
    assert isinstance(pieces, messages.Pieces)
    assert pieces.special == [True, False]
    assert answer_call(tokenizer, messages.Tokenize(4, []), NO_IDS)[0] == messages.Tokens(4, [])
    with pytest.raises(EngineError):
        answer_call(tokenizer, messages.Spell(5), np.array([-1], np.int32))
    tokenizer.close()


def test_a_vocabulary_without_weights_has_no_numbers(tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    vocabulary = LlamaVocabulary.load_vocabulary(spec)
    info = vocabulary.info
    assert (info.width, info.limit, info.vocabulary) == (0, 0, len(TINY_VOCABULARY))
    vocabulary.close()


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
    vocabulary = LlamaVocabulary.load_vocabulary(make_spec(path, Pooling.RANK))
    pair = vocabulary._parse_pair(template)
    if expected is None:
        assert pair is None
    else:
        assert pair is not None
        assert (pair.query_lead, pair.document_lead) == expected[0]
        ids = [TINY_VOCABULARY.index(one) for one in ("q", "d", ".")]
        assert [*pair.prefix, *pair.middle, *pair.suffix] == ids
    vocabulary.close()


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
