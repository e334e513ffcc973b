"""What a batch costs in an engine that pads: its rows times its longest sequence.

Lengths are rounded up, so that few shapes occur: an engine compiles code for each new one.
"""

from collections.abc import Sequence
from typing import Final

# Up to so many tokens → of what a length is rounded up to a multiple.
STEPS: Final = ((64, 4), (128, 8), (512, 16))
LAST_STEP: Final = 32
# Sequences are computed together if the shorter gets at most so many tokens of padding, or at
# most one in so many of the longer one's tokens.
SPARED: Final = 12
SHARE: Final = 8


def round_length(length: int) -> int:
    """Tokens that the rows of a batch are padded to if the longest has *length* tokens."""
    for most, step in STEPS:
        if length <= most:
            return -(-length // step) * step
    return -(-length // LAST_STEP) * LAST_STEP


def is_alike(length: int, longest: int) -> bool:
    """Whether sequences of *length* and *longest* tokens, the larger, are computed together."""
    padded = round_length(longest)
    return padded - length <= max(SPARED, padded // SHARE)


def measure_cost(lengths: Sequence[int], *, padded: bool) -> int:
    """Tokens that a batch of sequences of these lengths costs, padding included if *padded*."""
    return len(lengths) * round_length(max(lengths)) if padded else sum(lengths)


def group_alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of similar length: every row in one group, the longest of a group first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if groups and is_alike(lengths[row], lengths[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
