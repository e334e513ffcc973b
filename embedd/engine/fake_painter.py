"""A fake engine that paints, for tests: it keeps the protocol without weights.

The picture is a gradient that depends on the order and on nothing else, and a prompt can ask
for a fault: what a faulty model does to its process, this engine does on demand.
"""

import signal
import time
import zlib
from collections.abc import Callable
from typing import Self

import numpy as np

from embedd.engine.image_protocol import PictureOrder, Report, Show
from embedd.engine.image_spec import ImageInfo, ImageSpec
from embedd.errors import EngineError, ModelLoadError
from embedd.images import Phase, Pixels

INFO = ImageInfo(sampler="euler", engine="fake", backend="fake")

# Characters of the private use area, so that no prompt has them by chance.
KILL = "\ue000"  # crashes the process at the second step
BLANK = "\ue001"  # gives a picture of one colour
REFUSE = "\ue002"  # is an error of the engine
HANG = "\ue005"  # never gets past the first step


class FakePainter:
    """An engine whose pictures follow from their orders; see the module."""

    info = INFO

    @classmethod
    def load(
        cls,
        spec: ImageSpec,
        *,
        threads: int,
        report: Callable[[float], None] = lambda _share: None,
    ) -> Self:
        """As `DiffusionEngine.load`; a model whose files do not exist cannot be loaded."""
        del threads
        for path in spec.parts.values():
            if not path.exists():
                raise ModelLoadError(f"no such file: {path.name}")
        report(1.0)
        return cls()

    def paint(self, order: PictureOrder, report: Report, show: Show | None = None) -> Pixels:
        """See `ImageEngine.paint`."""
        if REFUSE in order.prompt:
            raise EngineError("the engine refused the picture")
        picture = paint_gradient(order)
        report(Phase.SAMPLING, 0)
        for step in range(1, order.steps + 1):
            self._fail_on_demand(order.prompt, step)
            if show is not None:
                show(step, picture[::8, ::8])
            report(Phase.SAMPLING, step)
        report(Phase.DECODING, order.steps)
        return np.full_like(picture, 255) if BLANK in order.prompt else picture

    def close(self) -> None:
        """See `ImageEngine.close`; no effect."""

    def _fail_on_demand(self, prompt: str, step: int) -> None:
        if KILL in prompt and step == 2:
            signal.raise_signal(signal.SIGSEGV)
        while HANG in prompt:
            time.sleep(0.05)


def paint_gradient(order: PictureOrder) -> Pixels:
    """A gradient in all three colours; without guidance the negative prompt has no effect."""
    negative = order.negative if order.guidance > 1 else ""
    facts = (order.prompt, negative, order.seed, order.steps, order.guidance)
    offset = zlib.crc32(repr(facts).encode("utf-8", "replace"))
    rows, columns = np.ogrid[: order.painted_height, : order.painted_width]
    colours = [
        rows + (offset & 255),
        columns + (offset >> 8 & 255),
        rows + columns + (offset >> 16),
    ]
    shape = (order.painted_height, order.painted_width)
    return np.stack([np.broadcast_to(colour % 256, shape) for colour in colours], axis=-1).astype(
        np.uint8
    )
