"""Progress bars, drawn against a clock moved by hand."""

import io

import pytest
from rich.console import Console

from embedd.cli.bars import Bars
from embedd.ollama_api import ProgressLine

DIGEST = f"sha256:{'0' * 64}"


class Screen:
    """Bars on a terminal of *columns* without colours."""

    def __init__(self, columns: int = 80) -> None:
        self.now = 0.0
        self._out = io.StringIO()
        self._console = Console(
            file=self._out, width=columns, color_system=None, force_terminal=True
        )
        self.bars = Bars(self._console, lambda: self.now)

    def report(self, status: str, total: int | None = None, completed: int | None = None) -> None:
        self.bars.report(ProgressLine(status=status, total=total, completed=completed))

    @property
    def lines(self) -> list[str]:
        self._out.seek(0)
        self._out.truncate()
        self._console.print(self.bars)
        return [line.rstrip() for line in self._out.getvalue().splitlines()]


def test_nothing_reported_is_nothing_drawn() -> None:
    screen = Screen()
    screen.bars.finish()
    assert screen.lines == []


def test_steps_spin_fill_and_stop() -> None:
    screen = Screen()
    screen.report("pulling manifest")
    assert screen.lines == ["pulling manifest ⠋"]
    screen.now = 0.25
    assert screen.lines == ["pulling manifest ⠸"]
    screen.report("pulling 797b", total=45_000_000)
    assert screen.lines[0] == "pulling manifest"
    assert screen.lines[1].split() == ["pulling", "797b:", "0%", "0.0/45.0", "MB", "--:--"]
    screen.now = 1.25
    screen.report("pulling 797b", total=45_000_000, completed=15_000_000)
    screen.now = 2.25
    screen.report("pulling 797b", total=45_000_000, completed=30_000_000)
    assert screen.lines[1].startswith("pulling 797b:  67% ━━━━━━━━━━━━━━━━━━━━━")
    assert screen.lines[1].endswith(" 30.0/45.0 MB 15.0 MB/s 00:01")
    screen.report("pulling 797b", total=45_000_000, completed=45_000_000)
    assert screen.lines[1].endswith("━ 45.0/45.0 MB 30.0 MB/s 00:02")
    screen.report("success")
    screen.bars.finish()
    screen.now = 60.0
    assert screen.lines[1].endswith("━ 45.0/45.0 MB 30.0 MB/s 00:02")
    assert screen.lines[2] == "success"


def test_a_step_gets_its_bar_when_its_bytes_become_known() -> None:
    screen = Screen()
    screen.report("converting model")
    screen.report("converting model", total=100, completed=50)
    [line] = screen.lines
    assert line.startswith("converting model:  50% ━")


def test_bytes_that_an_earlier_download_left_do_not_count_as_speed() -> None:
    screen = Screen()
    screen.report("pulling 797b", total=100_000, completed=90_000)
    screen.now = 1.0
    screen.report("pulling 797b", total=100_000, completed=91_000)
    screen.now = 2.0
    screen.report("pulling 797b", total=100_000, completed=92_000)
    assert screen.lines[0].endswith(" 92.0/100.0 kB 1.0 kB/s 00:08")


def test_a_step_that_broke_off_keeps_its_numbers() -> None:
    screen = Screen(60)
    screen.report("pulling 797b", total=100, completed=30)
    screen.bars.finish()
    assert screen.lines[0].endswith(" 30/100 bytes")


@pytest.mark.parametrize("columns", [40, 60, 71, 72, 100])
def test_a_long_status_is_cut_before_the_numbers(columns: int) -> None:
    screen = Screen(columns)
    screen.report(f"copying file {DIGEST}", total=100, completed=37)
    screen.report(f"creating new layer {DIGEST}")
    bar, step = screen.lines
    assert len(bar) <= columns
    assert bar.startswith("copying file sha256")
    assert "… " in bar
    assert " 37% " in bar
    assert " 37/100 bytes" in bar
    assert step.startswith("creating new layer sha256:0")


def test_a_status_is_not_markup() -> None:
    screen = Screen()
    screen.report("pulling [red]x[/red]", total=2, completed=1)
    assert screen.lines[0].startswith("pulling [red]x[/red]:  50%")
