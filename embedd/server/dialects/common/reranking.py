"""What all shapes of rerank share: reading, computing, the documents that are sent back."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from aiohttp import web

from embedd.errors import InvalidInputError
from embedd.server.dialects.base import (
    BODIES,
    EMBEDDER,
    POLICY,
    Policy,
    choose_model,
    may_store,
    naming_the_model,
)
from embedd.server.http.bodies import Body, decode_plainly
from embedd.types import RerankRequest, RerankResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked, and the documents as they were sent if they are wanted back."""

    request: RerankRequest
    echo: Sequence[object] | None = None


async def rerank_body(
    request: web.Request, kind: type[Body], to_asked: Callable[[Body, Policy], Asked]
) -> tuple[Asked, RerankResult]:
    """Read, translate and compute, as `base.embed_body` does for vectors.

    Raises:
        EmbeddError: As `Embedder.rerank`, and for a body that cannot be read or translated.
    """
    arrived = time.perf_counter()
    async with request.app[BODIES].read(request) as data:
        asked = to_asked(decode_plainly(data, kind), request.app[POLICY])
        model = asked.request.model or await choose_model(request.app, "rerank")
        asked = replace(
            asked, request=replace(asked.request, model=model, store=may_store(request))
        )
        with naming_the_model(model):
            result = await request.app[EMBEDDER].rerank(asked.request, arrived=arrived)
        return asked, result


def to_number(score: float) -> float:
    """The score with the fewest digits that give back the same float32."""
    return float(str(np.float32(score)))


def parse_top_n(top_n: int | None, top_k: int | None = None) -> int | None:
    """One number under two names; None is all.

    Raises:
        InvalidInputError: Less than 1, or both are given and differ.
    """
    if top_n is not None and top_k not in (None, top_n):
        raise InvalidInputError("top_n and top_k say different things", field="top_n")
    chosen = top_k if top_n is None else top_n
    if chosen is not None and chosen < 1:
        raise InvalidInputError(f"top_n must be at least 1, got {chosen}", field="top_n")
    return chosen


def parse_cap(max_tokens_per_doc: int | None) -> int | None:
    """Tokens of a document that count.

    Raises:
        InvalidInputError: Less than 1.
    """
    if max_tokens_per_doc is not None and max_tokens_per_doc < 1:
        raise InvalidInputError(
            f"max_tokens_per_doc must be at least 1, got {max_tokens_per_doc}",
            field="max_tokens_per_doc",
        )
    return max_tokens_per_doc
