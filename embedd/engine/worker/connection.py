"""The worker's end of the socket to the server."""

import socket
import threading
from typing import TypeAlias

from embedd.engine.ipc import framing, messages
from embedd.types import TokenIds, Vectors

Answer: TypeAlias = tuple[messages.FromWorker, TokenIds | Vectors | None]


class Connection:
    """Sends and receives frames: one thread receives, any thread sends."""

    def __init__(self, sock: socket.socket) -> None:
        self._file = sock.makefile("rb")
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, *answers: Answer) -> None:
        """Write a frame for each message with its array, all in one write: one wakes the server."""
        frames = b"".join(part for answer in answers for part in framing.make_frame(*answer))
        with self._sending:
            self._sock.sendall(frames)

    def receive(self) -> tuple[messages.ToWorker, bytes] | None:
        """The next message with its array; None when the server has closed the socket."""
        prefix = self._file.read(framing.PREFIX.size)
        if len(prefix) < framing.PREFIX.size:
            return None
        header, array = framing.parse_prefix(prefix)
        body = self._file.read(header + array)
        if len(body) < header + array:
            return None
        return messages.parse_to_worker(body[:header]), body[header:]
