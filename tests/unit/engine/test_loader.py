"""Which engines may compute a model, by wish, by what is installed, by what was found."""

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.cache import VectorCache
from embedd.choices import EngineChoice, Precision
from embedd.config import worker_environment
from embedd.engine.host.process import WorkerProcess
from embedd.engine.loader import Loader
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.calibrate import Calibration, Verdict
from embedd.engine.tuning.store import SingleUse
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.metrics import Metrics
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert
from tests.unit.engine.fake_worker import SPEC

AUTO, LLAMA, OPENVINO = EngineChoice


class Known(SingleUse):
    """Knows one verdict of every model."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.verdict = verdict

    def read(self, spec: ModelSpec) -> Calibration | None:
        del spec
        return None

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        del spec
        return self.verdict


def engines(
    *,
    operator: EngineChoice = AUTO,
    model: EngineChoice | None = None,
    installed: bool = True,
    verdict: Verdict | None = None,
) -> list[str]:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=Known(verdict),
        metrics=Metrics(),
        engine=operator,
        has_openvino=installed,
    )
    backends = loader.choose_backends(replace(SPEC, engine=model))
    return list(dict.fromkeys(backend.engine for backend in backends))


def test_auto_begins_with_the_faster_engine_where_it_is_installed() -> None:
    assert engines() == ["openvino", "llama"]
    assert engines(installed=False) == ["llama"]
    assert engines(verdict=Verdict(distance=1e-6)) == ["openvino", "llama"]


def test_an_engine_that_refused_is_not_asked_again() -> None:
    assert engines(verdict=Verdict(refusal="unknown architecture")) == ["llama"]


def test_a_model_may_want_another_engine_than_the_operator() -> None:
    assert engines(operator=OPENVINO, model=LLAMA) == ["llama"]
    assert engines(operator=LLAMA) == ["llama"]
    assert engines(operator=LLAMA, model=OPENVINO) == ["openvino"]
    assert engines(operator=LLAMA, model=AUTO) == ["openvino", "llama"]


def test_an_engine_that_is_wanted_and_missing_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match=r"pip install 'embedd-server\[openvino\]'"):
        engines(model=OPENVINO, installed=False)


NATIVE, EMULATED, NEITHER = {"avx512f", "avx512_bf16"}, {"avx2", "avx512f"}, {"avx2"}
AMX = {"avx512f", "amx_bf16"}
ARM = {"asimd", "bf16"}  # OpenVINO has no bf16 there


def openvino(
    cpu: set[str],
    operator: Precision = Precision.AUTO,
    model: Precision | None = None,
    engine: EngineChoice = AUTO,
) -> str:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
        precision=operator,
        engine=engine,
        cpu_features=cpu,
        has_openvino=True,
    )
    return loader.choose_backends(replace(SPEC, precision=model))[0].name


@pytest.mark.parametrize(
    ("cpu", "backend"),
    [
        (NATIVE, "openvino-bf16"),
        (AMX, "openvino-bf16"),
        (EMULATED, "openvino-f32"),
        (NEITHER, "openvino-f32"),
        (ARM, "openvino-f32"),
        (set[str](), "openvino-f32"),
    ],
)
def test_bf16_is_the_default_where_the_cpu_has_instructions_for_it(
    cpu: set[str], backend: str
) -> None:
    assert openvino(cpu) == backend


def test_a_model_may_want_another_precision_than_the_operator() -> None:
    assert openvino(NATIVE, Precision.F32) == "openvino-f32"
    assert openvino(NATIVE, Precision.F32, Precision.BF16) == "openvino-bf16"
    assert openvino(NATIVE, Precision.F32, Precision.AUTO) == "openvino-bf16"
    assert openvino(EMULATED, Precision.BF16) == "openvino-bf16"
    assert openvino(NEITHER, Precision.BF16, Precision.F32) == "openvino-f32"


@pytest.mark.parametrize("cpu", [NEITHER, ARM])
@pytest.mark.parametrize("engine", [AUTO, OPENVINO])
def test_bf16_on_a_cpu_that_cannot_is_an_error_that_says_what_to_do(
    cpu: set[str], engine: EngineChoice
) -> None:
    with pytest.raises(ModelLoadError, match=r"bf16.*AVX-512.*EMBEDD_PRECISION.*auto or f32"):
        openvino(cpu, Precision.BF16, engine=engine)
    assert openvino(cpu, Precision.BF16, engine=LLAMA) == "llama"


async def test_a_model_is_not_measured_where_there_is_no_room_for_another_worker() -> None:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=Known(None),
        metrics=Metrics(),
        estimate=lambda _spec: 1000,
        find_room=lambda: 999,
    )
    with pytest.raises(InsufficientMemoryError, match=r"1000 bytes, 999 are left.*EMBEDD_MEMORY"):
        await loader.calibrate(SPEC)


async def test_trials_have_ended_before_a_load_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
    )
    order = []

    async def end_trials() -> None:
        await asyncio.sleep(0)
        order.append("ended")

    async def start() -> None:
        order.append("started")
        raise ModelLoadError("enough")

    monkeypatch.setattr(loader._background, "end_trials", end_trials)
    monkeypatch.setattr(loader, "_start", start)
    with pytest.raises(ModelLoadError, match="enough"):
        await loader.load(SPEC)
    assert order == ["ended", "started"]


async def test_the_first_load_takes_the_worker_that_was_started_before_unless_it_died() -> None:
    waiting = [await WorkerProcess.start(worker_environment()) for _ in range(2)]
    dead, alive = waiting
    await dead.close()
    loader = Loader(
        environment=worker_environment(),
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
        take_worker=lambda: waiting.pop() if waiting else None,
    )
    assert await loader._start() is alive
    fresh = await loader._start()
    assert fresh is not dead
    assert fresh.death is None
    for worker in (alive, fresh):
        await worker.close()
    await loader.close()


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


async def test_a_file_that_is_only_tried_is_not_logged_as_loaded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loader = Loader(
        environment=worker_environment(),
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
        engine=EngineChoice.LLAMA,
    )
    path = write_tiny_bert(tmp_path / "tiny.gguf")
    with caplog.at_level(logging.INFO, "embedd.engine.loader"):
        await loader.verify(path, "tried")
        model = await loader.load(make_spec(path, Pooling.MEAN))
    await model.close()
    await loader.close()
    tried, loaded = caplog.records
    assert (tried.message, "tokenizer" in tried.__dict__) == ("model can be loaded", False)
    assert (loaded.message, "tokenizer" in loaded.__dict__) == ("model loaded", True)
