"""The command with jobs of small units.

``python -m tests.faults.small_units`` takes what ``python -m embedd`` takes.
"""

from functools import partial

from embedd.bulk import opening, requests
from embedd.bulk.units import Limits
from embedd.cli import main

ROWS = 100  # of a unit


def use_small_units() -> None:
    """Let the jobs of this process have units of `ROWS`."""
    vars(opening)["Limits"] = partial(Limits, rows=ROWS)
    vars(requests)["RANGES"] = Limits(rows=ROWS)


if __name__ == "__main__":
    use_small_units()
    main()
