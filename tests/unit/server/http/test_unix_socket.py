"""A Unix socket: its mode, and what is left of it."""

import socket
import stat
from pathlib import Path

import pytest

from embedd.errors import ConfigError
from embedd.server.http.unix_socket import bind_unix, remove_at_the_end


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_the_mode_that_is_asked_for(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path, mode=mode, backlog=1):
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_socket_in_use_is_left_alone_and_one_without_a_server_is_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s"
    with bind_unix(path, mode=0o600, backlog=1), pytest.raises(ConfigError, match="in use"):
        bind_unix(path, mode=0o600, backlog=1)
    bind_unix(path, mode=0o600, backlog=1).close()


def test_a_place_without_a_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path / "no" / "s")):
        bind_unix(tmp_path / "no" / "s", mode=0o600, backlog=1)


async def test_the_socket_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with bind_unix(path, mode=0o600, backlog=1):
        async with remove_at_the_end(path):
            pass
    assert not path.is_socket()


async def test_the_socket_of_a_later_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = bind_unix(path, mode=0o600, backlog=1)
    async with remove_at_the_end(path):
        path.rename(tmp_path / "moved")  # keeps its inode in use
        second = socket.socket(socket.AF_UNIX)
        second.bind(str(path))
    first.close()
    second.close()
    assert path.is_socket()


async def test_without_a_unix_socket_nothing_is_removed() -> None:
    async with remove_at_the_end(None):
        pass
