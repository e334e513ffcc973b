"""Progress on a terminal and elsewhere, against a clock moved by hand."""

import sys

import pytest

from embedd.cli.progress import Bars, Lines, format_bar, open_progress
from embedd.ollama_api import ProgressLine

BARS = {
    (20_000_000, 45_000_000, 12_000_000.0): (
        "pulling 797b70c4edf8:  44% ▕████████          ▏  20 MB/ 45 MB   12 MB/s      2s"
    ),
    (0, 45_000_000, 0.0): (
        "pulling 797b70c4edf8:   0% ▕                  ▏    0 B/ 45 MB                  "
    ),
    (45_000_000, 45_000_000, 0.0): (
        "pulling 797b70c4edf8: 100% ▕██████████████████▏  45 MB                         "
    ),
}


@pytest.mark.parametrize(("completed", "total", "rate"), BARS)
def test_a_bar_fills_the_width(completed: int, total: int, rate: float) -> None:
    bar = format_bar("pulling 797b70c4edf8:", completed, total, rate, 80)
    assert bar == BARS[completed, total, rate]


@pytest.mark.parametrize(
    ("rate", "remaining"),
    [(100.0, "1s"), (1.0, "1m40s"), (0.01, "2h46m"), (0.000_1, "99h+")],
)
def test_the_remaining_time_is_short(rate: float, remaining: str) -> None:
    assert format_bar("x:", 0, 100, rate, 80).endswith(f"  {remaining:>6}")


def test_a_narrow_terminal_gets_no_bar_but_all_numbers() -> None:
    assert "▕▏" in format_bar("pulling:", 1, 2, 0.0, 20)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_spin_fill_and_stand_still() -> None:
    clock = Clock()
    bars = Bars(clock)
    assert bars.lines(80) == []
    bars.finish()
    bars.report(ProgressLine(status="pulling manifest"))
    assert bars.lines(80) == ["pulling manifest ⠋"]
    clock.now = 0.25
    assert bars.lines(80) == ["pulling manifest ⠹"]
    bars.report(ProgressLine(status="pulling 797b", total=100, completed=20))
    assert bars.lines(80)[0] == "pulling manifest"
    clock.now = 2.25
    bars.report(ProgressLine(status="pulling 797b", total=100, completed=60))
    assert bars.lines(80)[1].startswith("pulling 797b:  60% ▕█")
    assert bars.lines(80)[1].endswith(" 60 B/ 100 B    20 B/s      2s")
    bars.report(ProgressLine(status="pulling 797b", total=100, completed=100))
    assert bars.lines(80)[1].rstrip().endswith("▏  100 B")
    bars.report(ProgressLine(status="success"))
    bars.finish()
    assert bars.lines(80)[2] == "success"


def test_a_step_that_broke_off_shows_where(  # and no rate that would change any more
) -> None:
    clock = Clock()
    bars = Bars(clock)
    bars.report(ProgressLine(status="pulling 797b", total=100))
    clock.now = 1.0
    bars.report(ProgressLine(status="pulling 797b", total=100, completed=30))
    bars.finish()
    assert bars.lines(60)[0].rstrip().endswith("30 B/ 100 B")


def test_elsewhere_each_status_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines()
    for completed in (1, 2, 3):
        lines.report(ProgressLine(status="pulling", total=3, completed=completed))
    lines.report(ProgressLine(status="success"))
    assert capsys.readouterr().err == "pulling\nsuccess\n"


def test_a_terminal_gets_bars(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    with open_progress() as progress:
        progress.report(ProgressLine(status="pulling", total=3, completed=3))
    out, err = capsys.readouterr()
    assert out == ""
    assert "pulling: 100% ▕█" in err


def test_a_label_that_fills_the_line_keeps_its_percentage() -> None:
    line = format_bar(f"copying file sha256:{'0' * 64}:", 37, 100, 0.0, 40)
    assert line == f"copying file sha256:{'0' * 15}  37%"
    assert len(line) == 40
