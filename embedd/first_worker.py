"""A server's first worker, which starts before the server imports more than its settings."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from embedd.choices import EngineChoice
from embedd.config import Settings, worker_environment
from embedd.engine.host.spawned import SpawnedWorker, spawn_worker
from embedd.engine.installation import find_llama_libraries, has_gpu_build, has_openvino
from embedd.tokenizers.environment import library_environment

if TYPE_CHECKING:
    from embedd.engine.host.process import WorkerProcess

MODULE: Final = "embedd.engine.worker"


class FirstWorker:
    """A worker process for the first load, or none. Made by `start`."""

    def __init__(self, spawned: SpawnedWorker | None = None) -> None:
        self._spawned = spawned
        self._worker: WorkerProcess | None = None

    @classmethod
    def start(cls, settings: Settings) -> "FirstWorker":
        """Start a process that imports the engine that most models are computed with.

        There is none if it cannot start: the load, which starts its own, then says why. Nor on a
        build for a GPU, whose libraries behave differently on the CPU and have to know before.
        """
        if has_gpu_build(find_llama_libraries()):
            return cls()
        with_openvino = settings.engine is not EngineChoice.LLAMA and has_openvino()
        engine = "openvino" if with_openvino else "llama"
        try:
            return cls(spawn_worker(MODULE, engine, make_environment(settings)))
        except OSError:
            return cls()

    async def adopt(self) -> None:
        """Watch the process, from the running event loop on, so that it can be taken."""
        from embedd.engine.host.process import WorkerProcess  # noqa: PLC0415 - it has been started

        spawned, self._spawned = self._spawned, None
        if spawned is not None:
            self._worker = await WorkerProcess.adopt(spawned)

    def take(self) -> "WorkerProcess | None":
        """Return the process, which the caller then has to close; None if there is none left."""
        worker, self._worker = self._worker, None
        return worker

    async def close(self) -> None:
        """End the process if it was not taken."""
        await self.adopt()
        if (worker := self.take()) is not None:
            await worker.close()


def make_environment(settings: Settings) -> Mapping[str, str]:
    """Return the environment variables of processes that compute vectors."""
    return worker_environment() | library_environment(settings.threads)
