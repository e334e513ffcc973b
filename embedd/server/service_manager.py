"""What a server says to systemd and takes from it: `sd_notify(3)` and `sd_listen_fds(3)`."""

import logging
import socket
from pathlib import Path
from typing import Final

from embedd.config import Address
from embedd.errors import ConfigError

log = logging.getLogger(__name__)

FIRST_LISTENER: Final = 3  # the file descriptor after those of standard input, output and error


def notify(address: str, state: str) -> None:
    """Send *state* (``READY=1``, ``STOPPING=1``) to the socket *address*; "" sends nothing.

    An address that begins with ``@`` is in the abstract namespace. A failure is logged: the
    service runs on, and the manager has timeouts of its own.
    """
    if not address:
        return
    path = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(path)
            sock.send(state.encode())
    except OSError as error:
        log.warning(
            "the service manager cannot be notified",
            extra={"address": address, "state": state, "error": str(error)},
        )


def inherit_listeners(count: int, first: int = FIRST_LISTENER) -> list[socket.socket]:
    """Return the *count* listening sockets that the service manager opened.

    Raises:
        ConfigError: One of them is not a listening stream socket.
    """
    socks = []
    for descriptor in range(first, first + count):
        try:
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ConfigError(
                f"file descriptor {descriptor} of the service manager is not a socket: {error}"
            ) from error
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_ACCEPTCONN
        ):
            sock.close()
            raise ConfigError(
                f"file descriptor {descriptor} of the service manager does not listen for "
                "connections: use ListenStream= in the socket unit, and Accept=no"
            )
        sock.setblocking(False)  # noqa: FBT003 - the name of no keyword
        sock.set_inheritable(False)
        socks.append(sock)
    return socks


def find_address(sock: socket.socket) -> Address:
    """Return the address that an inherited listening socket is bound to."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return Address(socket=Path(name))
    return Address(host=name[0], port=name[1])
