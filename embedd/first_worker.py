"""A server's first worker, which starts while the server still imports its own modules."""

from collections.abc import Mapping

from embedd.config import Settings, worker_environment
from embedd.engine.host.process import WorkerProcess
from embedd.engine.installation import find_llama_libraries, has_gpu_build, has_openvino
from embedd.errors import EmbeddError
from embedd.tokenizers.environment import library_environment
from embedd.types import EngineChoice


class FirstWorker:
    """A worker process for the first load, or none. Made by `start`."""

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        self._worker = worker

    @classmethod
    async def start(cls, settings: Settings) -> "FirstWorker":
        """Start a process that imports the engine that most models are computed with.

        There is none if it cannot start: the load, which starts its own, then says why. Nor on a
        build for a GPU, whose libraries behave differently on the CPU and have to know before.
        """
        if has_gpu_build(find_llama_libraries()):
            return cls()
        try:
            worker = await WorkerProcess.start(make_environment(settings))
        except EmbeddError:
            return cls()
        with_openvino = settings.engine is not EngineChoice.LLAMA and has_openvino()
        worker.expect("openvino" if with_openvino else "llama")
        return cls(worker)

    def take(self) -> WorkerProcess | None:
        """Return the process, which the caller then has to close; None if there is none left."""
        worker, self._worker = self._worker, None
        return worker

    async def close(self) -> None:
        """End the process if it was not taken."""
        if (worker := self.take()) is not None:
            await worker.close()


def make_environment(settings: Settings) -> Mapping[str, str]:
    """Return the environment variables of processes that compute vectors."""
    return worker_environment() | library_environment(settings.threads)
