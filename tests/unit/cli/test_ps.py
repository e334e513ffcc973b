"""ps, stop and --version with a server on loopback, and without one."""

import json
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any

import pytest
from aiohttp import web

from embedd import ollama_api as api
from embedd.cli.ps import format_ps
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer

NO_SERVER = "Error: could not connect to embedd server at http://"
NOW = datetime(2026, 8, 21, 12, tzinfo=UTC)


def make_running(name: str, expires_in: timedelta, **fields: Any) -> api.RunningModel:
    return api.RunningModel(
        name=name,
        model=name,
        digest="1b226e2802db" + "0" * 52,
        expires_at=NOW + expires_in,
        **fields,
    )


MINUTES, YEARS, PAST = timedelta(minutes=4.5), timedelta(days=292 * 365), timedelta(seconds=-1)
TABLE = """\
NAME    ID              SIZE      PROCESSOR          CONTEXT    UNTIL                 BACKEND          TOKENIZER
a       1b226e2802db    58 MB     100% CPU           256        4 minutes from now    openvino-bf16    model
b       1b226e2802db    1.2 GB    48%/52% CPU/GPU    8192       Forever               llama-gpu        llama
c       1b226e2802db    999 B     100% GPU           512        Stopping...
"""  # noqa: E501 - a table as it is printed


def test_the_table_of_ps() -> None:
    models = [
        make_running(
            "a",
            MINUTES,
            size=58_195_968,
            context_length=256,
            backend="openvino-bf16",
            tokenizer="model",
        ),
        make_running(
            "b",
            YEARS,
            size=1_200_000_000,
            size_vram=624_000_000,
            context_length=8192,
            backend="llama-gpu",
            tokenizer="llama",
        ),
        make_running("c", PAST, size=999, size_vram=999, context_length=512),
    ]
    lines = format_ps(models, NOW).splitlines()
    assert [line.rstrip() for line in lines] == TABLE.splitlines()


def test_ps_asks_the_server_after_a_head(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("ps")
    assert outcome.status == 0
    assert outcome.out.splitlines()[1].split() == [
        "all-minilm:latest", "1b226e2802db", "58", "MB", "100%", "CPU", "256", "Forever",
        "openvino-bf16", "model",
    ]  # fmt: skip
    assert [request[:2] for request in server.asked] == [
        ("GET", "/api/version"),
        ("GET", "/api/ps"),
    ]


@pytest.mark.parametrize(("prefix", "rows"), [("all", 1), ("ALL", 0), ("bge", 0)])
def test_ps_takes_the_prefix_as_typed(
    embedd: Run, server: FakeServer, prefix: str, rows: int
) -> None:
    del server
    assert len(embedd("ps", prefix).out.splitlines()) == 1 + rows


def test_stop_is_silent(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("stop", "all-minilm")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    assert server.asked[-1] == ("POST", "/api/generate", {"model": "all-minilm", "keep_alive": 0.0})


def test_stop_of_an_unknown_model_says_so(embedd: Run, server: FakeServer) -> None:
    del server
    outcome = embedd("stop", "nope")
    assert outcome.status == 1
    assert outcome.err.startswith('Error: model "nope" not found: `embedd list` shows')


@pytest.mark.usefixtures("_no_server")
@pytest.mark.parametrize("args", [["ps"], ["stop", "m"], ["run", "m", "x"], ["embed", "m", "x"]])
def test_without_a_server_one_line_says_how_to_start_it(embedd: Run, args: list[str]) -> None:
    outcome = embedd(*args)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(NO_SERVER)


def test_the_servers_error_is_shown(embedd: Run, server: FakeServer) -> None:
    server.refusals["/api/ps"] = web.json_response({"error": "out of order"}, status=500)
    outcome = embedd("ps")
    assert (outcome.status, outcome.err) == (1, "Error: out of order\n")


@pytest.mark.parametrize("option", ["-v", "--version"])
def test_the_version_is_the_servers(embedd: Run, server: FakeServer, option: str) -> None:
    server.version = version("embedd-server")
    outcome = embedd(option)
    assert (outcome.status, outcome.out, outcome.err) == (
        0,
        f"embedd version is {version('embedd-server')}\n",
        "",
    )


def test_another_version_of_the_server_is_a_warning(embedd: Run, server: FakeServer) -> None:
    del server
    outcome = embedd("--version")
    assert outcome.out == "embedd version is 0.0.1\n"
    assert outcome.err == f"Warning: client version is {version('embedd-server')}\n"


@pytest.mark.usefixtures("_no_server")
def test_without_a_server_the_version_is_this_commands(embedd: Run) -> None:
    outcome = embedd("--version")
    assert outcome.out == f"embedd version is {version('embedd-server')}\n"
    assert outcome.err.startswith(
        "Warning: could not connect to a running embedd instance at http://127.0.0.1:"
    )


def test_the_version_of_another_server_is_not_printed_as_embedds(
    embedd: Run, server: FakeServer
) -> None:
    server.is_embedd = False
    outcome = embedd("--version")
    assert outcome.out == f"embedd version is {version('embedd-server')}\n"
    assert outcome.err == f"Warning: {server.url} is not embedd but Ollama 0.0.1\n"


def test_ps_as_json_is_what_the_api_says(embedd: Run, server: FakeServer) -> None:
    [model] = json.loads(embedd("ps", "--json").out)
    assert (model["name"], model["size"]) == ("all-minilm:latest", 58195968)
    assert server.asked[-1][1] == "/api/ps"
