"""A disk on which the process dies at a chosen step."""

from collections.abc import Callable
from pathlib import Path

from embedd.store.disk import Disk


class ProcessDied(BaseException):
    """As after kill -9: nothing later runs, not even what tidies up."""


class FaultyDisk(Disk):
    """Does *steps* steps, then dies: before or after the next one; or raises *error*."""

    def __init__(
        self, steps: int, *, done_first: bool = False, error: OSError | None = None
    ) -> None:
        self.left = steps
        self._done_first = done_first
        self._error = error

    @property
    def died(self) -> bool:
        return self.left < 0

    def sync(self, path: Path) -> None:
        self._step(lambda: super(FaultyDisk, self).sync(path))

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: super(FaultyDisk, self).rename(source, target))

    def remove(self, path: Path) -> None:
        self._step(lambda: super(FaultyDisk, self).remove(path))

    def _step(self, action: Callable[[], None]) -> None:
        if self.left < 0 and self._error is None:
            raise ProcessDied
        self.left -= 1
        if self.left == -1:
            if self._done_first:
                action()
            raise self._error or ProcessDied
        action()
