"""Compares the vectors of an engine with those of llama.cpp on the same model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import Engine, UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.load import open_engine
from embedd.types import Pooling, TokenIds, Vectors

# Of 1 - cosine. Quantised weights: llama.cpp rounds the activations too.
EXACT_TOLERANCE: Final = 1e-4
QUANTISED_TOLERANCE: Final = 3e-3
# Without repacked weights: no llama.cpp is known that computes wrongly on this backend alone.
REFERENCE: Final = LLAMA_BACKENDS[1]

# Of eight tokens and more each: very short ones move further when weights are rounded.
TEXTS: Final = (
    "The quick brown fox jumps over the lazy dog near the river bank.",
    "Invoices are due within thirty days; late payment costs 1.5 % a month.",
    "Die Würde des Menschen ist unantastbar, sagt das Grundgesetz.",
    "def add(a, b):\n    return a + b  # two numbers in, their sum out",
    "Embeddings place texts with a similar meaning close to each other. " * 6,
)

# Tokens of a text. Each costs llama.cpp a row of the vocabulary; memory is planned with so many.
LONGEST: Final = 128


def choose_tolerance(spec: ModelSpec) -> float:
    """How far vectors of *spec* may be from llama.cpp's, as 1 - cosine."""
    return EXACT_TOLERANCE if spec.exact else QUANTISED_TOLERANCE


def check_agreement(engine: Engine, load: Load) -> float | None:
    """How far *engine* is from llama.cpp on the model; None if *load* asks for no comparison.

    Raises:
        UnsuitableError: Further than `choose_tolerance` allows.
    """
    if not load.crosscheck or load.backend.is_reference:
        return None
    tuning = replace(load.tuning, batch_tokens=None)
    reference = open_engine(
        msgspec.structs.replace(load, backend=REFERENCE, tuning=tuning), lambda _share: None
    )
    try:
        distance = measure_distance(engine, reference)
    finally:
        reference.close()
    tolerance = choose_tolerance(load.spec)
    if not distance <= tolerance:
        raise UnsuitableError(
            f"{engine.info.engine} does not agree with llama.cpp on this model: "
            f"vectors are {distance:.1e} apart, {tolerance:.0e} is allowed"
        )
    return distance


def measure_distance(engine: Engine, reference: Engine) -> float:
    """The largest distance of vectors, as 1 - cosine; of scores, half the square of their share.

    A vector that is wrong by a small share of its length has a cosine of 1 less half the square of
    that share. Scores are linear in vectors: their error, as a share of the largest score, is
    treated alike, so that rounding that is allowed in vectors is allowed in scores.
    Texts are computed together in a batch and alone, each with its own padding.
    """
    limit = min(reference.info.limit, LONGEST)
    sequences = [ids[:limit] for ids in reference.tokenizer.tokenize(TEXTS)]
    expected = _encode_alone(reference, sequences)
    found = [engine.encode(sequences), _encode_alone(engine, sequences)]
    if reference.info.pooling is Pooling.RANK:
        largest = max(1.0, float(np.abs(expected).max()))
        share = max(float(np.abs(one - expected).max()) / largest for one in found)
        return share**2 / 2
    return max(float((1 - _cosines(one, expected)).max()) for one in found)


def _encode_alone(engine: Engine, sequences: Sequence[TokenIds]) -> Vectors:
    return np.concatenate([engine.encode([ids]) for ids in sequences])


def _cosines(a: Vectors, b: Vectors) -> Vectors:
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(wide_a, axis=1) * np.linalg.norm(wide_b, axis=1)
    cosines: Vectors = np.einsum("ij,ij->i", wide_a, wide_b) / norms
    return cosines
