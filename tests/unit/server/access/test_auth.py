"""API keys: what each allows, and when the file of keys is read again."""

import logging
import os
from pathlib import Path

import pytest

from embedd.errors import ConfigError
from embedd.server.access.auth import PUBLIC_PATHS, Access, KeyFile, Keys, choose_access
from embedd.server.app import DIALECTS
from embedd.server.dialects.a1111 import options, paint
from embedd.server.dialects.ollama import blobs, create, models, pull

KEYS = Keys(listed=["one", "two"], admin=["three"])


def bearer(key: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"Authorization": f"{scheme} {key}"}


@pytest.mark.parametrize(
    ("headers", "use", "manage"),
    [
        ({}, False, False),
        (bearer("one"), True, False),
        (bearer("two", "bEARER"), True, False),
        ({"X-Api-Key": "two"}, True, False),
        (bearer("three"), False, True),
        ({"X-Api-Key": "three"}, False, True),
        (bearer("wrong") | {"X-Api-Key": "one"}, True, False),
        (bearer("one") | {"X-Api-Key": "wrong"}, True, False),
        (bearer("one", "Basic"), False, False),
        (bearer(""), False, False),
        (bearer("on"), False, False),
        (bearer("one,two"), False, False),
        ({"X-Api-Key": "\udcff\u20ac"}, False, False),
    ],
)
def test_a_key_allows_the_routes_it_is_for(
    headers: dict[str, str], *, use: bool, manage: bool
) -> None:
    assert KEYS.admit(Access.PUBLIC, headers)
    assert KEYS.admit(Access.USE, headers) == use
    assert KEYS.admit(Access.MANAGE, headers) == manage


def test_without_an_admin_key_an_api_key_manages() -> None:
    keys = Keys(listed=["one"])
    assert keys.admit(Access.MANAGE, bearer("one"))
    assert not keys.admit(Access.MANAGE, {})


def test_an_admin_key_alone_protects_management_only() -> None:
    keys = Keys(admin=["three"])
    assert keys.admit(Access.USE, bearer(""))
    assert not keys.admit(Access.MANAGE, bearer(""))


@pytest.mark.parametrize("headers", [{}, bearer(""), bearer("any"), {"X-Api-Key": ""}])
def test_without_keys_access_is_unrestricted(headers: dict[str, str]) -> None:
    assert all(Keys().admit(access, headers) for access in Access)


MANAGING = {
    blobs.add_blob, blobs.has_blob, create.create, models.copy, models.delete, pull.pull, pull.push,
    options.set_options, paint.interrupt,
}  # fmt: skip


def test_every_route_has_the_access_level_of_the_contract() -> None:
    found = set()
    for dialect in DIALECTS:
        for route in dialect.routes:
            access = choose_access(route.method, route.path)
            found.add(access)
            if route.method == "GET" and route.path in PUBLIC_PATHS:
                assert access is Access.PUBLIC
            elif route.endpoint in MANAGING:
                assert access is Access.MANAGE
            else:
                assert access is Access.USE
    assert found == set(Access)
    assert choose_access("POST", "/") is Access.USE


def test_an_owner_is_the_holder_of_a_key_and_is_not_its_text() -> None:
    owners = [KEYS.owner(headers) for headers in (bearer("one"), bearer("two"), {})]
    assert len(set(owners)) == 3
    assert KEYS.owner({"X-Api-Key": "one"}) != ""
    assert "one" not in owners[0]
    # Without keys all clients are the same, whatever they send.
    assert Keys().owner(bearer("one")) == Keys().owner({}) == ""


def write(path: Path, text: str, *, time: int) -> None:
    path.write_text(text)
    os.utime(path, (time, time))


def test_a_file_of_keys_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write(path, "one\r\n two ,three\n\n", time=1)
    keys = Keys(file=KeyFile(path))
    assert [keys.admit(Access.USE, bearer(key)) for key in ("one", "two", "three", "four")] == [
        True, True, True, False
    ]  # fmt: skip
    write(path, "four", time=2)
    assert not keys.admit(Access.USE, bearer("one"))
    assert keys.admit(Access.USE, bearer("four"))


def test_a_changed_file_of_keys_that_looks_unchanged_is_read_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    write(path, "one", time=1)
    keys = Keys(file=KeyFile(path))
    write(path, "two", time=1)
    assert keys.admit(Access.USE, bearer("one"))
    with caplog.at_level(logging.INFO):
        keys.reload()
    assert not keys.admit(Access.USE, bearer("one"))
    assert keys.admit(Access.USE, bearer("two"))
    assert "API keys read again" in caplog.text


def test_a_file_of_keys_that_cannot_be_read_again_leaves_its_keys_valid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("one")
    path.chmod(0o600)
    keys = Keys(file=KeyFile(path))
    path.unlink()
    with caplog.at_level(logging.INFO):
        keys.reload()
    assert [record.message for record in caplog.records] == [
        "API keys not read, the previous ones stay valid"
    ]
    assert keys.admit(Access.USE, bearer("one"))


def test_keys_without_a_file_have_nothing_to_read_again() -> None:
    keys = Keys(listed=("one",))
    keys.reload()
    assert keys.admit(Access.USE, bearer("one"))


def test_a_key_file_that_is_emptied_refuses_every_key(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    write(path, "one", time=1)
    keys = Keys(file=KeyFile(path))
    write(path, "", time=2)
    assert not keys.admit(Access.USE, bearer("one"))
    assert not keys.admit(Access.USE, {})


def test_a_key_file_that_disappears_leaves_its_keys_valid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("one")
    keys = Keys(file=KeyFile(path))
    path.unlink()
    assert keys.admit(Access.USE, bearer("one"))
    assert "API keys not read" in caplog.text


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_file_that_other_users_can_read_is_a_warning(
    mode: int, *, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text("one")
    path.chmod(mode)
    KeyFile(path)
    assert ("chmod 600" in caplog.text) == warned
    assert [record.__dict__["path"] for record in caplog.records] == [path] * warned


@pytest.mark.parametrize("data", [None, b"", b" ,\n", b"\xff"])
def test_a_file_without_keys_is_an_error_at_start(tmp_path: Path, data: bytes | None) -> None:
    path = tmp_path / "keys"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(ConfigError, match=str(path)):
        KeyFile(path)
