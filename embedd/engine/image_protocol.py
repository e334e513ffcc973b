"""The protocol of engines that paint, and what they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from embedd.engine.image_spec import ImageInfo
from embedd.images import ImageFormat, Phase, Pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureOrder:
    """One picture to paint. Every number was checked: a library may abort on others.

    Args:
        width, height: Size of the file: the middle of what is painted.
        painted_width, painted_height: Size to paint, multiples of the family's.
        text: Written into the file; empty for none.
        previews: How many previews to send, evenly over the steps.
    """

    prompt: str
    negative: str
    width: int
    height: int
    painted_width: int
    painted_height: int
    steps: int
    guidance: float
    seed: int
    format: ImageFormat
    quality: int | None = None
    text: str = ""
    previews: int = 0


# Called with the phase and the number of steps that are done; only a sign of life if both are
# what they were.
Report = Callable[[Phase, int], None]
# Called with the number of steps that are done, and a small picture of what they gave.
Show = Callable[[int, Pixels], None]


class ImageEngine(Protocol):
    """A loaded image model that paints. All calls block; one thread makes them.

    Implementations have a class method ``load`` with the arguments of `DiffusionEngine.load`.
    """

    @property
    def info(self) -> ImageInfo:
        """Facts that do not change while the model is loaded."""
        ...

    def paint(self, order: PictureOrder, report: Report, show: Show | None = None) -> Pixels:
        """The picture, of the painted size; equal orders give equal pictures.

        Args:
            show: Called after every step, before its report; None where no preview is wanted.

        Raises:
            EngineError: Painting failed. The next call is not affected.
        """
        ...

    def close(self) -> None:
        """Free everything. No call may follow."""
        ...
