"""Messages between the server and a worker that paints: the headers of frames, see `framing`.

Any call may be answered with `messages.Failed`.
"""

from typing import TypeAlias

import msgspec

from embedd.engine.image_protocol import PictureOrder
from embedd.engine.image_spec import ImageInfo, ImageSpec
from embedd.engine.ipc.messages import Failed, Ping, Pong, Progress, to_path
from embedd.images import Phase


class LoadPainter(msgspec.Struct, tag="load", frozen=True, kw_only=True):
    """Load an image model; the first message to every worker. The answer is `PainterReady`.

    Args:
        engine: Which implementation loads it.
    """

    id: int = 0
    spec: ImageSpec
    engine: str
    threads: int


class Paint(msgspec.Struct, tag="paint", frozen=True):
    """Paint a picture. The answer is `Painted`, after some of `Step` and `Previewed`."""

    id: int
    order: PictureOrder


class PainterReady(msgspec.Struct, tag="ready", frozen=True):
    """Answer to `LoadPainter`: the model is loaded."""

    id: int
    info: ImageInfo


class Step(msgspec.Struct, tag="step", frozen=True):
    """So many steps of a picture are done; a sign of life if that is nothing new."""

    id: int
    phase: Phase
    step: int


class Previewed(msgspec.Struct, tag="preview", frozen=True):
    """The array is a file that shows a picture after so many steps."""

    id: int
    step: int
    number: int


class Painted(msgspec.Struct, tag="painted", frozen=True):
    """Answer to `Paint`: the array is the file; decoding includes its encoding."""

    id: int
    sample_seconds: float
    decode_seconds: float


ToPainter: TypeAlias = LoadPainter | Paint | Ping
FromPainter: TypeAlias = Progress | PainterReady | Step | Previewed | Painted | Pong | Failed

_to_painter: msgspec.msgpack.Decoder[ToPainter] = msgspec.msgpack.Decoder(
    ToPainter, dec_hook=to_path
)
_from_painter: msgspec.msgpack.Decoder[FromPainter] = msgspec.msgpack.Decoder(FromPainter)


def parse_to_painter(header: bytes) -> ToPainter:
    """The message in the header of a frame from the server.

    Raises:
        msgspec.MsgspecError: It is not one.
    """
    return _to_painter.decode(header)


def parse_from_painter(header: bytes | memoryview) -> FromPainter:
    """The message in the header of a frame from a worker.

    Raises:
        msgspec.MsgspecError: It is not one.
    """
    return _from_painter.decode(header)
