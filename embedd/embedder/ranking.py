"""Scores of a reranker, and documents in the order of their scores."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embedd.errors import EngineError
from embedd.types import Labels, Vectors

Scores = npt.NDArray[np.float64]  # (documents,)

# The label whose number is the score, in models that answer with a word.
YES = "yes"
# Architectures to whose numbers llama.cpp applies a softmax; those of others are logits.
WITH_SOFTMAX = frozenset({"qwen3", "qwen3vl"})
SMALLEST_PROBABILITY = 1e-12


def to_scores(numbers: Vectors, labels: Labels, *, architecture: str, raw: bool) -> Scores:
    """Return a score for each row of *numbers*, whose shape is (documents, labels).

    Args:
        architecture: The model's: it decides whether the numbers are logits.
        raw: Return logits instead of probabilities.

    Raises:
        EngineError: A score is not finite; ``index`` is its document.
    """
    names = [label.lower() for label in labels]
    chosen = names.index(YES) if YES in names else 0
    scores: Scores = numbers[:, chosen].astype(np.float64)
    if architecture not in WITH_SOFTMAX and YES in names and len(names) == 2:
        scores -= numbers[:, 1 - chosen]
    finite = np.isfinite(scores)
    if not finite.all():
        index = int((~finite).argmax())
        raise EngineError(f"the score is not a number (input {index})", index=index)
    if architecture in WITH_SOFTMAX:
        return _to_logits(scores) if raw else scores
    return scores if raw else _to_probabilities(scores)


def rank(scores: Scores, top_n: int | None = None) -> Sequence[tuple[int, float]]:
    """Return index and score of the *top_n* best documents, None for all, best first.

    Documents with equal scores stay in the order of the request.
    """
    order = np.argsort(-scores, kind="stable")[:top_n]
    return [(int(index), float(scores[index])) for index in order]


def _to_probabilities(logits: Scores) -> Scores:
    # The logistic function, in the form that cannot overflow.
    probabilities: Scores = 0.5 * (1 + np.tanh(0.5 * logits))
    return probabilities


def _to_logits(probabilities: Scores) -> Scores:
    probabilities = np.clip(probabilities, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    logits: Scores = np.log(probabilities / (1 - probabilities))
    return logits
