"""The worker's end of the socket to the server."""

import socket
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import msgspec
import numpy.typing as npt

from embedd.engine.ipc import framing

Answer: TypeAlias = tuple[msgspec.Struct, npt.NDArray[Any] | None]
_Message = TypeVar("_Message")


class Connection(Generic[_Message]):
    """Sends and receives frames: one thread receives, any thread sends.

    Args:
        parse: Returns the message in the header of a frame.
    """

    def __init__(self, sock: socket.socket, parse: Callable[[bytes], _Message]) -> None:
        self._parse = parse
        self._file = sock.makefile("rb")
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, *answers: Answer) -> None:
        """Write a frame for each message with its array, all in one write: one wakes the server."""
        frames = b"".join(part for answer in answers for part in framing.make_frame(*answer))
        with self._sending:
            self._sock.sendall(frames)

    def receive(self) -> tuple[_Message, bytes] | None:
        """The next message with its array; None when the server has closed the socket."""
        prefix = self._file.read(framing.PREFIX.size)
        if len(prefix) < framing.PREFIX.size:
            return None
        header, array = framing.parse_prefix(prefix)
        body = self._file.read(header + array)
        if len(body) < header + array:
            return None
        return self._parse(body[:header]), body[header:]
