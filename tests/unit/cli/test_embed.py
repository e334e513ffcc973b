"""run and embed: which texts are sent, and what is printed."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.cli.embed import CHUNK_TEXTS, read_lines, take_chunks
from embedd.errors import InvalidInputError
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer

EMPTY = 'Error: embedding models require input text. Usage: embedd run NAME "your text here"\n'


def sent(server: FakeServer) -> list[list[str]]:
    return [body["input"] for _, path, body in server.asked if path == "/api/embed"]


@pytest.mark.parametrize(
    ("args", "stdin", "text"),
    [
        (["why", "is", "it"], None, "why is it"),
        (["why is it"], None, "why is it"),
        (["extra", "args"], b"piped\n", "piped extra args"),
        ([], b"only piped\r\n", "only piped"),
        (["only args"], b"", "only args"),
        ([], b"two\nlines\n", "two\nlines"),
        (["--", "--truncate"], None, "--truncate"),
    ],
)
def test_run_joins_stdin_and_arguments(
    embedd: Run, server: FakeServer, args: list[str], stdin: bytes | None, text: str
) -> None:
    outcome = embedd("run", "all-minilm", *args, stdin=stdin)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == f"[{len(text)}.0,0.0,0.1]\n"
    assert sent(server) == [[text]]


@pytest.mark.parametrize(("args", "stdin"), [([], None), ([" "], None), ([], b"\n"), ([""], b"")])
def test_run_needs_text(embedd: Run, args: list[str], stdin: bytes | None) -> None:
    outcome = embedd("run", "all-minilm", *args, stdin=stdin)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", EMPTY)


@pytest.mark.parametrize(
    ("args", "fields"),
    [
        ([], {}),
        (["--truncate"], {"truncate": True}),
        (["--truncate=false"], {"truncate": False}),
        (["--truncate=true", "--dimensions", "8"], {"truncate": True, "dimensions": 8}),
        (["--keepalive", "10m"], {"keep_alive": 600.0}),
        (["--keepalive", "-1"], {"keep_alive": -1.0}),
    ],
)
def test_run_sends_only_the_options_given(
    embedd: Run, server: FakeServer, args: list[str], fields: dict[str, object]
) -> None:
    assert embedd("run", "all-minilm", *args, "x").status == 0
    assert server.asked[-1][2] == {"model": "all-minilm", "input": ["x"]} | fields


def test_an_invalid_duration_is_wrong_usage(embedd: Run) -> None:
    outcome = embedd("run", "all-minilm", "--keepalive", "abc", "x")
    assert outcome.status == 2
    assert 'time: invalid duration "abc"' in outcome.err


def test_run_pulls_a_missing_model_and_goes_on(embedd: Run, server: FakeServer) -> None:
    server.models.clear()
    outcome = embedd("run", "all-minilm", "x")
    assert outcome.out == "[1.0,0.0,0.1]\n"
    assert outcome.err == "pulling manifest\nsuccess\n"
    paths = [path for method, path, _ in server.asked if method == "POST"]
    assert paths == ["/api/show", "/api/pull", "/api/show", "/api/embed"]


def test_run_says_why_a_missing_model_cannot_be_pulled(embedd: Run, server: FakeServer) -> None:
    server.pull_lines = ({"error": "pull model manifest: file does not exist"},)
    outcome = embedd("run", "nope", "x")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "Error: pull model manifest: file does not exist"


def test_embed_prints_a_vector_a_text(embedd: Run, server: FakeServer) -> None:
    outcome = embedd(
        "embed", "all-minilm", "a", "bcd", "--dimensions", "3", "--input-type", "query"
    )
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "[1.0,0.0,0.1]\n[3.0,1.0,0.1]\n"
    assert server.asked[-1][2] == {
        "model": "all-minilm", "input": ["a", "bcd"], "dimensions": 3, "input_type": "query",
    }  # fmt: skip


@pytest.mark.usefixtures("server")
def test_embed_prints_a_vector_a_line_of_stdin_empty_ones_too(embedd: Run) -> None:
    outcome = embedd("embed", "all-minilm", stdin=b"one\n\nthree\r\nfour")
    lengths = [json.loads(line)[0] for line in outcome.out.splitlines()]
    assert lengths == [3, 0, 5, 4]


@pytest.mark.usefixtures("server")
def test_embed_can_print_objects(embedd: Run) -> None:
    stdin = b"line\n" * (CHUNK_TEXTS + 1)
    lines = embedd("embed", "all-minilm", "--json", stdin=stdin).out.splitlines()
    assert lines[0] == '{"index":0,"text":"line","embedding":[4.0,0.0,0.1]}'
    assert [json.loads(line)["index"] for line in lines] == list(range(CHUNK_TEXTS + 1))


def test_embed_sends_a_long_stdin_in_chunks(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("embed", "all-minilm", stdin=b"x\n" * (3 * CHUNK_TEXTS))
    assert len(outcome.out.splitlines()) == 3 * CHUNK_TEXTS
    assert [len(texts) for texts in sent(server)] == [CHUNK_TEXTS] * 3


@pytest.mark.usefixtures("server")
def test_embed_says_how_many_texts_were_cut(embedd: Run) -> None:
    outcome = embedd("embed", "all-minilm", "short", "long enough to cut")
    assert outcome.err.startswith("Warning: 1 of 2 texts were cut to the context length")


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("command", ["embed", "run"])
def test_a_size_that_no_vector_has_is_wrong_usage_or_a_warning(embedd: Run, command: str) -> None:
    for number in ("0", "-1"):
        assert embedd(command, "all-minilm", "a", "--dimensions", number).status == 2
    outcome = embedd(command, "all-minilm", "a", "--dimensions", "4")
    assert outcome.status == 0
    assert "--dimensions 4 has no effect: the vectors have 3 numbers" in outcome.err


def test_embed_without_texts_on_a_terminal_is_wrong_usage(embedd: Run) -> None:
    outcome = embedd("embed", "all-minilm")
    assert outcome.status == 2
    assert "give texts as arguments, or one per line on stdin" in outcome.err


@pytest.mark.usefixtures("library", "server")
def test_embed_does_not_pull(embedd: Run) -> None:
    outcome = embedd("embed", "nope", "x")
    assert outcome.status == 1
    assert outcome.err.startswith('Error: model "nope" not found: `embedd list` shows')


def test_the_line_that_is_not_utf8_is_named() -> None:
    lines = read_lines(io.BytesIO(b"good\nb\xffd\n"))
    assert next(lines) == "good"
    with pytest.raises(InvalidInputError, match="line 2 of stdin is not UTF-8"):
        next(lines)


@given(st.lists(st.text()), st.integers(1, 5), st.integers(0, 20))
def test_chunks_keep_every_text_in_order_and_are_bounded(
    texts: list[str], most: int, characters: int
) -> None:
    chunks = list(take_chunks(texts, most, characters))
    assert [text for chunk in chunks for text in chunk] == texts
    for chunk in chunks:
        assert 1 <= len(chunk) <= most
        assert len(chunk) == 1 or sum(map(len, chunk)) <= characters


def test_chunks_are_handed_on_before_all_is_read() -> None:
    def endless() -> Iterator[str]:
        while True:
            yield "x"

    assert len(next(take_chunks(endless()))) == CHUNK_TEXTS


@pytest.mark.usefixtures("server")
def test_a_reader_that_closes_its_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m embedd embed all-minilm | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command],
        input=b"x\n" * 20_000,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"[1.0,0.0,0.1]\n", b"")


def test_a_closed_stdin_is_an_empty_text(embedd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.cli.conftest.Terminal", lambda _: None)
    assert embedd("embed", "all-minilm").status == 2
    assert embedd("run", "all-minilm").err == EMPTY


@pytest.mark.usefixtures("server")
def test_a_dash_is_stdin(embedd: Run) -> None:
    assert len(embedd("embed", "all-minilm", "-", stdin=b"one\ntwo").out.splitlines()) == 2
    assert embedd("run", "all-minilm", "-", stdin=b"four\n").out == "[4.0,0.0,0.1]\n"


def test_a_text_that_is_the_name_of_a_file_is_embedded_with_a_warning(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("one\ntwo\n")
    outcome = embedd("embed", "all-minilm", "lines.txt", "x")
    assert outcome.status == 0
    assert len(outcome.out.splitlines()) == 2
    assert outcome.err == (
        "Warning: lines.txt is embedded as a text; for the lines of the file: "
        "embedd embed all-minilm - < lines.txt\n"
    )
