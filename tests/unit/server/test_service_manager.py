"""What a service manager gives is used only if it is what a server can use."""

import socket
from pathlib import Path

import pytest

from embedd.config import Address, ServiceManager, read_service_manager
from embedd.errors import ConfigError
from embedd.server.service_manager import find_address, inherit_listeners, notify


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ServiceManager()),
        ({"NOTIFY_SOCKET": "/run/n"}, ServiceManager(notify="/run/n")),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, ServiceManager(listeners=2)),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, ServiceManager()),  # another process's
        ({"LISTEN_FDS": "2"}, ServiceManager()),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "two"}, ServiceManager()),
    ],
)
def test_only_what_is_for_this_process_counts(
    environ: dict[str, str], expected: ServiceManager
) -> None:
    assert read_service_manager(environ, pid=7) == expected


def test_an_abstract_address_is_notified() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # an abstract name that the kernel chooses
        notify("@" + manager.getsockname()[1:].decode(), "READY=1")
        assert manager.recv(100) == b"READY=1"


def test_a_manager_that_is_gone_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notify(str(tmp_path / "gone"), "READY=1")
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == (
        "WARNING",
        "the service manager cannot be notified",
    )


def test_listeners_are_inherited_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address(host="127.0.0.1", port=listener.getsockname()[1])
        [inherited] = inherit_listeners(1, listener.detach())
        with inherited:
            assert find_address(inherited) == address
            assert not inherited.get_inheritable()


def test_a_unix_socket_keeps_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "embedd"))
        assert find_address(listener) == Address(socket=tmp_path / "embedd")


def test_what_does_not_listen_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams:
        descriptor = datagrams.detach()
    with pytest.raises(ConfigError, match=f"file descriptor {descriptor} .* does not listen"):
        inherit_listeners(1, descriptor)
    with (
        (tmp_path / "file").open("w") as file,
        pytest.raises(ConfigError, match=f"file descriptor {file.fileno()} .* is not a socket"),
    ):
        inherit_listeners(1, file.fileno())
