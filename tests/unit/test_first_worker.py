"""The worker that starts while the server still imports: taken once, or ended."""

import os
from collections.abc import Mapping

import pytest

from embedd import first_worker
from embedd.engine.host.process import WorkerProcess
from embedd.errors import WorkerUnavailableError
from embedd.first_worker import FirstWorker
from embedd.types import EngineChoice
from tests.conftest import MakeSettings


async def test_the_process_is_taken_once_and_is_then_its_takers_own(
    make_settings: MakeSettings,
) -> None:
    first = await FirstWorker.start(make_settings())
    worker = first.take()
    assert worker is not None
    assert first.take() is None
    await first.close()
    assert worker.death is None
    await worker.close()


async def test_a_process_that_is_not_taken_ends(make_settings: MakeSettings) -> None:
    first = await FirstWorker.start(make_settings())
    assert first._worker is not None
    pid = first._worker.pid
    await first.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert first.take() is None


@pytest.mark.parametrize(
    ("wish", "installed", "expected"),
    [
        (EngineChoice.AUTO, True, "openvino"),
        (EngineChoice.AUTO, False, "llama"),
        (EngineChoice.LLAMA, True, "llama"),
    ],
)
async def test_it_imports_the_engine_that_most_models_are_computed_with(
    wish: EngineChoice,
    installed: bool,
    expected: str,
    make_settings: MakeSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    imported: list[str] = []
    monkeypatch.setattr(WorkerProcess, "expect", lambda _worker, engine: imported.append(engine))
    monkeypatch.setattr(first_worker, "has_openvino", lambda: installed)
    first = await FirstWorker.start(make_settings(engine=wish))
    await first.close()
    assert imported == [expected]


async def test_there_is_none_where_a_gpu_may_compute_or_no_process_can_start(
    make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(environment: Mapping[str, str]) -> WorkerProcess:
        del environment
        raise WorkerUnavailableError("no process is left")

    with monkeypatch.context() as patched:
        patched.setattr(first_worker, "has_gpu_build", lambda _names: True)
        assert (await FirstWorker.start(make_settings())).take() is None
    monkeypatch.setattr(WorkerProcess, "start", refuse)
    assert (await FirstWorker.start(make_settings())).take() is None
