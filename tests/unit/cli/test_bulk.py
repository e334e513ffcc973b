"""``embedd bulk`` against a small server: options, what is shown, exit statuses."""

import errno
import json
import os
import re
import signal
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from embedd import cli
from embedd.bulk import ending
from embedd.bulk.reading import SAMPLE_ROWS
from embedd.bulk.units import Limits
from embedd.cli.bulk import running
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer, in_background, pack_vector

SMALL = Limits(rows=3)


def rows_of(data: bytes) -> list[Any]:
    return [msgspec.json.decode(line) for line in data.splitlines()]


def requests_of(server: FakeServer) -> list[list[str]]:
    """The texts of each request but the probe's."""
    bodies = [body for _, path, body in server.asked if path == "/v1/embeddings"]
    return [body["input"] for body in bodies][1:]


@pytest.fixture
def in_folder(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, and a server that answers."""
    del server
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\nthree\n")
    return path


def test_a_file_becomes_a_file(embedd: Run, server: FakeServer, texts: Path) -> None:
    out = texts.with_name("o.jsonl")
    result = embedd("bulk", "all-minilm", str(texts), "-o", str(out))
    assert result.status == 0, result.err
    rows = rows_of(out.read_bytes())
    assert [(row["row"], row["text"]) for row in rows] == [(0, "one"), (1, "two"), (2, "three")]
    assert rows[2]["embedding"] == list(struct.unpack("<3f", pack_vector("three")))
    assert "3 rows, 11 tokens, 0 texts cut, 0 errors" in result.err
    assert "pl.read_ndjson" in result.err
    assert result.out == ""
    [body] = [one for _, path, one in server.asked[-1:] if path == "/v1/embeddings"]
    assert (body["encoding_format"], body["input_type"]) == ("base64", "document")
    assert body["truncate"] == "end"


def test_columns_that_come_too_late_are_said(embedd: Run, in_folder: Path) -> None:
    rows = [{"text": "a"}] * SAMPLE_ROWS + [{"text": "b", "late": 1}]
    (in_folder / "a.jsonl").write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in rows))
    arguments = ["bulk", "all-minilm", "a.jsonl", "-o", "out"]
    first = embedd(*arguments)
    assert first.status == 0, first.err
    assert "left out of some rows: late. The columns are those" in first.err
    (in_folder / "b.csv").write_text("text,other\nc,1\n")
    second = embedd(*arguments, "b.csv")
    assert second.status == 0, second.err
    assert "left out of the inputs that were added: other; the columns" in second.err


def test_an_output_without_rows_is_not_shown_how_to_be_read(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    texts.write_text("")
    result = embedd("bulk", "all-minilm", str(texts), "-o", str(texts.with_name("o.jsonl")))
    assert result.status == 0, result.err
    assert "0 rows, 0 tokens" in result.err
    assert "read_ndjson" not in result.err


def test_rows_that_fail_make_the_status_3(embedd: Run, server: FakeServer, texts: Path) -> None:
    texts.write_text("one\nbad\nthree\n")
    out = texts.with_name("o.jsonl")
    result = embedd("bulk", "all-minilm", str(texts), "-o", str(out))
    assert result.status == 3
    assert [row["text"] for row in rows_of(out.read_bytes())] == ["one", "three"]
    errors = texts.with_name("o.jsonl.errors.jsonl")
    assert str(errors) in result.err
    assert rows_of(errors.read_bytes()) == [
        {
            "file": str(texts),
            "row": 1,
            "line": 2,
            "error": "a bad text",
            "tokens": 9,
            "limit": 8,
        }
    ]
    assert requests_of(server)[-1] == ["three", "one"]


@pytest.mark.parametrize("options", [["--errors", "stop"], ["--max-errors", "0"]])
def test_rows_that_fail_can_stop_the_job(
    embedd: Run, server: FakeServer, texts: Path, options: list[str]
) -> None:
    del server
    texts.write_text("one\nbad\n")
    result = embedd(
        "bulk", "all-minilm", str(texts), "-o", str(texts.with_name("o.jsonl")), *options
    )
    assert result.status == 1
    assert "rows that failed: 1, allowed: 0 (--errors" in result.err
    assert f"\n  {texts}, line 2: a bad text\n" in result.err
    assert running.CONTINUE not in result.err  # it would end there again


@pytest.mark.parametrize(("source", "kept"), [("a.txt", True), ("-", False)])
def test_a_disk_without_room_for_the_whole_output_says_how_it_goes_on(
    embedd: Run,
    in_folder: Path,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    source: str,
    kept: bool,
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    arguments = ["bulk", "all-minilm", source, "-o", "o.jsonl", "--format", "txt"]
    with monkeypatch.context() as patched:
        patched.setattr(ending, "_concatenate", fill)
        result = embedd(*arguments, stdin=texts.read_bytes())
    assert result.status == 1
    assert "the disk is full, o.jsonl cannot be written" in result.err
    assert (running.CONTINUE in result.err) == kept
    assert (in_folder / "o.jsonl.parts" / "part-000000.jsonl").exists()
    if kept:
        assert embedd(*arguments).status == 0
        assert len(rows_of((in_folder / "o.jsonl").read_bytes())) == 3


def test_stdin_becomes_stdout_and_failures_are_on_stderr(embedd: Run, server: FakeServer) -> None:
    del server
    data = b"one\nbad\n\nfour"
    result = embedd("bulk", "all-minilm", "-", "--format", "txt", "-o", "-", stdin=data)
    assert result.status == 3
    assert [row["text"] for row in rows_of(result.out.encode())] == ["one", "", "four"]
    assert '"error":"a bad text"' in result.err


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("jsonl", b'{"text":"a","n":1}\n{"text":"b","n":2}\n'),
        ("csv", b'text,n\na,1\n"b",2\n'),
        ("tsv", b"text\tn\na\t1\nb\t2\n"),
    ],
)
def test_stdin_goes_through_parts_into_a_file(
    embedd: Run, server: FakeServer, tmp_path: Path, form: str, data: bytes
) -> None:
    del server
    out = tmp_path / "o.jsonl"
    options = ["--format", form, "--text", "{text}{n}", "--keep", "n"]
    result = embedd("bulk", "all-minilm", "-", "-o", str(out), *options, stdin=data)
    assert result.status == 0, result.err
    rows = rows_of(out.read_bytes())
    assert [str(row["n"]) for row in rows] == ["1", "2"]
    assert rows[1]["embedding"] == list(struct.unpack("<3f", pack_vector("b2")))
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "o.jsonl.job.json"]


def test_stdin_is_cut_into_units_and_ends_at_a_limit(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "Limits", lambda: SMALL)
    data = "".join(f"{number}\n" for number in range(10)).encode()
    out = tmp_path / "o.jsonl"
    arguments = ["bulk", "all-minilm", "-", "--format", "txt", "-o", str(out), "--limit", "7"]
    result = embedd(*arguments, stdin=data)
    assert result.status == 0, result.err
    rows = rows_of(out.read_bytes())
    assert [(row["row"], row["text"]) for row in rows] == [(n, str(n)) for n in range(7)]
    assert sorted(map(len, requests_of(server))) == [1, 3, 3]


def test_a_job_from_stdin_cannot_be_continued(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    del server
    arguments = ["bulk", "all-minilm", "-", "--format", "txt", "-o", str(tmp_path / "o.jsonl")]
    embedd(*arguments, "--max-errors", "0", stdin=b"bad\n")
    again = embedd(*arguments, stdin=b"good\n")
    assert again.status == 1
    assert "stdin cannot be continued" in again.err
    assert embedd(*arguments, "--restart", stdin=b"good\n").status == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "-o", "-"], "--format"),
        (["-", "a.txt", "-o", "-", "--format", "txt"], "beside others"),
        (["-", "-o", "x.jsonl", "--format", "txt", "--dry-run"], "read once"),
        (["-", "-o", "x.jsonl", "--format", "md"], "cannot be read from stdin"),
        (["a.txt", "-o", "-", "--shard", "1/2"], "stdout is not shared"),
        (["a.txt", "-o", "ftp://host/out"], "ftp://host/out is not a path"),
        (["ftp://host/a.txt", "-o", "x.jsonl"], "ftp://host/a.txt is not a path"),
        (["a.txt", "-o", "x.csv"], "no output can be a .csv"),
        (["nowhere.txt", "-o", "x.jsonl"], "nowhere.txt is not a file"),
        (["a.txt", "-o", "x.jsonl", "--text", "title"], "no column 'title'"),
        (["a.txt", "-o", "x.jsonl", "--text", "{text!r}"], "names of columns in braces only"),
        (["a.txt", "-o", "x.jsonl", "--text", "{text"], "is not valid"),
    ],
)
def test_what_cannot_be_done_is_refused(
    embedd: Run, in_folder: Path, arguments: list[str], message: str
) -> None:
    (in_folder / "a.txt").write_text("a\n")
    result = embedd("bulk", "all-minilm", *arguments, stdin=b"a\n")
    assert result.status == 1
    assert message in result.err


@pytest.mark.parametrize(
    "options",
    [["--local", "--server", "x"], ["--overlap", "3"], ["--shard", "4/3"], ["--dtype", "float8"]],
)
def test_options_that_exclude_each_other_are_wrong_usage(
    embedd: Run, texts: Path, options: list[str]
) -> None:
    assert embedd("bulk", "all-minilm", str(texts), "-o", "-", *options).status == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk", "9", "--too-long", "error"], "--too-long has no effect with --chunk"),
        (["--chunk", "9", "--too-long", "cut"], "--too-long has no effect with --chunk"),
        (["--chunk", "9", "--overlap", "9"], "--overlap is 9, it must be less than --chunk"),
        (["--errors", "stop", "--max-errors", "5"], "--errors stop allows no row to fail, --max-e"),
        (["--server", "x", "--threads", "2"], "--threads has no effect with --server"),
        (["-o", "-", "--restart"], "--restart has no effect with -o -"),
    ],
)
def test_an_option_without_effect_is_wrong_usage(
    embedd: Run, in_folder: Path, texts: Path, options: list[str], message: str
) -> None:
    result = embedd("bulk", "all-minilm", str(texts), "-o", "o.jsonl", *options)
    assert result.status == 2
    assert message in result.err
    assert list(in_folder.iterdir()) == [texts]


@pytest.mark.parametrize("options", [["--errors", "stop", "--max-errors", "0"], ["--overlap", "0"]])
def test_options_that_say_the_same_are_no_fault(
    embedd: Run, in_folder: Path, texts: Path, options: list[str]
) -> None:
    assert embedd("bulk", "all-minilm", str(texts), "-o", "o.jsonl", *options).status == 0
    assert (in_folder / "o.jsonl").exists()


@pytest.mark.parametrize("form", [[], ["--format", "openai-batch"]])
def test_threads_are_refused_where_a_server_answers(
    embedd: Run, server: FakeServer, in_folder: Path, texts: Path, form: list[str]
) -> None:
    line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"input": "a"}}
    if form:
        texts.write_text(json.dumps(line))
    result = embedd("bulk", "all-minilm", "a.txt", "-o", "o.jsonl", "--threads", "1", *form)
    assert result.status == 1
    assert f"--threads has no effect: the server at {server.url} computes" in result.err
    assert not (in_folder / "o.jsonl").exists()


def test_a_format_that_no_input_has_is_refused(embedd: Run, in_folder: Path, texts: Path) -> None:
    arguments = ["bulk", "all-minilm", "a.txt", "-o", "o.jsonl", "--format"]
    result = embedd(*arguments, "csv")
    assert result.status == 1
    assert "--format csv has no effect: it is of inputs whose ending names none" in result.err
    assert list(in_folder.iterdir()) == [texts]
    (in_folder / "b.log").write_text("a,text\n1,one\n")
    assert embedd(*arguments, "txt").status == 0
    arguments[arguments.index("o.jsonl")] = "p.jsonl"
    assert embedd(*arguments, "csv", "--keep", "none", "b.log").status == 0


def test_an_unknown_model_is_known_before_anything_is_written(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    result = embedd("bulk", "missing", str(texts), "-o", str(texts.with_name("o.jsonl")))
    assert result.status == 1
    assert "not found" in result.err
    assert [one.name for one in texts.parent.iterdir()] == ["a.txt"]


def test_a_server_that_does_not_say_what_computes_is_refused(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    server.backend = ""
    result = embedd("bulk", "all-minilm", str(texts), "-o", "-")
    assert result.status == 1
    assert "needs an embedd server" in result.err


def test_several_servers_share_the_work(embedd: Run, server: FakeServer, tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(10_000)))
    with in_background(FakeServer()) as other:
        result = embedd(
            "bulk", "all-minilm", str(source), "-o", str(tmp_path / "o.jsonl"),
            "--server", server.url, "--server", other.url,
        )  # fmt: skip
        assert result.status == 0, result.err
        both = requests_of(server) + requests_of(other)
        assert requests_of(server)
        assert requests_of(other)
        assert sum(map(len, both)) == 10_000


def test_servers_with_different_backends_are_refused_unless_that_is_allowed(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    with in_background(FakeServer(backend="1b226e2802db;engine=other")) as other:
        arguments = ["bulk", "all-minilm", str(texts), "-o", str(texts.with_name("o.jsonl"))]
        arguments += ["--server", server.url, "--server", other.url]
        refused = embedd(*arguments)
        assert refused.status == 1
        assert "--mixed-backends" in refused.err
        assert embedd(*arguments, "--mixed-backends").status == 0


def test_a_dry_run_writes_nothing_and_says_what_would_come(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    del server
    source = tmp_path / "a.txt"
    source.write_text("".join(f"line {n % 100:03}\n" for n in range(900)) + "x" * 101 + "\n")
    out = tmp_path / "o.jsonl"
    result = embedd("bulk", "all-minilm", str(source), "-o", str(out), "--dry-run")
    assert result.status == 0, result.err
    assert "901 rows" in result.out
    assert "1 text cut" in result.out
    assert "(estimated from 101 rows)" in result.out
    assert list(tmp_path.iterdir()) == [source]


def test_the_prefix_of_the_model_is_part_of_the_job(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    out = texts.with_name("o.jsonl")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out), "--max-errors", "0"]
    texts.write_text("bad\n")
    assert embedd(*arguments).status == 1
    shown = {"modelfile": "", "parameters": 'document_prefix                "doc: "'}
    server.refusals["/api/show"] = web.json_response(shown)
    result = embedd(*arguments)
    assert result.status == 1
    assert "the model's prefix was '' and is 'doc: '" in result.err
    assert "--restart" in result.err


def test_progress_can_be_lines_of_json(embedd: Run, server: FakeServer, texts: Path) -> None:
    del server
    out = str(texts.with_name("o.jsonl"))
    result = embedd("bulk", "all-minilm", str(texts), "-o", out, "--progress", "json")
    *_, line = [line for line in result.err.splitlines() if line.startswith('{"rows":')]
    shown = json.loads(line)
    assert (shown["rows"], shown["of"], shown["tokens"], shown["failed"]) == (3, 3, 11, 0)
    assert (shown["parts"], shown["of_parts"]) == (1, 1)
    assert shown["eta_seconds"] == 0
    documents = (Path(__file__).parents[3] / "docs" / "bulk.md").read_text()
    table = documents.partition("| field |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(shown)


def test_lines_without_content_are_no_rows_also_where_progress_is_shown(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    """They take numbers, so that a row is found by its number."""
    del server
    source, out = tmp_path / "a.jsonl", tmp_path / "o.jsonl"
    source.write_text('\n{"text": "a"}\n \n\n{"text": "b"}\n{"text": null}\n\n')
    result = embedd("bulk", "all-minilm", str(source), "-o", str(out), "--progress", "json")
    *_, line = [line for line in result.err.splitlines() if line.startswith("{")]
    shown = json.loads(line)
    assert (shown["rows"], shown["of"]) == (3, 3)
    assert "\n2 rows, " in result.err
    assert [row["row"] for row in rows_of(out.read_bytes())] == [1, 4]


def test_without_progress_only_the_totals_are_shown(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    out = str(texts.with_name("o.jsonl"))
    result = embedd("bulk", "all-minilm", str(texts), "-o", out, "--progress", "none")
    assert len(result.err.splitlines()) == 2


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_ends_the_job_and_the_same_command_goes_on(
    embedd: Run,
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    presses: int,
) -> None:
    monkeypatch.setattr(running, "Limits", lambda: SMALL)
    # What is left of a job is found with the limits that it was planned with.
    monkeypatch.setattr("embedd.bulk.opening.Limits", lambda: SMALL)
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(60)))
    answer = FakeServer._arrays
    seen = []

    def interrupt(self: FakeServer, body: dict[str, Any]) -> web.Response:
        seen.append(body["input"])
        if len(seen) == 4:
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
        return answer(self, body)

    monkeypatch.setattr(FakeServer, "_arrays", interrupt)
    arguments = ["bulk", "all-minilm", str(source), "-o", str(tmp_path / "o.jsonl")]
    first = embedd(*arguments)
    assert first.status == 130
    parts = {one.name for one in (tmp_path / "o.jsonl.parts").glob("part-*")}
    if presses == 1:  # a second one may come while a part is put into its place
        assert f"{len(parts)} of 20 parts are kept, {running.CONTINUE}" in first.err
    assert running.CONTINUE in first.err
    assert len(parts) < 20
    if presses == 1:
        assert len(parts) == len(seen) - 1
    second = embedd(*arguments)
    assert second.status == 0, second.err
    rows = rows_of((tmp_path / "o.jsonl").read_bytes())
    assert [(row["row"], row["text"]) for row in rows] == [(n, str(n)) for n in range(60)]
    del server


@pytest.mark.parametrize("presses", [1, 2])
def test_an_interrupt_does_not_wait_for_rows_that_have_not_come(
    server: FakeServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    presses: int,
) -> None:
    """Stdin stays open, and nothing more is written to it."""
    monkeypatch.setattr(running, "Limits", lambda: SMALL)
    reader, writer = os.pipe()
    answer, seen = FakeServer._arrays, []

    def interrupt(self: FakeServer, body: dict[str, Any]) -> web.Response:
        seen.append(body["input"])
        if len(seen) == 2:  # the first is the probe
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGINT)
        return answer(self, body)

    monkeypatch.setattr(FakeServer, "_arrays", interrupt)
    with os.fdopen(reader) as stdin, os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr("sys.stdin", stdin)
        pipe.write("".join(f"{number}\n" for number in range(SMALL.rows + 1)))
        pipe.flush()
        out = tmp_path / "o.jsonl"
        status = cli.run(["bulk", "all-minilm", "-", "--format", "txt", "-o", str(out)])
    assert status == 130
    assert "interrupted: stdin cannot be continued" in capfd.readouterr().err
    if presses == 1:  # what is in work is finished
        assert len(list((tmp_path / "o.jsonl.parts").glob("part-*"))) == 1
    del server


@pytest.mark.parametrize("from_stdin", [False, True])
@pytest.mark.parametrize("name", ["o.jsonl", "-"])
def test_an_interrupt_with_nothing_left_lets_the_job_end_as_it_would(
    embedd: Run,
    server: FakeServer,
    texts: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    from_stdin: bool,
) -> None:
    answer, seen = FakeServer._arrays, []

    def interrupt(self: FakeServer, body: dict[str, Any]) -> web.Response:
        seen.append(body["input"])
        if len(seen) == 2:  # the first is the probe
            os.kill(os.getpid(), signal.SIGINT)
        return answer(self, body)

    monkeypatch.setattr(FakeServer, "_arrays", interrupt)
    out = name if name == "-" else str(texts.with_name(name))
    source = ["-", "--format", "txt"] if from_stdin else [str(texts)]
    result = embedd("bulk", "all-minilm", *source, "-o", out, stdin=texts.read_bytes())
    assert result.status == 0, result.err
    assert "finishing the parts in work" in result.err
    assert "interrupted" not in result.err
    data = result.out.encode() if name == "-" else Path(out).read_bytes()
    assert [row["text"] for row in rows_of(data)] == ["one", "two", "three"]
    del server


def test_stdin_that_is_no_text_is_refused(embedd: Run, server: FakeServer) -> None:
    data = "one\ntwo\n".encode("utf-16")
    result = embedd("bulk", "all-minilm", "-", "--format", "txt", "-o", "-", stdin=data)
    assert result.status == 1
    assert "stdin is UTF-16, and not UTF-8" in result.err
    assert requests_of(server) == []


def test_each_shard_says_what_it_came_to_and_whether_its_rows_failed(
    embedd: Run, server: FakeServer, texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.setattr("embedd.bulk.opening.Limits", lambda: SMALL)
    texts.write_text("one\nbad\nthree\n" + "four\nfive\nsix\n" + "seven\nbad\nbad\n")
    out = texts.with_name("o.jsonl")
    errors = texts.with_name("o.jsonl.errors.jsonl")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out), "--shard"]
    for _ in range(2):  # again with nothing left
        first = embedd(*arguments, "1/3")
        assert first.status == 3
        assert "this shard is done: 2 rows, 8 tokens, 0 texts cut, 1 error, " in first.err
        assert f"rows without a vector: {errors}, once the output is complete" in first.err
    second = embedd(*arguments, "2/3")
    assert second.status == 0
    assert "this shard is done: 3 rows, 11 tokens, 0 texts cut, 0 errors, " in second.err
    assert "rows without a vector" not in second.err
    assert not errors.exists()
    last = embedd(*arguments, "3/3")
    assert last.status == 3
    assert "\n6 rows, 24 tokens, 0 texts cut, 3 errors, " in last.err
    assert [one["line"] for one in rows_of(errors.read_bytes())] == [2, 8, 9]


def test_a_job_in_use_is_refused(embedd: Run, server: FakeServer, texts: Path) -> None:
    del server
    from embedd.bulk.folder import Folder

    command = ["bulk", "all-minilm", str(texts), "-o", str(texts.with_name("o.jsonl"))]
    for shard, options in (("1-of-1", ()), ("2-of-3", ("--shard", "2/3"))):
        with Folder(texts.with_name("o.jsonl.parts"), shard).lock():
            result = embedd(*command, *options)
        assert result.status == 1
        assert f"is in use by process {os.getpid()} on " in result.err
        other = "another -o or --shard" if options else "another -o"
        assert f": wait until it has ended, or stop it, or choose {other}\n" in result.err


def test_a_file_that_no_job_made_is_never_overwritten(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    out = texts.with_name("o.jsonl")
    out.write_text("precious")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out)]
    for more in ([], ["--restart"]):
        refused = embedd(*arguments, *more)
        assert refused.status == 1
        assert f"{out} was not made by embedd bulk: choose another -o" in refused.err
        assert out.read_text() == "precious"


def test_an_output_of_another_job_is_computed_anew_only_on_demand(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    out = texts.with_name("o.jsonl")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out)]
    assert embedd(*arguments).status == 0
    refused = embedd(*arguments, "--dimensions", "4")
    assert refused.status == 1
    assert "--restart" in refused.err
    assert embedd(*arguments, "--dimensions", "4", "--restart").status == 0
    assert len(rows_of(out.read_bytes())) == 3


@pytest.mark.parametrize("more", [(), ("--restart",), ("--format", "openai-batch", "--restart")])
def test_an_input_is_never_the_output(
    embedd: Run, server: FakeServer, tmp_path: Path, more: tuple[str, ...]
) -> None:
    del server
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text":"x"}\n')
    refused = embedd("bulk", "all-minilm", str(source), "-o", str(source), *more)
    assert refused.status == 1
    assert "is an input, and would be thrown away with the output" in refused.err
    assert source.read_text() == '{"text":"x"}\n'


@pytest.mark.parametrize("name", ["in/o.jsonl", "in/deep/out"])
def test_an_output_is_never_in_a_folder_of_inputs(
    embedd: Run, server: FakeServer, in_folder: Path, name: str
) -> None:
    """The next command would find its parts there as further inputs."""
    (in_folder / "in").mkdir()
    (in_folder / "in" / "a.txt").write_text("a\n")
    refused = embedd("bulk", "all-minilm", "in", "-o", name)
    assert refused.status == 1
    assert f"the output {name} is in the folder of inputs in: choose another -o" in refused.err
    assert requests_of(server) == []
    assert embedd("bulk", "all-minilm", "in/*.txt", "-o", "in/o.jsonl").status == 0


def test_parts_of_the_output_are_never_its_inputs(
    embedd: Run, server: FakeServer, in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.setattr("embedd.bulk.opening.Limits", lambda: SMALL)
    (in_folder / "a.jsonl").write_text('{"text":"a"}\n' * 3 + '{"text":"bad"}\n')
    arguments = ["bulk", "all-minilm", "**/*.jsonl", "-o", "o.jsonl"]
    assert embedd(*arguments, "--errors", "stop", "--shard", "1/2").status == 0
    assert embedd(*arguments, "--errors", "stop", "--shard", "2/2").status == 1
    refused = embedd(*arguments)
    assert refused.status == 1
    assert (
        "o.jsonl.parts/part-000000.jsonl is of the output's own parts: give inputs" in refused.err
    )


def test_an_input_is_never_in_the_folder_of_the_output(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    del server
    pytest.importorskip("pyarrow")
    source = tmp_path / "rows" / "part-000000.jsonl"
    source.parent.mkdir()
    source.write_text('{"text":"x"}\n')
    out = f"{source.parent}/"
    refused = embedd("bulk", "all-minilm", str(source), "-o", out, "--restart")
    assert refused.status == 1
    assert "is an input, and would be thrown away with the output" in refused.err
    assert [one.name for one in source.parent.iterdir()] == [source.name]


def test_the_same_command_has_nothing_left_to_do(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    out = texts.with_name("o.jsonl")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out)]
    assert embedd(*arguments).status == 0
    before = (out.read_bytes(), len(requests_of(server)))
    again = embedd(*arguments)
    assert again.status == 0
    said = again.err.splitlines()[1:]  # after what computes
    assert len(said) == 1
    assert said[0].startswith("nothing left to do: 3 rows, 11 tokens, 0 texts cut, 0 errors, ")
    assert (out.read_bytes(), len(requests_of(server)) - 1) == before  # one more probe
    assert not texts.with_name("o.jsonl.parts").exists()


def test_a_folder_that_is_complete_has_nothing_left_to_do(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    pytest.importorskip("pyarrow")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(texts.with_name("out"))]
    assert "exclude_invalid_files" in embedd(*arguments).err
    again = embedd(*arguments)
    assert again.status == 0
    assert len(again.err.splitlines()) == 2
    assert "nothing left to do: 3 rows" in again.err


def test_rows_that_failed_make_the_status_3_again(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    source = texts.with_name("a.jsonl")
    source.write_text('{"text": "a"}\n{"text": null}\n')
    arguments = ["bulk", "all-minilm", str(source), "-o", str(texts.with_name("o.jsonl"))]
    for result in (embedd(*arguments), embedd(*arguments)):
        assert result.status == 3
        assert "o.jsonl.errors.jsonl" in result.err


def test_an_output_of_another_command_is_refused_with_the_difference(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    out, more = texts.with_name("o.jsonl"), texts.with_name("b.txt")
    more.write_text("four\n")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out)]
    assert embedd(*arguments).status == 0
    changed = {
        "input_type was 'document' and is 'query'": [*arguments, "--input-type", "query"],
        f"the input {more} is new": [*arguments, str(more)],
    }
    for difference, command in changed.items():
        refused = embedd(*command)
        assert refused.status == 1
        assert f"{out} is of another job: {difference}. --restart" in refused.err
    texts.write_text("other\n")
    assert f"the input {texts} has changed" in embedd(*arguments).err
    assert embedd(*arguments, "--restart").status == 0
    assert [row["text"] for row in rows_of(out.read_bytes())] == ["other"]


def test_an_output_that_was_changed_is_not_the_one_that_was_made(
    embedd: Run, server: FakeServer, texts: Path
) -> None:
    del server
    out = texts.with_name("o.jsonl")
    arguments = ["bulk", "all-minilm", str(texts), "-o", str(out)]
    assert embedd(*arguments).status == 0
    out.write_text("precious")
    assert f"{out} exists" in embedd(*arguments).err
    out.unlink()
    assert embedd(*arguments).status == 0
    assert len(rows_of(out.read_bytes())) == 3


def test_a_shard_says_that_others_are_still_working(
    embedd: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del server
    monkeypatch.setattr("embedd.bulk.opening.Limits", lambda: SMALL)
    source = tmp_path / "a.txt"
    source.write_text("".join(f"{number}\n" for number in range(9)))
    arguments = ["bulk", "all-minilm", str(source), "-o", str(tmp_path / "o.jsonl")]
    first = embedd(*arguments, "--shard", "1/2")
    assert first.status == 0
    assert "completed by another shard" in first.err
    assert embedd(*arguments, "--shard", "2/2").status == 0
    assert len(rows_of((tmp_path / "o.jsonl").read_bytes())) == 9
