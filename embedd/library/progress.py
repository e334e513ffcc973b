"""What a long call tells on its way: steps in Ollama's words."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from embedd.store.blobs import Report
from embedd.store.manifests import Layer

TICK: Final = 0.06  # seconds between two lines of one layer (contract 7.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A step in Ollama's words; *total* and *completed* in bytes."""

    status: str
    digest: str = ""
    total: int | None = None
    completed: int | None = None


ReportProgress: TypeAlias = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Report to nobody."""


class Paced:
    """Passes on what a stream shall hold of the progress of layers.

    The first and the last line of each, those between at least `TICK` apart, `completed`
    never less than before and left out while 0.
    """

    def __init__(self, report: ReportProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def __call__(self, progress: Progress) -> None:
        """Pass *progress* on, or not."""
        if progress.total is None:
            self._report(progress)
            return
        now = self._clock()
        then, before = self._told.get(progress.status, (float("-inf"), -1))
        completed = progress.completed or 0
        is_news = completed > before and (completed == progress.total or now - then >= TICK)
        if is_news:
            self._told[progress.status] = (now, completed)
            self._report(replace(progress, completed=completed or None))


def pulling(digest: str) -> str:
    """Status of the layer *digest* on its way."""
    return f"pulling {digest.removeprefix('sha256:')[:12]}"


def tell_pulled(layer: Layer, _: bool) -> Progress:  # noqa: FBT001 - what Steps passes
    """The line of a layer that was pulled, or was there."""
    return Progress(
        status=pulling(layer.digest), digest=layer.digest, total=layer.size, completed=layer.size
    )


def tell_created(layer: Layer, existed: bool) -> Progress:  # noqa: FBT001 - what Steps passes
    """The line of a layer that was created, or was there."""
    return Progress(
        status=f"{'using existing' if existed else 'creating new'} layer {layer.digest}"
    )


def bytes_as(report: ReportProgress, status: str, digest: str = "") -> Report:
    """A report of bytes that is told as progress of *status*."""

    def tell(done: int, total: int) -> None:
        report(Progress(status=status, digest=digest, total=total, completed=done))

    return tell
