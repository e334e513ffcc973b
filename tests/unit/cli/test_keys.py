"""Commands send the keys that the environment names."""

from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer


def test_a_command_sends_its_first_key(
    embedd: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_API_KEY", "one,two")
    assert embedd("embed", "all-minilm", "x").status == 0
    assert embedd("rm", "all-minilm").status == 0
    for path in ("/api/embed", "/api/delete"):
        assert server.keys[path] == "Bearer one"


def test_what_may_be_another_server_is_asked_its_name_without_a_key(
    embedd: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_API_KEY", "one")
    server.is_embedd = False
    assert embedd("--version").status == 0
    assert embedd("rm", "nothing").status == 1
    assert server.keys == {"/api/version": ""}


def test_managing_has_a_key_of_its_own(
    embedd: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_API_KEY", "one")
    monkeypatch.setenv("EMBEDD_ADMIN_KEY", "boss")
    assert embedd("rm", "all-minilm").status == 0
    assert embedd("ps").status == 0
    assert (server.keys["/api/delete"], server.keys["/api/ps"]) == ("Bearer boss", "Bearer one")


def test_the_file_that_the_server_reads_serves_the_commands_too(
    embedd: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("one\ntwo\n")
    monkeypatch.setenv("EMBEDD_API_KEY_FILE", str(tmp_path / "keys"))
    assert embedd("ps").status == 0
    assert server.keys["/api/ps"] == "Bearer one"


@pytest.mark.parametrize(
    ("status", "text", "named"),
    [
        (401, "unauthorized", ["EMBEDD_API_KEY", "EMBEDD_ADMIN_KEY"]),
        (403, "send an admin key (EMBEDD_ADMIN_KEY)", ["EMBEDD_ADMIN_KEY"]),
    ],
)
def test_a_key_that_does_not_suffice_is_an_error_that_names_the_variable(
    status: int, text: str, named: list[str], embedd: Run, server: FakeServer
) -> None:
    server.refusals["/api/delete"] = web.json_response({"error": text}, status=status)
    done = embedd("rm", "all-minilm")
    assert (done.status, text in done.err) == (1, True)
    assert all(name in done.err for name in named)


def test_the_file_can_be_an_option(embedd: Run, tmp_path: Path) -> None:
    assert embedd("serve", "--api-key-file", str(tmp_path / "nothing")).status == 2
