"""Scores from a reranker's numbers, and the order of documents."""

import math

import numpy as np
import pytest

from embedd.embedder.ranking import rank, to_scores
from embedd.errors import EngineError


def numbers(*rows: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def test_one_number_is_a_logit() -> None:
    logits = numbers((0.0,), (100.0,), (-1000.0,), (1.0,))
    assert to_scores(logits, ("",), architecture="bert", raw=True).tolist() == [0, 100, -1000, 1]
    shares = to_scores(logits, ("",), architecture="bert", raw=False)
    assert shares == pytest.approx([0.5, 1, 0, 1 / (1 + math.exp(-1))])


def test_of_two_probabilities_the_score_is_that_of_yes() -> None:
    shares = numbers((0.25, 0.75), (1.0, 0.0))
    assert to_scores(shares, ("no", "Yes"), architecture="qwen3", raw=False).tolist() == [0.75, 0]
    logits = to_scores(shares, ("no", "Yes"), architecture="qwen3", raw=True)
    assert logits[0] == pytest.approx(math.log(3))
    assert np.isfinite(logits).all()


def test_of_two_logits_the_score_is_how_far_yes_is_above_no() -> None:
    logits = numbers((1.0, 4.0), (2.0, -2.0))
    for names, sign in ((("no", "yes"), 1), (("yes", "no"), -1)):
        raw = to_scores(logits, names, architecture="bert", raw=True)
        assert raw.tolist() == [3 * sign, -4 * sign]


def test_of_unnamed_numbers_the_first_is_the_score() -> None:
    assert to_scores(numbers((1.0, 2.0)), ("", ""), architecture="bert", raw=True).tolist() == [1]
    assert to_scores(numbers((0.0,)), ("yes",), architecture="bert", raw=False).tolist() == [0.5]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_an_error_with_the_index_of_its_document(bad: float) -> None:
    with pytest.raises(EngineError) as caught:
        to_scores(numbers((1.0,), (bad,)), ("",), architecture="bert", raw=False)
    assert caught.value.index == 1


def test_documents_are_ordered_by_score_and_equal_scores_keep_their_order() -> None:
    scores = np.array([0.1, 0.5, 0.1, 0.9])
    assert [index for index, _ in rank(scores)] == [3, 1, 0, 2]
    assert [index for index, _ in rank(scores, 2)] == [3, 1]
    assert [index for index, _ in rank(scores, 99)] == [3, 1, 0, 2]
