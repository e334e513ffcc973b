"""What a long call tells on its way: steps in Ollama's words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from embedd.store.blobs import Report
from embedd.store.manifests import Layer


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
