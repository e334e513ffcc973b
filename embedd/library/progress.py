"""Progress of a pull or create: lines in Ollama's words, and how often they are sent."""

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import structs

from embedd.ollama_api import ProgressLine
from embedd.store.blobs import Report
from embedd.store.manifests import Layer

INTERVAL: Final = 0.06  # seconds between two lines of one layer (contract 7.2)

ReportProgress: TypeAlias = Callable[[ProgressLine], None]


def ignore(_: ProgressLine) -> None:
    """Do not report."""


class Paced:
    """Passes lines on to *report*, those with bytes not too often.

    Of each layer the first and the last line, and between them lines that are at least
    `INTERVAL` apart; `completed` never decreases and is left out while it is 0.
    """

    def __init__(self, report: ReportProgress, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._sent: dict[str, tuple[float, int]] = {}

    def __call__(self, line: ProgressLine) -> None:
        """Pass *line* on, unless it comes too early or says nothing new."""
        if line.total is None:
            self._report(line)
            return
        now = self._clock()
        then, before = self._sent.get(line.status, (float("-inf"), -1))
        completed = line.completed or 0
        if completed > before and (completed == line.total or now - then >= INTERVAL):
            self._sent[line.status] = (now, completed)
            self._report(structs.replace(line, completed=completed or None))


def pulling(digest: str) -> str:
    """Status while the layer *digest* is pulled."""
    return f"pulling {digest.removeprefix('sha256:')[:12]}"


def pulled_line(layer: Layer) -> ProgressLine:
    """The line of a layer that was pulled, or that was stored already."""
    return ProgressLine(
        status=pulling(layer.digest), digest=layer.digest, total=layer.size, completed=layer.size
    )


def created_line(layer: Layer, existed: bool) -> ProgressLine:  # noqa: FBT001 - one of two words
    """The line of a layer of a new model, which may have *existed* before."""
    return ProgressLine(
        status=f"{'using existing' if existed else 'creating new'} layer {layer.digest}"
    )


def report_bytes(report: ReportProgress, status: str, digest: str | None = None) -> Report:
    """A function of bytes done and bytes in total that calls *report* with *status*."""

    def report_line(done: int, total: int) -> None:
        report(ProgressLine(status=status, digest=digest, total=total, completed=done))

    return report_line
