"""Listening sockets: which families an address has, and what is said of one in use."""

import socket
from collections.abc import Iterator

import pytest

from embedd.config import Address, parse_host
from embedd.errors import ConfigError
from embedd.server.serve import bind

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def bound(request: pytest.FixtureRequest) -> Iterator[list[socket.socket]]:
    socks = bind(request.param)
    yield socks
    for sock in socks:
        sock.close()


def answers(family: socket.AddressFamily, port: int) -> bool:
    with socket.socket(family) as client:
        return client.connect_ex((LOOPBACK[family], port)) == 0


@needs_ipv6
@pytest.mark.parametrize("bound", [parse_host("localhost:0"), parse_host(":0")], indirect=True)
def test_localhost_and_a_port_alone_are_reached_over_both_families(
    bound: list[socket.socket],
) -> None:
    port = bound[0].getsockname()[1]
    assert [answers(family, port) for family in LOOPBACK] == [True, True]


@needs_ipv6
def test_localhost_is_refused_if_one_family_is_in_use() -> None:
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"localhost:{port} is in use"):
            bind(Address(host="localhost", port=port))
        assert not answers(socket.AF_INET, port)  # what was bound first is closed


@pytest.mark.parametrize("address", [parse_host("localhost:0"), parse_host(":0")])
def test_a_machine_without_ipv6_serves_ipv4(
    monkeypatch: pytest.MonkeyPatch, address: Address
) -> None:
    real = socket.socket.bind

    def bind_ipv4(sock: socket.socket, where: tuple[str, int]) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        real(sock, where)

    monkeypatch.setattr(socket.socket, "bind", bind_ipv4)
    (sock,) = bind(address)
    with sock:
        assert answers(socket.AF_INET, sock.getsockname()[1])
