"""``embedd bulk`` with the real default model: in this process, and through a server."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec
import numpy as np
import pytest

from embedd import cli
from embedd.client import Client
from embedd.config import SETTINGS, read_settings
from tests.needs import INHERITED
from tests.system.serving import open_server
from tests.tolerances import find_tolerance

LONG = "The sky is blue. Roses are red, and violets are not. " * 40 + "Banks raise rates. " * 80
TEXTS = ["the sky", "a short text", "", "the sky", LONG, "日本語のテキスト"]

Bulk = Callable[..., tuple[int, list[dict[str, Any]]]]


@pytest.fixture
def environment(
    default_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """Variables of the command and of the server, which has the default model."""
    for setting in SETTINGS:
        monkeypatch.delenv(f"EMBEDD_{setting.name}", raising=False)
    values = {
        "EMBEDD_MODELS": str(default_store),
        "EMBEDD_STATE": str(tmp_path / "state"),
        "EMBEDD_THREADS": "1",
        "EMBEDD_HOST": "127.0.0.1:1",
        **INHERITED,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    return values


@pytest.fixture
def bulk(environment: dict[str, str], tmp_path: Path) -> Bulk:
    """Runs the command on `TEXTS`; returns its status and the rows of its output."""
    del environment
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"".join(msgspec.json.encode({"text": one}) + b"\n" for one in TEXTS))

    def run(*options: str, model: str = "all-minilm") -> tuple[int, list[dict[str, Any]]]:
        out = tmp_path / "o.jsonl"
        arguments = ["bulk", model, str(source), "-o", str(out), "--restart", "--progress", "none"]
        status = cli.run([*arguments, *options])
        lines = out.read_bytes().splitlines() if out.exists() else []
        return status, [msgspec.json.decode(line) for line in lines]

    return run


@pytest.fixture
def url(environment: dict[str, str]) -> Any:
    """A server in a thread of its own."""
    ready, done = Event(), Event()
    found = []

    async def serve() -> None:
        async with open_server(read_settings(environment)) as server:
            found.append(server.url)
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield found[0]
    finally:
        done.set()
        thread.join()


def vectors_of(rows: list[dict[str, Any]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.array([row["embedding"] for row in rows], np.float64)


def test_a_server_and_this_process_give_the_vectors_of_the_api(bulk: Bulk, url: str) -> None:
    async def ask() -> tuple[list[list[float]], str]:
        async with Client(url) as client:
            reply = await client.embed("all-minilm", TEXTS, input_type="document")
            answer = await client.embed_arrays("all-minilm", TEXTS, input_type="document")
            assert answer.cut == 1
            np.testing.assert_allclose(answer.vectors, reply.embeddings, atol=1e-6)
            return reply.embeddings, answer.served_by

    expected, served_by = asyncio.run(ask())
    tolerance = find_tolerance(served_by.partition("backend=")[2].split(";")[0])
    for options in (["--server", url], ["--local"]):
        status, rows = bulk(*options)
        assert status == 0
        assert [row["text"] for row in rows] == TEXTS
        cosines = (vectors_of(rows) * np.array(expected)).sum(axis=1)
        assert cosines.min() > 1 - tolerance.batched


def test_a_reader_that_needs_no_more_rows_ends_the_command_without_a_word(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    command = [sys.executable, "-m", "embedd", "bulk", "all-minilm", str(tmp_path / "a.txt")]
    command += ["-o", "-", "--local", "--progress", "none"]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.close()
    _, said = process.communicate()
    assert process.returncode == 1
    assert b"Error" not in said
    assert b"Traceback" not in said


@pytest.mark.parametrize("place", ["server", "local"])
def test_texts_are_cut_into_chunks_with_their_places(
    bulk: Bulk, request: pytest.FixtureRequest, place: str
) -> None:
    options = ["--local"] if place == "local" else ["--server", request.getfixturevalue("url")]
    status, rows = bulk("--chunk", "50", "--overlap", "10", "--keep", "none", *options)
    assert status == 0
    assert [row["chunk"] for row in rows if row["row"] != 4] == [0] * 5
    own = [row for row in rows if row["row"] == 4]
    assert [row["chunk"] for row in own] == list(range(len(own)))
    assert len(own) > 10
    assert (own[0]["start"], own[-1]["end"]) == (0, len(LONG))
    assert all(after["start"] <= one["end"] for one, after in pairwise(own))
    np.testing.assert_allclose(np.linalg.norm(vectors_of(rows), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("place", ["server", "local"])
@pytest.mark.parametrize(("dtype", "width"), [("float16", 384), ("int8", 384), ("ubinary", 48)])
def test_numbers_have_the_type_that_is_wanted(
    bulk: Bulk, request: pytest.FixtureRequest, place: str, *, dtype: str, width: int
) -> None:
    options = ["--local"] if place == "local" else ["--server", request.getfixturevalue("url")]
    status, rows = bulk("--dtype", dtype, *options)
    assert status == 0
    vectors = vectors_of(rows)
    assert vectors.shape == (len(TEXTS), width)
    if dtype == "int8":
        assert vectors.min() >= -127
    if dtype == "ubinary":
        assert 0 <= vectors.min() <= vectors.max() <= 255
    if dtype != "float16":
        assert (vectors == np.rint(vectors)).all()


@pytest.mark.parametrize("part", ["start", "middle"])
def test_a_text_that_is_too_long_can_lose_another_part_than_its_end(
    bulk: Bulk, url: str, part: str
) -> None:
    async def ask() -> list[list[float]]:
        async with Client(url) as client:
            reply = await client.embed("all-minilm", TEXTS, input_type="document", truncate=part)
            return reply.embeddings

    expected = np.array(asyncio.run(ask()))
    _, usual = bulk("--server", url)
    for options in (["--server", url], ["--local"]):
        status, rows = bulk("--too-long", part, *options)
        assert status == 0
        cosines = (vectors_of(rows) * expected).sum(axis=1)
        assert cosines.min() > 0.999
        assert (vectors_of(rows)[4] * vectors_of(usual)[4]).sum() < 0.999


@pytest.mark.parametrize("place", ["local", "server"])
def test_texts_that_are_too_long_can_be_errors(
    bulk: Bulk, url: str, tmp_path: Path, place: str
) -> None:
    where = ["--local"] if place == "local" else ["--server", url]
    status, rows = bulk(*where, "--too-long", "error")
    assert status == 3
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 5]
    [error] = [
        msgspec.json.decode(line)
        for line in (tmp_path / "o.jsonl.errors.jsonl").read_bytes().splitlines()
    ]
    assert (error["row"], error["line"], error["limit"]) == (4, 5, 256)
    assert error["tokens"] > 600
    assert error["error"] == (
        f"the text has {error['tokens']} tokens, the limit is 256: shorten it, or use "
        "--too-long cut, or --chunk"
    )


@pytest.mark.parametrize("place", ["local", "server"])
def test_chunks_that_the_model_does_not_take_are_refused_in_words_of_the_command(
    bulk: Bulk, url: str, capfd: pytest.CaptureFixture[str], place: str
) -> None:
    where = ["--local"] if place == "local" else ["--server", url]
    assert bulk(*where, "--chunk", "300") == (1, [])
    assert "--chunk is 300, the model takes 256 tokens at most" in capfd.readouterr().err


def test_dimensions_that_the_model_has_not_are_refused_at_once(
    bulk: Bulk, capfd: pytest.CaptureFixture[str]
) -> None:
    status, rows = bulk("--local", "--dimensions", "1000")
    assert (status, rows) == (1, [])
    assert "between 1 and 384" in capfd.readouterr().err


def test_a_dry_run_says_what_then_comes(bulk: Bulk, capfd: pytest.CaptureFixture[str]) -> None:
    assert bulk("--local", "--dry-run")[0] == 0
    out = capfd.readouterr().out
    assert "6 rows" in out
    assert "1 text cut" in out
    tokens = int(out.split(" tokens")[0].rpartition(", ")[2].replace(",", ""))
    bulk("--local")
    assert f"{tokens} tokens" in capfd.readouterr().err.replace(",", "")
