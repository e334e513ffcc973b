"""What is asked of a node before it gets work."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.bulk.folder import Folder
from embedd.ray.probe import Probe, find_fault, open_probe


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.txt", "b.txt"):
        (folder / name).write_text("one\n")
    return [str(folder / name) for name in ("a.txt", "b.txt")]


def test_a_machine_that_sees_all_files_can_do_the_job(tmp_path: Path, inputs: list[str]) -> None:
    folder = Folder(tmp_path / "out")
    with open_probe(folder, inputs) as probe:
        assert find_fault(probe) == ""
        assert probe.inputs == ((inputs[1], 4),)  # one of each folder
        assert len(folder.list()) == 1
    assert folder.list() == set()


def test_a_probe_of_a_killed_command_is_removed_by_the_next(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with open_probe(folder, []) as probe, folder.lock():
        assert folder.read(probe.name) is None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"version": "0.0.0"}, "and the command 0.0.0: install the same"),
        ({"content": "other"}, "does not see the files that this machine writes to"),
        ({"root": Path("/nowhere")}, "does not see the files that this machine writes to /nowhere"),
        ({"inputs": (("/nowhere/a.txt", 1),)}, "does not see the input /nowhere/a.txt of 1 bytes"),
    ],
)
def test_a_machine_with_other_files_or_another_embedd_is_named(
    tmp_path: Path, change: dict[str, object], fault: str
) -> None:
    with open_probe(Folder(tmp_path / "out"), []) as probe:
        assert fault in find_fault(replace(probe, **change))  # type: ignore[arg-type]  # of a table


def test_an_input_of_another_size_is_another_file(tmp_path: Path, inputs: list[str]) -> None:
    with open_probe(Folder(tmp_path / "out"), inputs) as probe:
        Path(inputs[1]).write_text("one\ntwo\n")
        assert f"does not see the input {inputs[1]} of 4 bytes" in find_fault(probe)


def test_a_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise OSError(30, os.strerror(30), str(path), data)

    with open_probe(Folder(tmp_path / "out"), []) as probe:
        monkeypatch.setattr(Path, "write_bytes", refuse)
        assert find_fault(probe) == f"cannot write to {probe.root}: Read-only file system"


def test_probes_of_two_commands_differ(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "out")
    with open_probe(folder, []) as one, open_probe(folder, []) as other:
        assert one.content != other.content
        assert isinstance(one, Probe)
        assert find_fault(replace(one, name=other.name)) != ""
