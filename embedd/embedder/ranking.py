"""Scores of a reranker and the order that they make."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import Labels, Ranked, Vectors

Scores = npt.NDArray[np.float64]  # (documents,)

# Models that answer with a word have a number for each; that of this word is the score.
YES = "yes"
# Of these llama.cpp turns the numbers into shares of 1 (a softmax), of others into nothing.
SHARING = frozenset({"qwen3", "qwen3vl"})
SMALLEST_SHARE = 1e-12


def to_scores(numbers: Vectors, labels: Labels, *, architecture: str, raw: bool) -> Scores:
    """A score for each row of *numbers*, whose shape is (documents, labels).

    Args:
        architecture: Of the model: it decides what the numbers are.
        raw: The model's logit; otherwise a number in 0 … 1.

    Raises:
        EngineError: A score is not finite; ``index`` is its document.
    """
    names = [label.lower() for label in labels]
    chosen = names.index(YES) if YES in names else 0
    scores: Scores = numbers[:, chosen].astype(np.float64)
    if architecture not in SHARING and YES in names and len(names) == 2:
        scores -= numbers[:, 1 - chosen]
    finite = np.isfinite(scores)
    if not finite.all():
        index = int((~finite).argmax())
        raise EngineError(f"the score is not a number (input {index})", index=index)
    if architecture in SHARING:
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
