"""Messages to and from workers that paint cross the socket as they are."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from embedd.engine.fake_painter import INFO
from embedd.engine.ipc import framing
from embedd.engine.ipc.image_messages import (
    FromPainter,
    LoadPainter,
    Paint,
    Painted,
    PainterReady,
    Previewed,
    Step,
    ToPainter,
    parse_from_painter,
    parse_to_painter,
)
from embedd.engine.ipc.messages import Failed, Fault, Ping, Pong, Progress
from embedd.images import ImagePart, Phase
from tests.unit.painter.images import make_image_spec
from tests.unit.painter.orders import make_order

PARTS = {ImagePart.DIFFUSION: Path("/models/d"), ImagePart.VAE: Path("/models/v")}


def split(message: Any, array: Any = None) -> tuple[bytes, bytes]:
    frame = b"".join(framing.make_frame(message, array))
    header, payload = framing.parse_prefix(frame[: framing.PREFIX.size])
    start = framing.PREFIX.size + header
    assert len(frame) == start + payload
    return frame[framing.PREFIX.size : start], frame[start:]


@pytest.mark.parametrize(
    "message",
    [
        LoadPainter(id=1, spec=make_image_spec(parts=PARTS), engine="fake", threads=2),
        Paint(2, make_order("größer 😀", negative="x", quality=80, text="a\nb", previews=3)),
        Ping(),
    ],
)
def test_a_message_to_a_worker_arrives_as_it_is(message: ToPainter) -> None:
    header, _ = split(message)
    assert parse_to_painter(header) == message


@pytest.mark.parametrize(
    "message",
    [
        Progress(0.5),
        Pong(),
        PainterReady(1, INFO),
        Step(2, Phase.SAMPLING, 3),
        Previewed(2, 3, 0),
        Painted(2, 1.5, 0.5),
        Failed(2, "no", Fault.MODEL),
    ],
)
def test_a_message_from_a_worker_arrives_as_it_is(message: FromPainter) -> None:
    header, _ = split(message)
    assert parse_from_painter(memoryview(header)) == message


def test_a_file_travels_as_the_array_of_its_message() -> None:
    data = bytes(range(256))
    _, payload = split(Painted(1, 0.0, 0.0), np.frombuffer(data, np.uint8))
    assert payload == data


def test_what_is_not_a_message_is_an_error() -> None:
    for parse in (parse_to_painter, parse_from_painter):
        with pytest.raises(msgspec.MsgspecError):
            parse(b"\xc0")
