"""How far a job is: counted while it runs, with the time that is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a job.

    Args:
        rows: Done, those without a vector too.
        of: All rows; None if that is not known yet.
        tokens_per_second: Of this run.
        eta_seconds: None while it cannot be estimated.
        waits: For servers that were busy or away.
    """

    rows: int
    of: int | None
    tokens: int
    tokens_per_second: float
    eta_seconds: float | None
    cut: int
    failed: int
    parts: int
    of_parts: int | None
    seconds: float
    waits: int = 0


class Progress:
    """Counts rows, tokens and bytes of one run.

    Args:
        rows: Of all units of this run, with lines that turn out to have no content; None if
            that is not known.
        size: Bytes of text of the same.
        parts: How many units they are.
        done_rows: Rows of parts that were finished before.
    """

    def __init__(
        self,
        *,
        rows: int | None,
        size: int | None,
        parts: int | None,
        done_rows: int = 0,
        done_parts: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._all_rows, self._all_size, self._all_parts = rows, size, parts
        self._done_rows, self._done_parts = done_rows, done_parts
        self._clock = clock
        self._start = clock()
        self.rows = self.tokens = self.cut = self.failed = self.parts = 0
        self.size = 0.0
        self.count_waits: Callable[[], int] = lambda: 0  # for servers, so far
        self._has_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether all parts are finished; false while it is not known how many there are."""
        return self._has_ended or self.parts == self._all_parts

    def end(self) -> None:
        """Note that the last part is finished."""
        self._has_ended = True

    def add(self, rows: int, tokens: int, cut: int, failed: int, size: float) -> None:
        """Count what was done; *size* is bytes of text."""
        self.rows += rows
        self.size += size
        self.tokens += tokens
        self.cut += cut
        self.failed += failed

    def skip(self, rows: int) -> None:
        """Take *rows* from those that are to do: they were lines without content."""
        if self._all_rows is not None:
            self._all_rows -= rows

    def finish_part(self) -> None:
        """Count a part."""
        self.parts += 1

    def snapshot(self) -> Snapshot:
        """Return the state now."""
        seconds = max(self._clock() - self._start, 1e-9)
        return Snapshot(
            rows=self.rows + self._done_rows,
            of=None if self._all_rows is None else self._all_rows + self._done_rows,
            tokens=self.tokens,
            tokens_per_second=round(self.tokens / seconds, 1),
            eta_seconds=self._estimate_left(seconds),
            cut=self.cut,
            failed=self.failed,
            parts=self.parts + self._done_parts,
            of_parts=None if self._all_parts is None else self._all_parts + self._done_parts,
            seconds=round(seconds, 3),
            waits=self.count_waits(),
        )

    def _estimate_left(self, seconds: float) -> float | None:
        """Seconds for the bytes of text that are left, at the tokens per byte and second so far."""
        if self._all_size is None or not self.size:
            return None
        return round(seconds * max(0.0, self._all_size - self.size) / self.size, 1)
