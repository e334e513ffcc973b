"""The state folder keeps values and never raises."""

from pathlib import Path

import pytest

from embedd.state import StateFolder

KEY, VALUE = "sha256:0 cores=2", {"replicas": 2, "batch_tokens": None}


def test_what_was_written_is_read_by_kind_and_key(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "new" / "folder")
    assert state.read("tuning", KEY) is None
    state.write("tuning", KEY, VALUE)
    state.write("tuning", "other", {"replicas": 9})
    assert state.read("tuning", KEY) == VALUE
    assert state.read("other", KEY) is None
    state.write("tuning", KEY, {"replicas": 3})
    assert state.read("tuning", KEY) == {"replicas": 3}


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"format": 1, "key": "sha256:0 cores=2", "value": {}}',
     '{"format": 3, "key": "sha256:0 cores=2", "value": {}}',
     '{"format": 2, "key": "another", "value": {}}', '{"format": 2, "key": "sha256:0 cores=2"}',
     "[" * 100_000],
    ids=["empty", "cut", "list", "null", "older", "newer", "collision", "no value", "deep"],
)  # fmt: skip
def test_a_file_that_is_damaged_or_of_another_format_is_ignored(
    tmp_path: Path, content: str
) -> None:
    state = StateFolder(tmp_path)
    state.write("tuning", KEY, VALUE)
    [file] = (tmp_path / "tuning").glob("*.json")
    file.write_text(content)
    assert state.read("tuning", KEY) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    state = StateFolder(tmp_path / "file")
    state.write("tuning", KEY, VALUE)
    assert state.read("tuning", KEY) is None


def test_nothing_temporary_stays(tmp_path: Path) -> None:
    StateFolder(tmp_path).write("tuning", KEY, VALUE)
    assert [path.suffix for path in (tmp_path / "tuning").iterdir()] == [".json"]
