"""The law of engines that pad: a batch costs its rows times its longest sequence.

Lengths are rounded up, so that few shapes come again and again: an engine prepares itself
for each new one.
"""

from collections.abc import Sequence

FINE, COARSE = 8, 32  # tokens; what lengths are multiples of
LONG = 128  # tokens from which on they are rounded coarsely
# Sequences go together if the shorter gets no more padding than this, in tokens, or than
# this share of the longer.
SPARED = 16
SHARE = 4


def round_length(length: int) -> int:
    """Tokens that a row of *length* is padded to, when it is the longest."""
    step = FINE if length <= LONG else COARSE
    return -(-length // step) * step


def is_alike(length: int, longest: int) -> bool:
    """Whether padding *length* to *longest*, which is no smaller, is worth a common batch."""
    padded = round_length(longest)
    return padded - length <= max(SPARED, padded // SHARE)


def measure_cost(lengths: Sequence[int], *, padded: bool) -> int:
    """What sequences of these lengths, at least one, cost as one batch."""
    return len(lengths) * round_length(max(lengths)) if padded else sum(lengths)


def group_alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows by like length: every row in one group, the longest of each group first."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if groups and is_alike(lengths[row], lengths[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
