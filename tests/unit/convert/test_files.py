"""JSON files of a checkpoint are read with a limit, and refused by name."""

from pathlib import Path

import pytest

from embedd.convert.files import (
    MAX_JSON_BYTES,
    read_json,
    read_json_object,
    read_optional_object,
)
from embedd.errors import ConversionError


def test_what_a_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "é"]}', encoding="utf-8")
    assert read_json(path) == read_json_object(path) == read_optional_object(path)
    assert read_json(path) == {"a": [1, "é"]}


def test_pairs_of_escapes_are_characters_and_halves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(r'["\ud83D\uDE00", "\\ud83d"]')
    assert read_json(path) == ["😀", r"\ud83d"]
    path.write_text(r'{"a": ["\uD83d"]}')
    with pytest.raises(ConversionError, match="surrogates not allowed"):
        read_json(path)


def test_an_optional_file_may_be_missing_and_others_may_not(tmp_path: Path) -> None:
    assert read_optional_object(tmp_path / "a.json") == {}
    with pytest.raises(ConversionError, match=r"a\.json cannot be read: No such file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b""])
def test_what_is_not_json_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ConversionError, match=r"a\.json is not JSON"):
        read_json(tmp_path / "a.json")


def test_another_value_than_an_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ConversionError, match="must hold a JSON object, not list"):
        read_json_object(tmp_path / "a.json")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(ConversionError, match=f"at most {MAX_JSON_BYTES} are read"):
        read_json(tmp_path / "a.json")
