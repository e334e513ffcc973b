"""Forms with files, split while they arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import MalformedBodyError
from embedd.server.http.form_data import LONGEST_HEAD, Field, FormParser

TYPE = "multipart/form-data; boundary=mark"
FORM = (
    b"preamble\r\n--mark\r\n"
    b'Content-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--mark\r\n'
    b'content-disposition: form-data; name="file"; filename="a b.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n%s\r\n--mark--\r\nepilogue"
)


def parse(pieces: list[bytes]) -> list[tuple[str, str | None, bytes]]:
    parser = FormParser(TYPE)
    found: list[tuple[Field, bytearray]] = []
    for piece in pieces:
        for event in parser.feed(piece):
            if isinstance(event, Field):
                found.append((event, bytearray()))
            else:
                found[-1][1].extend(event)
    parser.finish()
    return [(one.name, one.filename, bytes(content)) for one, content in found]


@given(
    content=st.lists(
        st.sampled_from([b"a", b"\r\n", b"--", b"\r\n--mar", b"\n--mark", b"\0"]), max_size=12
    ).map(b"".join),
    size=st.integers(1, 40),
)
def test_a_form_is_the_same_however_it_is_cut(content: bytes, size: int) -> None:
    form = FORM % content
    pieces = [form[start : start + size] for start in range(0, len(form), size)]
    assert parse(pieces) == [("purpose", None, b"batch"), ("file", "a b.jsonl", content)]


def test_a_form_without_fields_is_empty() -> None:
    assert parse([b"--mark--"]) == []


@pytest.mark.parametrize(
    "content_type",
    ["", "application/json", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 71],
)
def test_another_type_is_not_a_form(content_type: str) -> None:
    with pytest.raises(MalformedBodyError, match="multipart/form-data with a boundary"):
        FormParser(content_type)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"--mark\r\nContent-Disposition: form-data\r\n\r\n", "has no name"),
        (b"--mark\r\nX: y\r\n\r\n", "has no name"),
        (b"--mark\r\n\r\n\r\n", "has no name"),
        (b"--markxy", "does not end its line"),
        (b"--mark\r\n" + b"x" * (LONGEST_HEAD + 1), "bytes of headers"),
        (FORM % b"x" * 0 + b"--mark\r\n", "ends early"),
        (b"", "ends early"),
    ],
)
def test_a_body_that_is_not_a_form_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedBodyError, match=reason):
        parse([body])
