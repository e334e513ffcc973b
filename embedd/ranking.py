"""Scores of a reranker and the order that they make."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import Labels, Ranked, Vectors

Scores = npt.NDArray[np.float64]  # (documents,)

# Of models that answer with a word: their two scores are shares of one.
YES = "yes"
SMALLEST_SHARE = 1e-12


def to_scores(numbers: Vectors, labels: Labels, *, raw: bool) -> Scores:
    """A score for each row of *numbers*, whose shape is (documents, labels).

    Args:
        raw: The model's logit; otherwise a number in 0 … 1.

    Raises:
        EngineError: A score is not finite; ``index`` is its document.
    """
    names = [label.lower() for label in labels]
    answers = YES in names and len(names) > 1
    scores: Scores = numbers[:, names.index(YES) if answers else 0].astype(np.float64)
    finite = np.isfinite(scores)
    if not finite.all():
        index = int((~finite).argmax())
        raise EngineError(f"the score is not a number (input {index})", index=index)
    if answers:
        return _to_logits(scores) if raw else scores
    return scores if raw else _to_shares(scores)


def rank(scores: Scores, top_n: int | None = None) -> Sequence[Ranked]:
    """The *top_n* best, None for all; equals in the order of the request."""
    order = np.argsort(-scores, kind="stable")[:top_n]
    return [Ranked(index=int(index), score=float(scores[index])) for index in order]


def _to_shares(logits: Scores) -> Scores:
    # Of the two ways to write it this one cannot overflow.
    shares: Scores = 0.5 * (1 + np.tanh(0.5 * logits))
    return shares


def _to_logits(shares: Scores) -> Scores:
    shares = np.clip(shares, SMALLEST_SHARE, 1 - SMALLEST_SHARE)
    logits: Scores = np.log(shares / (1 - shares))
    return logits
