"""Which calls of the library's one progress callback are steps."""

import pytest

from embedd.engine.diffusion.progress import Steps
from embedd.images import Phase

Reports = list[tuple[Phase, int]]

DONE = [(Phase.SAMPLING, 0), (Phase.SAMPLING, 1), (Phase.SAMPLING, 2), (Phase.DECODING, 2)]


def take(*calls: tuple[int, int], steps: int = 2) -> Reports:
    reports: Reports = []
    found = Steps(steps, lambda phase, step: reports.append((phase, step)))
    for call in calls:
        found.take(*call)
    return reports


def test_every_step_is_reported_and_then_the_decoding() -> None:
    assert take((0, 2), (1, 2), (2, 2)) == DONE


@pytest.mark.parametrize(
    "calls",
    [
        [(0, 2), (0, 2), (1, 2), (2, 2)],  # Heun's method
        [(7, 178), (178, 178), (0, 2), (1, 2), (2, 2)],  # weights that are loaded late
        [(0, 2), (1, 2), (1, 2), (0, 2), (2, 2)],
    ],
)
def test_no_step_is_reported_twice_and_other_counts_are_none(calls: list[tuple[int, int]]) -> None:
    assert take(*calls) == DONE


def test_tiles_are_signs_of_life_of_the_decoding_however_many_they_are() -> None:
    tiles = [(0, 2), (1, 2), (2, 2)]
    assert take((0, 2), (1, 2), (2, 2), *tiles) == DONE + [(Phase.DECODING, 2)] * 3
