"""create, pull, list and rm: on this machine's store, or through another machine's server."""

from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.cli.conftest import FakeLibrary, Run
from tests.unit.cli.fake_server import FakeServer

NOBODY = "Error: could not connect to embedd server, run 'embedd serve' to start it\n"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("command", ["list", "ls"])
def test_list_shows_the_store_without_a_server(embedd: Run, command: str) -> None:
    lines = embedd(command).out.splitlines()
    assert lines[0] == "NAME                 ID              SIZE     MODIFIED"
    assert lines[1].startswith("all-minilm:latest    1b226e2802db    45 MB    ")
    assert lines[1].endswith(" years ago")
    assert len(lines) == 3


@pytest.mark.usefixtures("library")
def test_list_takes_a_prefix_in_any_case(embedd: Run) -> None:
    assert [line.split()[0] for line in embedd("list", "ALL-").out.splitlines()] == [
        "NAME",
        "all-minilm:latest",
    ]


def test_an_empty_store_is_the_header_alone(embedd: Run, library: FakeLibrary) -> None:
    library.names = []
    assert embedd("list").out == "NAME    ID    SIZE    MODIFIED\n"


@pytest.mark.usefixtures("library", "_remote")
def test_list_asks_a_server_elsewhere(embedd: Run, server: FakeServer) -> None:
    assert len(embedd("list").out.splitlines()) == 2
    assert server.asked[-1][1] == "/api/tags"


@pytest.mark.usefixtures("library", "_nobody", "_remote")
@pytest.mark.parametrize("args", [["list"], ["pull", "m"], ["rm", "m"]])
def test_a_server_elsewhere_must_answer(embedd: Run, args: list[str]) -> None:
    outcome = embedd(*args)
    assert (outcome.status, outcome.err) == (1, NOBODY)


def test_pull_tells_each_step_once_on_stderr(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("pull", "all-minilm")
    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err == "pulling manifest\npulling 797b\nsuccess\n"
    assert library.asked == [("pull", "all-minilm")]


@pytest.mark.usefixtures("library")
def test_a_failed_pull_is_an_error(embedd: Run) -> None:
    outcome = embedd("pull", "nope")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "Error: pull model manifest: file does not exist"


@pytest.mark.usefixtures("library", "_remote")
def test_pull_asks_a_server_elsewhere(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("pull", "x", "--insecure")
    assert (outcome.status, outcome.err) == (0, "pulling manifest\nsuccess\n")
    assert server.asked[-1] == ("POST", "/api/pull", {"model": "x", "insecure": True})


def test_create_takes_a_folder_and_a_type(
    embedd: Run, library: FakeLibrary, tmp_path: Path
) -> None:
    outcome = embedd("create", "mine", "--from", str(tmp_path), "-q", "q8_0")
    assert (outcome.status, outcome.out) == (0, "")
    assert library.asked == [("create", "mine", tmp_path, "q8_0")]
    assert outcome.err == "converting model\nsuccess\n"


@pytest.mark.usefixtures("library")
def test_create_needs_a_source_that_exists(embedd: Run, tmp_path: Path) -> None:
    assert embedd("create", "mine").status == 2
    assert embedd("create", "mine", "--from", str(tmp_path / "no")).status == 2


@pytest.mark.usefixtures("library", "_remote")
def test_create_does_not_pretend_to_work_elsewhere(embedd: Run, tmp_path: Path) -> None:
    outcome = embedd("create", "mine", "--from", str(tmp_path))
    assert outcome.status == 1
    assert outcome.err.startswith("Error: create works on this machine's store, but the server is")


def test_the_store_is_that_of_the_settings(
    embedd: Run, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/somewhere")
    embedd("list")
    assert library.settings is not None
    assert library.settings.models == Path("/somewhere")


@pytest.mark.usefixtures("_nobody")
def test_rm_needs_no_server(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("rm", "all-minilm", "bge-m3")
    assert outcome.status == 0
    assert outcome.out == "deleted 'all-minilm'\ndeleted 'bge-m3'\n"
    assert library.names == []


def test_rm_unloads_first(embedd: Run, library: FakeLibrary, server: FakeServer) -> None:
    assert embedd("rm", "all-minilm").out == "deleted 'all-minilm'\n"
    assert server.asked[-1] == ("POST", "/api/generate", {"model": "all-minilm", "keep_alive": 0.0})
    assert library.names == ["bge-m3:latest"]


@pytest.mark.usefixtures("library")
def test_a_server_that_does_not_know_the_model_is_no_news(embedd: Run, server: FakeServer) -> None:
    server.models.clear()
    outcome = embedd("rm", "all-minilm")
    assert (outcome.status, outcome.err) == (0, "")


@pytest.mark.usefixtures("library")
def test_a_failed_unload_is_a_warning(embedd: Run, server: FakeServer) -> None:
    server.refusals["/api/generate"] = web.json_response({"error": "no"}, status=500)
    outcome = embedd("rm", "all-minilm")
    assert outcome.out == "deleted 'all-minilm'\n"
    assert outcome.err == "Warning: unable to stop model 'all-minilm'\n"


@pytest.mark.usefixtures("_nobody")
def test_rm_stops_at_what_is_not_there(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("rm", "nope", "all-minilm")
    assert (outcome.status, outcome.out) == (1, "")
    assert 'model "nope" not found' in outcome.err
    assert len(library.names) == 2


@pytest.mark.usefixtures("library", "_remote")
def test_rm_asks_a_server_elsewhere(embedd: Run, server: FakeServer) -> None:
    assert embedd("rm", "all-minilm").out == "deleted 'all-minilm'\n"
    assert [request[1] for request in server.asked] == ["/", "/api/generate", "/api/delete"]
