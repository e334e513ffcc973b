"""Texts of headers: printable ASCII, whatever a client put into a name."""

from hypothesis import given
from hypothesis import strategies as st

from embedd.server.http.header_text import to_header_text


@given(st.text())
def test_a_header_has_printable_ascii_alone(text: str) -> None:
    shown = to_header_text(text)
    assert shown.isascii()
    assert shown.isprintable()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_printable_ascii_is_left_as_it_is(text: str) -> None:
    assert to_header_text(text) == text


def test_what_is_escaped_can_be_read() -> None:
    assert to_header_text("a\r\nb\té😀") == r"a\r\nb\t\xe9\U0001f600"
