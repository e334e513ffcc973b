"""What a run measured, and the bounds of it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number that was measured, and what it has to be, "" if it may be anything."""

    scenario: str
    name: str
    value: str
    bound: str
    holds: bool

    def __str__(self) -> str:
        verdict = "" if not self.bound else "ok" if self.holds else "BROKEN"
        return f"{self.name}: {self.value} (bound {self.bound}) {verdict}"


@dataclass(slots=True)
class Figures:
    """The figures of one scenario.

    Args:
        times_count: Whether bounds of times and of shares of them are kept: only in the full
            form, on a machine that does nothing else.
    """

    scenario: str
    times_count: bool
    rows: list[Figure] = field(default_factory=list)

    def note(self, name: str, value: float | str, unit: str = "") -> None:
        """Add a figure without a bound."""
        self._add(name, value, unit, bound="", holds=True)

    def at_most(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """Add a figure; the scenario fails in the end if it is above *bound*."""
        self._add(name, value, unit, bound=f"≤ {_text(bound)}", holds=value <= bound)

    def at_least(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """Add a figure; the scenario fails in the end if it is below *bound*."""
        self._add(name, value, unit, bound=f"≥ {_text(bound)}", holds=value >= bound)

    def time_at_most(self, name: str, value: float, bound: float, unit: str = "ms") -> None:
        """As `at_most`, of what a busy machine makes worse."""
        holds = value <= bound or not self.times_count
        self._add(name, value, unit, bound=f"≤ {_text(bound)}", holds=holds)

    def time_at_least(self, name: str, value: float, bound: float, unit: str = "") -> None:
        """As `at_least`, of what a busy machine makes worse."""
        holds = value >= bound or not self.times_count
        self._add(name, value, unit, bound=f"≥ {_text(bound)}", holds=holds)

    @property
    def broken(self) -> list[Figure]:
        """Those whose bound is broken."""
        return [row for row in self.rows if not row.holds]

    def _add(self, name: str, value: float | str, unit: str, *, bound: str, holds: bool) -> None:
        text = value if isinstance(value, str) else f"{_text(value)} {unit}".rstrip()
        self.rows.append(
            Figure(scenario=self.scenario, name=name, value=text, bound=bound, holds=holds)
        )


def format_table(rows: list[Figure]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| scenario | figure | value | bound | |", "|---|---|--:|--:|---|"]
    previous = ""
    for row in rows:
        scenario = "" if row.scenario == previous else row.scenario
        verdict = "" if not row.bound else "ok" if row.holds else "BROKEN"
        lines.append(f"| {scenario} | {row.name} | {row.value} | {row.bound} | {verdict} |")
        previous = row.scenario
    return lines


def find_percentile(values: list[float], share: float) -> float:
    """Return the value that *share* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _text(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
