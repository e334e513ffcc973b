"""Errors of calls to a worker process, besides those of `embedd.errors`."""

from embedd.errors import EmbeddError, EngineError, ModelLoadError, WorkerUnavailableError
from embedd.exhaustion import describe_exhaustion
from embedd.metrics import DeathReason


class WorkerDiedError(EngineError):
    """The worker process ended before it answered.

    Args:
        message: How it ended, see `describe_exit`.
        started: Whether it was computing the batch of this call.
        alone: Whether it was computing nothing but the batch of this call.
    """

    def __init__(
        self,
        message: str,
        reason: DeathReason = DeathReason.CRASHED,
        *,
        started: bool = False,
        alone: bool = False,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.started = started
        self.alone = alone

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the kernel ended it because memory ran out."""
        return self.reason is DeathReason.MEMORY

    @property
    def is_external(self) -> bool:
        """Whether another process killed or stopped it: no input and no backend is at fault."""
        return self.reason in (DeathReason.KILLED, DeathReason.STOPPED)

    @property
    def is_stuck_in_call(self) -> bool:
        """Whether it was ended because this call took too long."""
        return self.started and self.reason is DeathReason.STUCK


def to_start_error(error: OSError) -> EmbeddError:
    """Return why no worker process could be started, as an error of the model's load."""
    exhaustion = describe_exhaustion(error)
    if exhaustion is not None:
        return WorkerUnavailableError(f"cannot start a worker process: {exhaustion}")
    return ModelLoadError(f"cannot start a worker process: {error}")


class StuckError(EngineError):
    """The call took far too long, or was computed with one that did, and was stopped.

    Args:
        is_external: Whether the worker used no processor meanwhile: then it was not the fault of
            its input.
    """

    def __init__(self, message: str, *, is_external: bool = False) -> None:
        super().__init__(message)
        self.is_external = is_external


class SelfTestError(EngineError):
    """The worker computes wrong vectors on this backend; another one may do better."""
