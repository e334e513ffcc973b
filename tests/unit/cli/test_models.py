"""create, pull, list and rm: on this machine's store, or through another machine's server."""

import json
import re
import sys
from pathlib import Path

import click
import pytest
from aiohttp import web

from embedd import cli
from embedd.cli.models import format_verified
from embedd.cli.ps import stop
from embedd.cli.pull import pull
from embedd.library import Verified
from tests.unit.cli.conftest import FakeLibrary, Run
from tests.unit.cli.fake_server import FakeServer

NO_SERVER = re.compile(
    "Error: could not connect to embedd server at http://127.0.0.1:[0-9]+, "
    "run 'embedd serve' to start it\n"
)


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


@pytest.mark.usefixtures("library", "_no_server", "_remote")
@pytest.mark.parametrize(
    "args",
    [
        ["list"],
        ["pull", "m"],
        ["rm", "m"],
        ["show", "m"],
        ["cp", "m", "n"],
        ["create", "m", "--from", "n"],
    ],
)
def test_a_server_elsewhere_must_answer(embedd: Run, args: list[str]) -> None:
    outcome = embedd(*args)
    assert outcome.status == 1
    assert NO_SERVER.fullmatch(outcome.err)


def test_pull_prints_each_step_once_on_stderr(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("pull", "all-minilm")
    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err == "pulling manifest\npulling 797b\nsuccess\n"
    assert library.asked == [("pull", "all-minilm", False)]


@pytest.mark.usefixtures("library")
def test_a_failed_pull_is_an_error(embedd: Run) -> None:
    outcome = embedd("pull", "nope")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "Error: pull model manifest: file does not exist"


@pytest.mark.usefixtures("library")
def test_a_reason_is_not_preceded_by_what_ollama_calls_it(embedd: Run, server: FakeServer) -> None:
    reason = '"all-minilm:nope" is not known: the tags of all-minilm are latest'
    server.pull_lines = ({"error": f"pull model manifest: file does not exist: {reason}"},)
    assert embedd("pull", "all-minilm:nope").err == f"Error: {reason}\n"


@pytest.mark.usefixtures("library", "_remote")
def test_pull_asks_a_server_elsewhere(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("pull", "x", "--insecure")
    assert (outcome.status, outcome.err) == (0, "pulling manifest\nsuccess\n")
    assert server.asked[-1] == ("POST", "/api/pull", {"model": "x", "insecure": True})


def test_create_takes_a_folder_and_a_type(
    embedd: Run, library: FakeLibrary, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).touch()
    outcome = embedd("create", "mine", "--from", str(tmp_path), "-q", "q8_0")
    assert (outcome.status, outcome.out) == (0, "")
    assert library.asked == [("create", "mine", tmp_path, "q8_0", {}, [])]
    assert outcome.err == "converting model\nsuccess\n"


def test_the_store_is_that_of_the_settings(
    embedd: Run, library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_MODELS", "/somewhere")
    embedd("list")
    assert library.settings is not None
    assert library.settings.models == Path("/somewhere")


@pytest.mark.usefixtures("_no_server")
def test_rm_needs_no_server(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("rm", "all-minilm", "bge-m3")
    assert outcome.status == 0
    assert outcome.out == "deleted 'all-minilm'\ndeleted 'bge-m3'\n"
    assert library.names == []


def test_rm_lets_the_server_unload_and_delete(
    embedd: Run, library: FakeLibrary, server: FakeServer
) -> None:
    assert embedd("rm", "all-minilm").out == "deleted 'all-minilm'\n"
    # The server itself unloads what it deletes, and nothing if it refuses to.
    assert [path for _, path, _ in server.asked] == ["/api/version", "/api/delete"]
    assert len(library.names) == 2


@pytest.mark.usefixtures("_no_server")
def test_rm_stops_at_what_is_not_there(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("rm", "nope", "all-minilm")
    assert (outcome.status, outcome.out) == (1, "")
    assert 'model "nope" not found' in outcome.err
    assert len(library.names) == 2


@pytest.mark.usefixtures("library", "_remote")
def test_rm_asks_a_server_elsewhere(embedd: Run, server: FakeServer) -> None:
    assert embedd("rm", "all-minilm").out == "deleted 'all-minilm'\n"
    assert [request[1] for request in server.asked] == ["/api/version", "/api/delete"]


@pytest.mark.usefixtures("library")
def test_list_asks_a_server_on_this_machine_that_answers(embedd: Run, server: FakeServer) -> None:
    assert len(embedd("list").out.splitlines()) == 2
    assert [request[:2] for request in server.asked] == [
        ("GET", "/api/version"),
        ("GET", "/api/tags"),
    ]


@pytest.mark.usefixtures("library")
def test_list_as_json_is_what_the_api_says(embedd: Run) -> None:
    outcome = embedd("list", "bge", "--json", "--disk")
    [model] = json.loads(outcome.out)
    assert (model["name"], model["size"]) == ("bge-m3:latest", 45_960_996)
    assert outcome.err == "45 MB on disk, shared files once\n"


@pytest.mark.usefixtures("library")
def test_list_prints_the_disk_space_of_all_models(embedd: Run) -> None:
    assert embedd("list", "--disk").out.splitlines()[-1] == "45 MB on disk, shared files once"


@pytest.mark.usefixtures("library", "_remote")
@pytest.mark.parametrize("args", [["verify"], ["pull", "--all"], ["list", "--disk"]])
def test_what_needs_the_files_does_not_pretend_to_work_elsewhere(
    embedd: Run, server: FakeServer, args: list[str]
) -> None:
    outcome = embedd(*args)
    assert outcome.status == 1
    assert f"works on this machine's store, but the server is {server.url}" in outcome.err


def test_cp_names_both(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("cp", "all-minilm", "x")
    assert (outcome.status, outcome.out) == (0, "copied 'all-minilm' to 'x'\n")
    assert "x:latest" in library.names
    assert embedd("cp", "nope", "y").status == 1


@pytest.mark.usefixtures("library")
def test_cp_asks_the_server_that_answers(embedd: Run, server: FakeServer) -> None:
    assert embedd("cp", "all-minilm", "x").status == 0
    body = {"source": "all-minilm", "destination": "x"}
    assert server.asked[-1] == ("POST", "/api/copy", body)


def test_verify_prints_what_was_hashed(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("verify", "all-minilm")
    assert (outcome.status, outcome.out) == (0, "verified 7 files of 2 models, 45 MB\n")
    assert outcome.err == "verifying 1b226e2802db\n"
    assert library.asked == [("verify", "all-minilm")]


def test_one_file_of_one_model_is_not_several() -> None:
    found = Verified(blobs=1, models=1, size=10, problems=(), unused=())
    assert format_verified(found) == "verified 1 file of 1 model, 10 B"


def test_verify_fails_when_something_is_wrong(embedd: Run, library: FakeLibrary) -> None:
    library.broken = ("bge-m3",)
    library.unused = ("sha256:0",)
    outcome = embedd("verify")
    assert outcome.status == 1
    assert "45 MB; 1 of them belong to no model (--prune removes" in outcome.out
    assert outcome.err.splitlines()[1:] == [
        "blob of bge-m3 is corrupt",
        "Error: 1 problem found",
    ]


def test_verify_prunes_when_asked_to(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("verify", "--prune")
    assert outcome.out.startswith("removed 1 file that no model used\nverified 7 files")
    assert library.asked == [("prune",), ("verify", None)]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("incomplete", "names"), [("all-m", ["all-minilm"]), ("all-minilm:l", ["all-minilm:latest"])]
)
def test_names_to_pull_are_completed(incomplete: str, names: list[str]) -> None:
    context = click.Context(pull, info_name="pull")
    found = pull.params[0].shell_complete(context, incomplete)
    assert [one.value for one in found] == names


@pytest.mark.usefixtures("library")
def test_a_setting_that_is_refused_completes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDD_ENGINE", "foo")
    for command in (pull, stop):
        context = click.Context(command, info_name="x")
        assert command.params[0].shell_complete(context, "") == []


@pytest.mark.usefixtures("library")
def test_search_lists_recipes(embedd: Run) -> None:
    assert embedd("search", "mini").out.splitlines() == [
        "NAME          DESCRIPTION        TAGS",
        "all-minilm    small and quick    latest",
    ]
    outcome = embedd("search", "nope")
    assert (outcome.status, outcome.out) == (0, "")
    assert outcome.err.startswith('no model matches "nope": `embedd search` lists all')


def test_pull_names_what_is_not_a_name(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("pull", "http://x")
    assert (outcome.status, outcome.err) == (1, "Error: 'http://x' is not a valid model name\n")
    assert not [path for _, path, _ in server.asked if path == "/api/pull"]


def test_pull_all_prints_the_result_of_each_model(embedd: Run, library: FakeLibrary) -> None:
    outcome = embedd("pull", "--all")
    assert outcome.status == 0
    assert outcome.out == "all-minilm:latest: updated\nbge-m3:latest: up to date\n"
    library.broken = ("gone:latest",)
    outcome = embedd("pull", "--all")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-2:] == [
        "gone:latest: no network",
        "Error: 1 of 3 models could not be pulled",
    ]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("args", [["pull"], ["pull", "m", "--all"]])
def test_pull_takes_a_model_or_all(embedd: Run, args: list[str]) -> None:
    assert embedd(*args).status == 2


@pytest.mark.usefixtures("library")
def test_pull_goes_through_the_server_that_answers(embedd: Run, server: FakeServer) -> None:
    assert embedd("pull", "x").err == "pulling manifest\nsuccess\n"
    assert server.asked[-1] == ("POST", "/api/pull", {"model": "x"})


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_names_of_models(
    shell: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_WORDS", "embedd show all")
    monkeypatch.setenv("COMP_CWORD", "all" if shell == "fish" else "2")
    monkeypatch.setenv("_EMBEDD_COMPLETE", f"{shell}_complete")
    with pytest.raises(SystemExit):
        cli.run([])
    out, _ = capfd.readouterr()
    assert "all-minilm:latest" in out
    assert "bge" not in out


@pytest.mark.usefixtures("library")
def test_search_cuts_nothing_on_a_narrow_terminal(
    embedd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "20")
    assert embedd("search", "mini").out.splitlines() == [
        "all-minilm",
        "  small and quick",
        "  latest",
    ]


CHANGES = (
    ["pull", "all-minilm"],
    ["create", "mine", "--from", "all-minilm"],
    ["cp", "all-minilm", "other"],
    ["rm", "all-minilm"],
)


@pytest.mark.parametrize("args", [*CHANGES, ["list"], ["show", "all-minilm"]])
def test_beside_another_server_a_command_works_on_this_machines_store_and_says_so(
    embedd: Run, library: FakeLibrary, server: FakeServer, args: list[str]
) -> None:
    server.is_embedd = False
    outcome = embedd(*args)
    assert outcome.status == 0
    assert f"Warning: {server.url} is not embedd but Ollama 0.0.1; this command" in outcome.err
    assert {path for _, path, _ in server.asked} == {"/api/version"}
    assert library.settings is not None


@pytest.mark.usefixtures("library", "_remote")
@pytest.mark.parametrize("args", CHANGES)
def test_another_machines_models_are_changed_only_through_embedd(
    embedd: Run, server: FakeServer, args: list[str]
) -> None:
    server.is_embedd = False
    outcome = embedd(*args)
    assert outcome.status == 1
    assert "is not embedd but Ollama 0.0.1: its models are not changed" in outcome.err
    assert {path for _, path, _ in server.asked} == {"/api/version"}


@pytest.mark.usefixtures("library", "_remote")
def test_another_machines_models_are_listed_with_a_warning(embedd: Run, server: FakeServer) -> None:
    server.is_embedd = False
    outcome = embedd("list")
    assert outcome.out.startswith("NAME")
    assert outcome.err == f"Warning: {server.url} is not embedd but Ollama 0.0.1\n"


PAGE = "<html>nginx, and a long page</html>"


@pytest.mark.usefixtures("library", "_remote")
@pytest.mark.parametrize("args", [["list"], ["ps"], ["embed", "all-minilm", "x"], ["rm", "m"]])
def test_the_page_of_another_http_server_is_not_printed(
    embedd: Run, server: FakeServer, args: list[str]
) -> None:
    page = web.Response(status=502, text=PAGE, content_type="text/html")
    server.refusals["/api/version"] = page
    outcome = embedd(*args)
    assert outcome.status == 1
    assert outcome.err == f"Error: {server.url} is not embedd but another program\n"


@pytest.mark.usefixtures("library")
def test_a_proxys_page_is_an_error_with_its_status(embedd: Run, server: FakeServer) -> None:
    page = web.Response(status=502, text=PAGE, content_type="text/html")
    server.refusals["/api/ps"] = page
    outcome = embedd("ps")
    assert outcome.err == (
        f"Error: {server.url} answered 502 Bad Gateway: is it an embedd server?\n"
    )
