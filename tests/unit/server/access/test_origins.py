"""The origin policy: local hosts and pages, listed ones, and all others."""

import socket
from collections.abc import Sequence

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.access.origins import OriginPolicy, is_local_host

HERE = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    [
        "", "localhost", "LOCALHOST:11434", "localhost.", HERE, f"{HERE}:1", "127.0.0.1:11434",
        "127.9.9.9", "[::1]", "[::1]:11434", "0.0.0.0", "[::]:80", "10.0.0.7", "192.168.1.5:80",
        "172.16.0.1", "[fd00::1]:1", "[fe80::1]", "a.localhost", "nas.local", "x.internal:8080",
    ],
)  # fmt: skip
def test_local_names_and_private_addresses_are_allowed(host: str) -> None:
    assert OriginPolicy(check_host=True).allows_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:11434", "localhost.evil.example", "local", "internal",
        "8.8.8.8", "[2001:4860:4860::8888]", "localhost@evil.example", "127.0.0.1.evil.example",
        "[", "a b", "notlocalhost",
    ],
)  # fmt: skip
def test_other_names_are_rejected_where_hosts_are_checked(host: str) -> None:
    assert not OriginPolicy(check_host=True).allows_host(host)
    assert OriginPolicy(check_host=False).allows_host(host)


def test_listed_hosts_are_allowed_in_any_case_and_with_any_port() -> None:
    policy = OriginPolicy(check_host=True, hosts=["Embeddings.Example"])
    assert policy.allows_host("embeddings.example:8443")
    assert not policy.allows_host("x.embeddings.example")


def test_an_address_of_an_own_interface_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    address = type("Address", (), {"address": "8.8.4.4"})
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"eth0": [address]})
    is_local_host.cache_clear()
    assert is_local_host("8.8.4.4")
    is_local_host.cache_clear()


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost", "https://localhost:3000", "http://127.0.0.1:8080", "http://0.0.0.0",
        "app://obsidian.md", "file://", "tauri://localhost", "vscode-webview://abc",
        "vscode-file://x", "http://nas.lan:11434", "https://nas.lan:11434",
    ],
)  # fmt: skip
def test_local_pages_apps_and_the_servers_own_pages_are_allowed(origin: str) -> None:
    assert OriginPolicy(check_host=True).allows_origin(origin, "nas.lan:11434")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example", "null", "http://localhost.evil.example", "ftp://localhost",
        "http://localhost@evil.example", "http://nas.lan", "http://[", "localhost",
        "moz-extension://abc",
    ],
)  # fmt: skip
def test_other_pages_are_rejected(origin: str) -> None:
    assert not OriginPolicy(check_host=True).allows_origin(origin, "nas.lan:11434")


@pytest.mark.parametrize(
    ("pattern", "origin", "admitted"),
    [
        ("*", "https://anything.example", True),
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "https://app.example.evil", False),
        ("https://*.example", "https://a.b.example", True),
        ("https://*.example", "https://example", False),
        ("https://*.example", "http://a.example", False),
        ("moz-extension://*", "moz-extension://1-2-3", True),
        ("http://[fd00::1]:3000", "http://[fd00::1]:3000", True),
        ("http://a?c.example", "http://abc.example", False),
        ("http://aa*aa", "http://aaa", False),
    ],
)
def test_a_star_in_a_listed_origin_matches_anything(
    pattern: str, origin: str, admitted: bool
) -> None:
    assert OriginPolicy(check_host=True, origins=[pattern]).allows_origin(origin, "") is admitted


@given(st.text(), st.text(), st.lists(st.text()))
def test_any_header_is_allowed_or_rejected_without_an_error(
    origin: str, host: str, listed: Sequence[str]
) -> None:
    policy = OriginPolicy(check_host=True, hosts=listed, origins=listed)
    assert isinstance(policy.allows_origin(origin, host), bool)
    assert isinstance(policy.allows_host(host), bool)
