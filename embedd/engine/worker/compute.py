"""Computes batches together and checks every vector before it leaves the worker."""

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedd.engine.ipc.framing import split_ids
from embedd.engine.ipc.messages import Computed, Failed, Fault
from embedd.engine.protocol import Engine, Stop, StoppedError
from embedd.engine.worker.connection import Answer
from embedd.engine.worker.dispatch import Batch
from embedd.errors import EmbeddError, EngineError
from embedd.types import Pooling, TokenIds, Vectors


def encode_together(engine: Engine, batches: Sequence[Batch], stop: Stop) -> list[Answer]:
    """An answer to each of *batches*, computed as one batch, or one by one if that fails."""
    start = time.perf_counter()
    sequences = [ids for message, array in batches for ids in split_ids(array, message.lengths)]
    try:
        vectors = encode_checked(engine, sequences, batches[0][0].pooling, stop)
    except StoppedError:
        fault, reason = Fault.STOPPED, "computing took too long and was stopped"
        return [(Failed(message.id, reason, fault), None) for message, _ in batches]
    except EmbeddError as error:
        if len(batches) > 1:
            alone = [encode_together(engine, [batch], stop) for batch in batches]
            return [answer for answers in alone for answer in answers]
        return [(Failed(batches[0][0].id, str(error), index=error.index), None)]
    seconds = time.perf_counter() - start
    per_token = len(vectors) != len(sequences)
    answers: list[Answer] = []
    end = 0
    for message, _ in batches:
        start_row, end = end, end + (sum(message.lengths) if per_token else len(message.lengths))
        rows = vectors[start_row:end]
        answers.append((Computed(message.id, len(rows), seconds), rows))
    return answers


def encode_checked(
    engine: Engine, sequences: list[TokenIds], pooling: Pooling | None, stop: Stop | None = None
) -> Vectors:
    """`Engine.encode`, with every row checked to be finite and, but for scores, of norm > 0.

    A bad row is computed again alone before it counts as an error of its input.

    Raises:
        EngineError: As `Engine.encode`, or naming the sequence whose row stays bad.
    """
    vectors = engine.encode(sequences, pooling, stop=stop)
    kind = pooling or engine.info.pooling
    if kind is Pooling.NONE:
        if not np.isfinite(vectors).all():
            raise EngineError("embedding contains NaN or Inf values")
        return vectors
    for row in np.flatnonzero(_find_bad_rows(vectors, kind)):
        again = engine.encode([sequences[row]], pooling, stop=stop)
        if _find_bad_rows(again, kind).any():
            finite = np.isfinite(again).all()
            fault = "has zero norm" if finite else "contains NaN or Inf values"
            raise EngineError(f"embedding {fault}", index=int(row))
        vectors[row] = again[0]
    return vectors


def _find_bad_rows(vectors: Vectors, pooling: Pooling) -> npt.NDArray[np.bool_]:
    """Whether each row is not finite or, unless it holds scores, has norm 0."""
    finite = np.isfinite(vectors).all(axis=1)
    if pooling is Pooling.RANK:
        return np.asarray(~finite)
    return np.asarray(~finite | ~vectors.any(axis=1))
