"""Files of requests, one on each line."""

import json
from pathlib import Path

import pytest

from embedd.bulk import requests
from embedd.bulk.requests import (
    EMBEDDINGS,
    Checked,
    check_requests,
    plan_requests,
    read_requests,
    render_answer,
    render_error,
)
from embedd.bulk.units import Limits

MAX_BODY = 1000


def line(name: str, **changes: object) -> bytes:
    body = {"model": "m", "input": "a"}
    fields = {"custom_id": name, "method": "POST", "url": EMBEDDINGS, "body": body, **changes}
    return json.dumps(fields).encode() + b"\n"


def check(path: Path, content: bytes) -> Checked:
    path.write_bytes(content)
    return check_requests(path, EMBEDDINGS, max_body=MAX_BODY)


def faults(path: Path, content: bytes) -> list[tuple[int | None, str, str | None]]:
    return [(one.line, one.code, one.param) for one in check(path, content).faults]


def test_a_byte_order_mark_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + line("a") + b"\n  \r\n" + line("b").rstrip(b"\n")
    path = tmp_path / "in"
    assert check(path, content) == Checked(requests=2, faults=())
    [whole] = plan_requests(path)
    read = read_requests(path, whole)
    assert [(one.number, one.request.custom_id) for one in read] == [(1, "a"), (4, "b")]
    assert json.loads(read[0].body) == {"model": "m", "input": "a"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", [(None, "empty_file", None)]),
        (b"\n\n", [(None, "empty_file", None)]),
        (b"{\n", [(1, "invalid_json_line", None)]),
        (b'{"custom_id": "\xff"}\n', [(1, "invalid_json_line", None)]),
        (b"[1]\n", [(1, "invalid_request", None)]),
        (line("a", body=[]), [(1, "invalid_request", None)]),
        (line("a", method="GET"), [(1, "invalid_method", "method")]),
        (line("a", url="/v1/rerank"), [(1, "invalid_url", "url")]),
        (line(""), [(1, "invalid_custom_id", "custom_id")]),
        (line("x" * 513), [(1, "invalid_custom_id", "custom_id")]),
        (line("a") + line("b") + line("a"), [(3, "duplicate_custom_id", "custom_id")]),
        (
            line("x" * 5000) + line("b", method="X"),
            [(1, "request_too_large", None), (2, "invalid_method", "method")],
        ),
    ],
)
def test_a_fault_names_its_line_and_field(
    tmp_path: Path, content: bytes, expected: list[tuple[int | None, str, str | None]]
) -> None:
    assert faults(tmp_path / "in", content) == expected


def test_faults_are_in_the_order_of_the_lines(tmp_path: Path) -> None:
    content = line("a") + line("a") + b"{\n" + line("a") + line("b", method="X")
    assert [number for number, *_ in faults(tmp_path / "in", content)] == [2, 3, 4, 5]
    repeated, broken = line("a") * 61, b"{\n" * 60
    assert [n for n, *_ in faults(tmp_path / "in", repeated + broken)] == list(range(2, 102))


def test_a_line_may_be_as_long_as_a_body(tmp_path: Path) -> None:
    short = line("a", pad="").rstrip(b"\n")
    fits = line("a", pad="x" * (MAX_BODY - len(short)))
    assert faults(tmp_path / "in", fits) == []
    longer = line("a", pad="x" * (MAX_BODY + 1 - len(short)))
    assert faults(tmp_path / "in", longer) == [(1, "request_too_large", None)]


def test_a_fault_quotes_little_of_the_line(tmp_path: Path) -> None:
    [fault] = check(tmp_path / "in", line("a", url="x" * 900)).faults
    assert len(fault.message) < 200


def test_a_hundred_faults_are_reported(tmp_path: Path) -> None:
    assert len(faults(tmp_path / "in", b"{\n" * 150)) == 100
    assert len(faults(tmp_path / "in", line("a") * 150)) == 100


def test_a_file_has_a_limit_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MOST_REQUESTS", 2)
    assert faults(tmp_path / "in", line("a") + line("b")) == []
    assert faults(tmp_path / "in", line("a") + line("b") + line("c")) == [
        (3, "too_many_requests", None)
    ]


def test_ranges_have_every_request_once_from_any_of_them_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "RANGES", Limits(rows=3, bytes=1 << 20))
    path = tmp_path / "in"
    path.write_bytes(b"".join(line(str(i)) for i in range(10)))
    ranges = list(plan_requests(path))
    names = [[one.request.custom_id for one in read_requests(path, some)] for some in ranges]
    assert names == [["0", "1", "2"], ["3", "4", "5"], ["6", "7", "8"], ["9"]]
    assert list(plan_requests(path, start=ranges[1].end)) == ranges[2:]


def test_lines_of_results_have_the_keys_of_openai() -> None:
    answer = json.loads(render_answer("a", 200, "r", b'{"x":1}'))
    assert answer.pop("id").startswith("batch_req_")
    response = {"status_code": 200, "request_id": "r", "body": {"x": 1}}
    assert answer == {"custom_id": "a", "response": response, "error": None}
    error = json.loads(render_error("a", "batch_expired", "late"))
    assert error["response"] is None
    assert error["error"] == {"code": "batch_expired", "message": "late"}
