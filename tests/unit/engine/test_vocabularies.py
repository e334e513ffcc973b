"""Where a model is tokenized: found out by a worker once, then known; never a failed load."""

import asyncio
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.cache import VectorCache
from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.local_tokenizer import LocalTokenizer, TokenizerCache
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelSpec
from embedd.engine.tokenizer_place import LLAMA_TOKENIZER, TokenizerPlace, TokenizerVerdict
from embedd.engine.tuning.store import TuningStore
from embedd.engine.vocabularies import PROCESSES, Vocabularies, find_verdict
from embedd.errors import ModelLoadError, WorkerUnavailableError
from embedd.metrics import DeathReason, Metrics
from embedd.state import StateFolder
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from tests.fakes import settle
from tests.tiny_models import write_tiny_bert
from tests.unit.engine.fake_worker import SPEC, FakeWorkers

LLAMA, SERVER, WORKER = TokenizerPlace.LLAMA, TokenizerPlace.SERVER, TokenizerPlace.WORKER
SMALL = TokenizerVerdict(place=SERVER, size=5)
LARGE = TokenizerVerdict(place=WORKER, size=1 << 30)
REFUSED = TokenizerVerdict(place=LLAMA, reason="they differ")
MESSAGE = "model is tokenized by llama.cpp"


class World:
    """Vocabularies over fake workers, a store in a folder, a real small tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.workers = FakeWorkers()
        self.store = TuningStore(
            StateFolder(folder / "state"),
            cores=1,
            engine=EngineChoice.AUTO,
            precision=Precision.AUTO,
            cpu_features=frozenset(),
            build="1",
        )
        self.spec = replace(SPEC, path=write_tiny_bert(folder / "tiny.gguf"))
        self.error: Exception | None = None
        self.built = 0  # how often a tokenizer was built, or could not be
        self.cache = TokenizerCache(build=self._build)
        self.vocabularies = Vocabularies(
            start=self.workers.start,
            backend=LLAMA_BACKENDS[-1],
            store=self.store,
            load_timeout=None,
            cache=self.cache,
        )

    def _build(self, path: Path) -> ModelTokenizer:
        self.built += 1
        if self.error is not None:
            raise self.error
        return load_tokenizer(path)[0]

    async def load(self) -> ServedModel:
        """A model that is loaded as the loader does it."""
        model = await ServedModel.load(
            self.spec,
            start=self.workers.start,
            cores=CoreBudget(1),
            cache=VectorCache(0),
            metrics=Metrics().of_model("a"),
            max_wait=math.inf,
            tokenizer=self.vocabularies.choose_place(self.spec),
        )
        await self.vocabularies.attach(self.spec, model)
        return model

    def reasons(self, caplog: pytest.LogCaptureFixture) -> list[str]:
        """Of the log lines that name llama.cpp's tokenizer."""
        found = [one for one in caplog.records if one.getMessage() == MESSAGE]
        assert all(one.levelno == logging.WARNING for one in found)
        return [str(vars(one)["reason"]) for one in found]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_pin_and_a_file_without_a_digest_need_no_finding_out(world: World) -> None:
    assert find_verdict(world.store, world.spec) is None
    pinned = replace(world.spec, tokenizer=TokenizerChoice.LLAMA)
    assert find_verdict(world.store, pinned) == LLAMA_TOKENIZER
    assert find_verdict(world.store, replace(world.spec, digest="")) == LLAMA_TOKENIZER
    world.store.write_tokenizer(world.spec, SMALL)
    assert find_verdict(world.store, world.spec) == SMALL
    assert find_verdict(world.store, replace(world.spec, tokenizer=TokenizerChoice.AUTO)) == SMALL
    assert find_verdict(world.store, pinned) == LLAMA_TOKENIZER
    assert world.vocabularies.choose_place(pinned) is LLAMA


async def test_the_first_load_finds_out_and_later_ones_know(world: World) -> None:
    world.workers.verdict = SMALL
    for place in (None, SERVER):
        model = await world.load()
        assert world.workers.current.place is place
        assert world.store.read_tokenizer(world.spec) == SMALL
        [ids] = await model.tokenize(["the sky"])
        assert world.workers.tokenized == []  # here, not in the worker
        [(located, places)] = await model.locate(["the sky"])
        assert (len(ids), places.tolist()) == (4, [[0, 3], [4, 7]])
        assert await model.detokenize([located], special=True) == [b"the sky"]
        assert [one.text for one in await model.token_pieces(located)] == [b" the", b" sky"]
        assert model.info.tokenizer == "model"
        await model.close()


async def test_a_large_one_is_used_in_the_worker(world: World) -> None:
    world.workers.verdict = LARGE
    for place in (None, WORKER):
        model = await world.load()
        assert world.workers.current.place is place
        await model.tokenize(["the sky"])
        assert world.workers.tokenized.pop() == 1
        assert model.info.tokenizer == "model"
        assert len(world.cache) == 0
        await model.close()


async def test_a_refusal_is_logged_once_and_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers.verdict = REFUSED
    model = await world.load()
    assert model.info.tokenizer == "llama"
    assert world.reasons(caplog) == ["they differ"]
    world.workers.verdict = None
    await world.load()
    assert world.workers.current.place is LLAMA
    assert world.reasons(caplog) == ["they differ"]
    assert world.store.read_tokenizer(world.spec) == REFUSED


async def test_a_tokenizer_that_cannot_be_built_here_is_replaced_by_llama_cpps(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers.verdict = SMALL
    world.error = TokenizerError("not here")
    model = await world.load()
    assert world.reasons(caplog) == ["not here"]
    assert model.info.tokenizer == "llama"
    await model.tokenize(["a"])
    assert world.workers.tokenized == [1]
    # Also when its worker is replaced.
    world.workers.current.die()
    await model.tokenize(["a"])
    assert world.workers.current.place is LLAMA
    assert model.info.tokenizer == "llama"
    async with world.vocabularies.open(world.spec) as opened:
        assert isinstance(opened, WorkerProcess)
    assert world.workers.current.place is LLAMA


async def test_one_that_is_known_is_built_once_while_the_worker_loads(world: World) -> None:
    world.vocabularies.prepare(world.spec)
    assert len(world.cache) == 0  # where it lives is not known yet
    world.store.write_tokenizer(world.spec, SMALL)
    world.vocabularies.prepare(world.spec)
    await asyncio.gather(*world.vocabularies._preparing)
    model = await world.load()
    assert world.built == 1
    [ids] = await model.tokenize(["the sky"])
    assert len(ids) == 4
    await model.close()


async def test_one_that_cannot_be_built_while_the_worker_loads_is_tried_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.write_tokenizer(world.spec, SMALL)
    world.error = TokenizerError("not now")
    world.vocabularies.prepare(world.spec)
    await asyncio.gather(*world.vocabularies._preparing)
    assert world.built == 1
    assert world.reasons(caplog) == []
    world.error = None
    model = await world.load()
    assert world.built == 2
    assert model.info.tokenizer == "model"
    await model.close()


async def test_a_worker_that_dies_building_it_is_started_again_without(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers.verdict = SMALL
    world.workers.dies_building = True
    model = await world.load()
    assert [one.place for one in world.workers.started] == [None, LLAMA]
    assert {one.backend for one in world.workers.started} == {"llama"}
    assert model.info.tokenizer == "llama"
    [reason] = world.reasons(caplog)
    assert "building the model's own tokenizer failed: the worker process ended" in reason
    assert world.store.read_tokenizer(world.spec) == TokenizerVerdict(place=LLAMA, reason=reason)


async def test_a_model_that_is_not_loaded_needs_no_process_once_it_is_known(world: World) -> None:
    world.workers.verdict = SMALL
    async with world.vocabularies.open(world.spec) as opened:
        assert isinstance(opened, WorkerProcess)  # which finds out
    assert [one.closed for one in world.workers.started] == [True]
    async with world.vocabularies.open(world.spec) as local:
        assert isinstance(local, LocalTokenizer)
        assert len(await local.tokenize(["the sky"])) == 1
    assert len(world.workers.started) == 1
    assert len(world.cache) == 1  # for the next request
    world.vocabularies.close()
    assert len(world.cache) == 0


@pytest.mark.parametrize("known", [LARGE, REFUSED])
async def test_others_have_a_process_for_the_request(world: World, known: TokenizerVerdict) -> None:
    world.store.write_tokenizer(world.spec, known)
    world.workers.verdict = known if known is LARGE else None
    async with world.vocabularies.open(world.spec) as opened:
        assert opened is world.workers.current
        assert not world.workers.current.closed
        assert world.workers.current.place is known.place
    assert world.workers.current.closed
    assert world.store.read_tokenizer(world.spec) == known


async def test_a_process_that_dies_building_it_is_followed_by_one_without(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.workers.dies_building = True
    async with world.vocabularies.open(world.spec) as opened:
        assert opened is world.workers.current
    assert [(one.place, one.closed) for one in world.workers.started] == [
        (None, True),
        (LLAMA, True),
    ]
    [reason] = world.reasons(caplog)
    assert world.store.read_tokenizer(world.spec) == TokenizerVerdict(place=LLAMA, reason=reason)


async def test_a_death_that_is_not_the_tokenizers_fault_is_an_error(world: World) -> None:
    world.workers.dies_loading = True
    for spec in (world.spec, replace(world.spec, tokenizer=TokenizerChoice.LLAMA)):
        with pytest.raises(WorkerDiedError):
            async with world.vocabularies.open(spec):
                pass
    assert world.store.read_tokenizer(world.spec) is None
    with pytest.raises(ModelLoadError, match="SIGSEGV"):
        await world.load()
    assert world.store.read_tokenizer(world.spec) is None
    assert all(one.closed for one in world.workers.started)


async def test_a_kill_from_outside_says_nothing_of_the_tokenizer(world: World) -> None:
    kill = WorkerDiedError("SIGKILL", DeathReason.KILLED)
    world.workers.faults = {backend.name: kill for backend in LLAMA_BACKENDS}
    with pytest.raises(WorkerUnavailableError, match="SIGKILL: try again later"):
        async with world.vocabularies.open(world.spec):
            pass
    assert len(world.workers.started) == 1
    assert world.store.read_tokenizer(world.spec) is None


async def test_few_processes_run_at_a_time(world: World) -> None:
    pinned = replace(world.spec, tokenizer=TokenizerChoice.LLAMA)
    may_end = asyncio.Event()

    async def use(spec: ModelSpec) -> None:
        async with world.vocabularies.open(spec):
            await may_end.wait()

    tasks = [asyncio.create_task(use(pinned)) for _ in range(PROCESSES + 1)]
    await settle()
    assert len(world.workers.started) == PROCESSES
    may_end.set()
    await asyncio.gather(*tasks)
    assert len(world.workers.started) == PROCESSES + 1
