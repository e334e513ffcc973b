"""``embedd bulk --format openai-batch``: files of requests and of their answers."""

import errno
import gzip
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from embedd.bulk import requests
from embedd.bulk.requests import NumberedLine
from embedd.bulk.units import Limits, Range
from embedd.cli.bulk import requests as command
from embedd.client import Client
from embedd.errors import InvalidInputError, OverloadedError, ServiceError
from embedd.server.dialects.base import Policy
from embedd.server.http.bodies import BodyLimits
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

URL = "/v1/embeddings"


def line(name: str, text: str, **changes: object) -> dict[str, object]:
    body = {"model": "text-embedding-3-small", "input": [text], "encoding_format": "base64"}
    return {"custom_id": name, "method": "POST", "url": URL, "body": body, **changes}


@pytest.fixture
def source(tmp_path: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of requests, of which three are a range; a server answers."""
    del server
    monkeypatch.setattr(requests, "RANGES", Limits(rows=3, bytes=1 << 20))
    path = tmp_path / "in.jsonl"
    write(path, [line(str(number), f"text {number}") for number in range(8)])
    return path


def crash_behind_the_first(data: bytes, lines: Range) -> list[NumberedLine]:
    """In the place of `parse_requests`: only the first range of lines is read."""
    if lines.start:
        raise ServiceError("crash")
    return requests.parse_requests(data, lines)


def write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))


def run(embedd: Run, source: Path, *more: str) -> Any:
    out = source.with_name("out.jsonl")
    form = ("--format", "openai-batch")
    return embedd("bulk", "all-minilm", str(source), "-o", str(out), *form, *more)


def results(source: Path) -> list[Any]:
    return [json.loads(one) for one in source.with_name("out.jsonl").read_text().splitlines()]


def test_requests_are_answered_in_order_by_the_model_of_the_command(
    embedd: Run, server: FakeServer, source: Path
) -> None:
    result = run(embedd, source)
    assert result.status == 0, result.err
    assert "8 requests answered, 0 of them failed" in result.err
    found = results(source)
    assert [one["custom_id"] for one in found] == [str(number) for number in range(8)]
    assert {one["response"]["status_code"] for one in found} == {200}
    assert len(found[0]["response"]["body"]["data"]) == 1
    bodies = [body for _, path, body in server.asked if path == URL]
    assert {body["model"] for body in bodies} == {"all-minilm"}
    assert {body["encoding_format"] for body in bodies} == {"base64"}
    assert not source.with_name("out.jsonl.parts").exists()


def test_a_request_that_fails_has_its_answer_and_makes_the_status_3(
    embedd: Run, source: Path
) -> None:
    write(source, [line("a", "good"), line("b", "bad")])
    result = run(embedd, source)
    assert result.status == 3
    assert [one["response"]["status_code"] < 300 for one in results(source)] == [True, False]


def test_the_same_command_goes_on_after_a_crash(
    embedd: Run, server: FakeServer, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = command._flush
    calls = 0

    def crash(file: Any) -> None:
        nonlocal calls
        calls += 1
        flush(file)
        if calls == 2:  # the second range is written, and not committed
            raise ServiceError("crash")

    monkeypatch.setattr(command, "_flush", crash)
    crashed = run(embedd, source)
    assert crashed.status == 1
    assert "run the same command to continue" in crashed.err
    before = len(server.asked)
    result = run(embedd, source)
    assert result.status == 0, result.err
    assert [one["custom_id"] for one in results(source)] == [str(number) for number in range(8)]
    asked = [body["input"][0] for _, path, body in server.asked[before:] if path == URL]
    assert sorted(asked) == [f"text {number}" for number in range(3, 8)]


def test_results_that_do_not_fit_on_the_disk_are_named_and_the_same_command_goes_on(
    embedd: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(command, "_flush", fill)
        full = run(embedd, source)
    assert full.status == 1
    place = source.with_name("out.jsonl.parts") / "results.jsonl"
    assert f"the disk is full, {place} cannot be written: make room there" in full.err
    assert "run the same command to continue" in full.err
    assert run(embedd, source).status == 0
    assert [one["custom_id"] for one in results(source)] == [str(number) for number in range(8)]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_compressed_file_of_requests_is_read_and_gone_on_with(
    embedd: Run,
    server: FakeServer,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    packed = source.with_name(f"in.jsonl{ending}")
    compress = gzip.compress if ending == ".gz" else zstd.compress
    packed.write_bytes(compress(source.read_bytes()))
    with monkeypatch.context() as patch:
        patch.setattr(command, "parse_requests", crash_behind_the_first)
        assert run(embedd, packed).status == 1
    before = len(server.asked)
    result = run(embedd, packed)
    assert result.status == 0, result.err
    assert [one["custom_id"] for one in results(source)] == [str(number) for number in range(8)]
    asked = [body["input"][0] for _, path, body in server.asked[before:] if path == URL]
    assert sorted(asked) == [f"text {number}" for number in range(3, 8)]


def test_a_damaged_compressed_file_of_requests_is_named(embedd: Run, source: Path) -> None:
    packed = source.with_name("in.jsonl.gz")
    packed.write_bytes(gzip.compress(source.read_bytes())[:-9])
    result = run(embedd, packed)
    assert result.status == 1
    assert f"{packed} is damaged: " in result.err


def test_a_file_of_requests_that_loses_lines_ends_the_command(
    embedd: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = requests.plan_requests

    def cut(path: Path, *, start: int) -> Iterator[Range]:
        yield from list(plan(path, start=start))
        path.write_bytes(path.read_bytes()[:-9])

    monkeypatch.setattr(command, "plan_requests", cut)
    result = run(embedd, source)
    assert result.status == 1
    assert f"{source} ends early: it has changed" in result.err


def test_another_input_is_refused_with_the_difference(
    embedd: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "parse_requests", crash_behind_the_first)
        assert run(embedd, source).status == 1
    write(source, [line("a", "x")])
    refused = run(embedd, source)
    assert refused.status == 1
    assert "begun with another input size" in refused.err
    assert run(embedd, source, "--restart").status == 0
    assert len(results(source)) == 1


def test_names_of_the_same_model_go_on_with_a_job(
    embedd: Run, server: FakeServer, source: Path
) -> None:
    server.models.add("all-minilm:latest")
    out = str(source.with_name("out.jsonl"))
    options = (str(source), "-o", out, "--format", "openai-batch")
    assert embedd("bulk", "all-minilm", *options).status == 0
    again = embedd("bulk", "all-minilm:latest", *options)
    assert again.status == 0, again.err
    assert "nothing left to do" in again.err
    refused = embedd("bulk", "all-minilm:v2", *options)
    assert refused.status == 1
    assert "another model, all-minilm, not all-minilm:v2" in refused.err


def test_an_output_that_exists_is_not_overwritten(embedd: Run, source: Path) -> None:
    source.with_name("out.jsonl").write_text("mine")
    for more in ([], ["--restart"]):
        result = run(embedd, source, *more)
        assert result.status == 1
        assert "was not made by embedd bulk" in result.err
        assert source.with_name("out.jsonl").read_text() == "mine"


def test_the_same_command_has_nothing_left_to_do(
    embedd: Run, server: FakeServer, source: Path
) -> None:
    first = run(embedd, source)
    asked = len(server.asked)
    before = source.with_name("out.jsonl").read_bytes()
    again = run(embedd, source)
    assert again.status == first.status
    assert "nothing left to do" in again.err
    assert (len(server.asked), source.with_name("out.jsonl").read_bytes()) == (asked, before)
    source.write_bytes(source.read_bytes() + b"\n")
    changed = run(embedd, source)
    assert changed.status == 1
    assert "begun with another input size" in changed.err
    source.unlink()
    assert "cannot read" in run(embedd, source).err


def test_nothing_is_computed_of_a_file_with_a_fault(
    embedd: Run, server: FakeServer, source: Path
) -> None:
    write(source, [line("a", "x"), *(line("b", "x", method="GET") for _ in range(7))])
    before = len(server.asked)
    result = run(embedd, source)
    assert result.status == 1
    assert "line 2: method must be POST, got 'GET'" in result.err
    assert "and 2 more" in result.err
    assert len(server.asked) == before


def test_a_missing_file_is_an_error(embedd: Run, source: Path) -> None:
    source.unlink()
    result = run(embedd, source)
    assert result.status == 1
    assert f"cannot read {source}" in result.err


@pytest.mark.parametrize("option", [("--text", "a"), ("--dry-run",), ("--dtype", "float32")])
def test_options_of_rows_have_no_meaning_for_requests(
    embedd: Run, source: Path, option: tuple[str, ...]
) -> None:
    result = run(embedd, source, *option)
    assert result.status == 2
    assert f"{option[0]} has no meaning" in result.err


@pytest.mark.parametrize("name", ["r.parquet", "r", "r.json", "r.jsonl/", "r.jsonl.gz", ""])
def test_answers_go_into_a_file_whose_name_says_that_they_are_json_lines(
    embedd: Run, source: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(source.parent)
    result = embedd("bulk", "m", source.name, "-o", name, "--format", "openai-batch")
    assert result.status == 1
    assert f"name a file that ends in .jsonl, not {name!r}" in result.err
    assert list(source.parent.iterdir()) == [source]


def test_requests_come_from_one_file(embedd: Run, source: Path) -> None:
    result = run(embedd, source, str(source))
    assert result.status == 1
    assert "one file" in result.err


def test_an_answer_that_is_not_json_ends_the_command(
    embedd: Run, server: FakeServer, source: Path
) -> None:
    server.refusals[URL] = web.Response(text="a proxy's page")
    result = run(embedd, source)
    assert result.status == 1
    assert f"the answer of {URL} is not JSON" in result.err
    assert "run the same command to continue" in result.err
    assert not source.with_name("out.jsonl").exists()


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_that_the_server_refuses_is_no_answer(
    embedd: Run, server: FakeServer, source: Path, status: int
) -> None:
    server.refusals[URL] = web.json_response({"error": {"message": "wrong key"}}, status=status)
    result = run(embedd, source)
    assert result.status == 1
    assert "wrong key" in result.err
    assert not source.with_name("out.jsonl").exists()
    server.refusals.clear()
    assert run(embedd, source).status == 0


async def test_a_busy_server_is_asked_again_later(server: FakeServer) -> None:
    server.refusals[URL] = web.json_response({"error": "busy"}, status=429)
    async with Client(server.url) as client:
        with pytest.raises(OverloadedError):
            await client.post_as_it_is(URL, b"{}")


def test_an_interrupted_command_goes_on_later(
    embedd: Run, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parse = requests.parse_requests

    def interrupt(data: bytes, lines: Range) -> list[NumberedLine]:
        os.kill(os.getpid(), signal.SIGINT)
        return parse(data, lines)

    with monkeypatch.context() as patch:
        patch.setattr(command, "parse_requests", interrupt)
        result = run(embedd, source)
    assert result.status == 130
    assert "interrupted: run the same command to continue" in result.err
    assert not source.with_name("out.jsonl").exists()
    assert run(embedd, source).status == 0
    assert [one["custom_id"] for one in results(source)] == [str(number) for number in range(8)]


def test_a_first_line_that_is_not_valid_is_a_fault(embedd: Run, source: Path) -> None:
    source.write_text("{\n")
    result = run(embedd, source)
    assert result.status == 1
    assert "line 1: not valid JSON" in result.err


def test_a_runtime_without_room_ends_the_command_and_a_bad_request_does_not() -> None:
    answer = command._LocalAnswer(
        cast("Any", None),
        policy=Policy(),
        bodies=BodyLimits(max_body=1, max_in_flight=1),
        choose=command._choose_model,
    )
    with pytest.raises(OverloadedError):
        answer.refuse(OverloadedError("busy"))
    refused = answer.refuse(InvalidInputError("no", field="input"))
    assert (refused.status, json.loads(refused.body)["error"]["param"]) == (400, "input")


def test_requests_are_not_read_from_a_pipe(embedd: Run, source: Path) -> None:
    fifo = source.with_name("fifo.jsonl")
    os.mkfifo(fifo)
    refused = run(embedd, fifo)
    assert refused.status == 1
    assert f"{fifo} is a pipe, which can be read only once: write it to a file first" in refused.err


def test_a_file_of_requests_whose_name_is_not_utf8_is_refused_by_name(
    embedd: Run, source: Path
) -> None:
    refused = run(embedd, source.with_name("bad\udcff.jsonl"))
    assert refused.status == 1
    assert r"bad\udcff.jsonl' is not UTF-8: rename it" in refused.err
