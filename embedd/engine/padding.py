"""What a batch costs in an engine that pads: its rows times its longest sequence.

Lengths are rounded up, so that few shapes occur: an engine compiles code for each new one.
"""

from collections.abc import Sequence

FINE, COARSE = 8, 32  # tokens: lengths are rounded up to a multiple of these
LONG = 128  # tokens: longer sequences are rounded to a multiple of COARSE
# Sequences are computed together if the shorter gets at most so many tokens of padding, or at
# most one in so many of the longer one's tokens.
SPARED = 16
SHARE = 4


def round_length(length: int) -> int:
    """Tokens that the rows of a batch are padded to if the longest has *length* tokens."""
    step = FINE if length <= LONG else COARSE
    return -(-length // step) * step


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
