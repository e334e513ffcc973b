"""Progress away from a terminal, and the choice between lines and bars."""

import re
import sys

import pytest

from embedd.cli.progress import make_printer, open_progress
from embedd.ollama_api import ProgressLine


def test_without_a_terminal_each_status_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    report = make_printer()
    for completed in (1, 2, 3):
        report(ProgressLine(status="pulling", total=3, completed=completed))
    report(ProgressLine(status="success"))
    assert capsys.readouterr().err == "pulling\nsuccess\n"


def test_without_a_terminal_rich_is_not_imported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "embedd.cli.bars", None)  # an import would fail
    with open_progress() as report:
        report(ProgressLine(status="pulling", total=3, completed=3))
    assert capsys.readouterr().err == "pulling\n"


def test_a_terminal_gets_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    with open_progress() as report:
        report(ProgressLine(status="pulling", total=3, completed=3))
    out, err = capsys.readouterr()
    assert out == ""
    assert re.sub(r"\x1b\[[0-9;]*m", "", err).count("pulling: 100% ━") == 1
