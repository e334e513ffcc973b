"""The server's side of a load under way in a worker."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from embedd.engine.ipc import messages
from embedd.errors import EngineError, InsufficientMemoryError, ModelLoadError


class SelfTestError(EngineError):
    """The worker computes wrong vectors: another backend may do better."""


@dataclass(slots=True, eq=False)
class LoadWait:
    """A load under way; ``patience`` is in seconds without progress, None is endless."""

    ready: asyncio.Future[messages.Ready]
    report: Callable[[float], None]
    deadline: asyncio.Timeout
    patience: float | None

    def take(self, message: messages.Progress | messages.Ready | messages.Failed) -> None:
        """The worker says how far it is."""
        if self.ready.done():  # too late: nobody waits any more
            return
        match message:
            case messages.Progress():
                self._postpone_deadline()
                self.report(message.share)
            case messages.Ready():
                self.ready.set_result(message)
            case messages.Failed(fault=messages.Fault.MEMORY):
                self.ready.set_exception(InsufficientMemoryError(message.message))
            case messages.Failed(fault=messages.Fault.WRONG):
                self.ready.set_exception(SelfTestError(message.message))
            case messages.Failed():
                self.ready.set_exception(ModelLoadError(message.message))

    def _postpone_deadline(self) -> None:
        if self.patience is not None and not self.deadline.expired():
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.patience)
