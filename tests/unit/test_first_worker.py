"""The worker that starts before the server imports: taken once, or ended."""

import os
import signal
from collections.abc import Mapping

import pytest

from embedd import first_worker
from embedd.choices import EngineChoice
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.spawned import SpawnedWorker
from embedd.first_worker import FirstWorker
from embedd.metrics import DeathReason
from tests.conftest import MakeSettings


async def test_the_process_is_taken_once_and_is_then_its_takers_own(
    make_settings: MakeSettings,
) -> None:
    first = FirstWorker.start(make_settings())
    await first.adopt()
    worker = first.take()
    assert worker is not None
    assert first.take() is None
    await first.close()
    assert worker.death is None
    await worker.close()


@pytest.mark.parametrize("adopted", [True, False])
async def test_a_process_that_is_not_taken_ends(adopted: bool, make_settings: MakeSettings) -> None:
    first = FirstWorker.start(make_settings())
    assert first._spawned is not None
    pid = first._spawned.process.pid
    if adopted:
        await first.adopt()
    await first.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert first.take() is None


async def test_the_server_notices_the_end_of_a_process_that_it_adopted(
    make_settings: MakeSettings,
) -> None:
    first = FirstWorker.start(make_settings())
    await first.adopt()
    worker = first.take()
    assert worker is not None
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL") as caught:
        await worker.tokenize(["a"])
    assert caught.value.reason is DeathReason.KILLED
    await worker.close()


@pytest.mark.parametrize(
    ("wish", "installed", "expected"),
    [
        (EngineChoice.AUTO, True, "openvino"),
        (EngineChoice.AUTO, False, "llama"),
        (EngineChoice.LLAMA, True, "llama"),
    ],
)
def test_it_imports_the_engine_that_most_models_are_computed_with(
    wish: EngineChoice,
    installed: bool,
    expected: str,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[str] = []

    def spawn(module: str, engine: str, environment: Mapping[str, str]) -> SpawnedWorker:
        del module, environment
        imported.append(engine)
        raise OSError

    monkeypatch.setattr(first_worker, "spawn_worker", spawn)
    monkeypatch.setattr(first_worker, "has_openvino", lambda: installed)
    FirstWorker.start(make_settings(engine=wish))
    assert imported == [expected]


async def test_there_is_none_where_a_gpu_may_compute_or_no_process_can_start(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(first_worker, "has_gpu_build", lambda _names: True)
        first = FirstWorker.start(make_settings())
    await first.adopt()
    assert first.take() is None
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    first = FirstWorker.start(make_settings())
    await first.adopt()
    assert first.take() is None
