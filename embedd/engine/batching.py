"""The choice of the next batch: a pure function of what waits."""

from collections.abc import Iterable


def choose_batch(lengths: Iterable[int], *, max_tokens: int, max_sequences: int) -> int:
    """How many of the waiting sequences, from the front, make the next batch.

    *lengths* are in tokens, in the order of arrival. The batch holds at most
    *max_tokens*, except that one sequence longer than that runs alone; at least one
    sequence is chosen if any waits, so nothing starves.
    """
    tokens = 0
    count = 0
    for length in lengths:
        tokens += length
        if count == max_sequences or (count > 0 and tokens > max_tokens):
            break
        count += 1
    return count
