"""A Unix socket that the server listens on: who may connect to it, and its end."""

import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from embedd.errors import ConfigError

BACKLOG: Final = 1024  # connections that the kernel holds while the event loop is busy


def bind_unix(path: Path, *, mode: int, backlog: int) -> socket.socket:
    """Return a socket that listens on *path*, which only those may use whom *mode* allows.

    Raises:
        ConfigError: Another server listens there, or the file cannot be made.
    """
    if _is_listening(path):
        raise ConfigError(f"{path} is in use by another server: stop it or choose another")
    sock = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket():
            path.unlink()  # left behind by a server that was killed
        sock.bind(str(path))
        # Before it listens: until then every connection is refused.
        path.chmod(mode)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}") from error
    return sock


def _is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.connect(str(path))
        return True
    return False


@asynccontextmanager
async def remove_at_the_end(path: Path | None) -> AsyncIterator[None]:
    """Remove the socket at *path* when the block ends, unless another has taken its place."""
    if path is None:
        yield
        return
    bound = _identify(path)
    try:
        yield
    finally:
        _remove(path, bound)


def _identify(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _remove(path: Path, bound: tuple[int, int]) -> None:
    with contextlib.suppress(OSError):
        if _identify(path) == bound:
            path.unlink()
