"""Answers to single requests of a batch, the same as those of the routes."""

import asyncio
import logging
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from msgspec.structs import replace

from embedd.bulk.answering import Answered
from embedd.bulk.requests import EMBEDDINGS
from embedd.embedder.embedder import Embedder
from embedd.errors import EmbeddError, LoadTimeoutError, ServiceError
from embedd.server.dialects import rerank
from embedd.server.dialects.base import Failure, Policy
from embedd.server.dialects.endpoints import name_model
from embedd.server.dialects.openai import embed
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.errors import choose_status
from embedd.server.http.bodies import BodyLimits, decode_plainly
from embedd.server.http.json_out import dump, join_parts
from embedd.types import EmbedRequest, Priority, RerankRequest, Schedule

log = logging.getLogger(__name__)

BULK = Schedule(priority=Priority.BULK)


# The name of a model, from that of a request and the capability that it needs.
ChooseModel: TypeAlias = Callable[[str | None, str], Awaitable[str]]


class BatchAnswer:
    """Computes requests behind all others, and keeps none of their vectors."""

    def __init__(
        self, embedder: Embedder, *, policy: Policy, bodies: BodyLimits, choose: ChooseModel
    ) -> None:
        self._embedder = embedder
        self._policy = policy
        self._bodies = bodies
        self._choose = choose

    async def compute(self, url: str, body: bytes) -> Answered:
        """Return the answer of the route *url* to *body*.

        Raises:
            EmbeddError: As the route.
        """
        try:
            return await (self._embed(body) if url == EMBEDDINGS else self._rerank(body))
        except EmbeddError:
            raise
        except Exception as error:
            log.exception("request of a batch crashed", extra={"path": url})
            raise ServiceError("internal error") from error

    async def _embed(self, body: bytes) -> Answered:
        policy = self._policy
        data = bytearray(body)

        def translate() -> EmbedRequest:
            return embed.to_request(
                decode_plainly(data, embed.EmbedBody, policy.max_inputs), policy
            )

        wanted = await self._bodies.decode(data, translate)
        model = await self._choose(wanted.model, "embedding")
        wanted = replace(wanted, model=model, store=False, schedule=BULK)
        try:
            result = await self._embedder.embed(wanted)
        except LoadTimeoutError as error:
            raise name_model(error, model) from error
        id_ = f"embd-{uuid.uuid4().hex}"
        parts = embed.to_reply(wanted, result, id_=id_)
        rendered = await asyncio.to_thread(join_parts, parts)
        return Answered(status=200, request_id=_new_id(), body=rendered, tokens=sum(result.tokens))

    async def _rerank(self, body: bytes) -> Answered:
        policy = self._policy
        data = bytearray(body)

        def translate() -> tuple[rerank.RerankBody, RerankRequest]:
            sent = decode_plainly(data, rerank.RerankBody, policy.max_inputs)
            return sent, rerank.to_request(sent, policy)

        sent, wanted = await self._bodies.decode(data, translate)
        model = await self._choose(wanted.model, "rerank")
        wanted = replace(wanted, model=model, store=False, schedule=BULK)
        try:
            result = await self._embedder.rerank(wanted)
        except LoadTimeoutError as error:
            raise name_model(error, model) from error
        reply = rerank.to_reply(sent, wanted, result, id_=f"rerank-{secrets.token_hex(16)}")
        rendered = await asyncio.to_thread(dump, reply)
        return Answered(status=200, request_id=_new_id(), body=rendered, tokens=sum(result.tokens))

    def refuse(self, error: EmbeddError) -> Answered:
        """Return the answer to a request that failed with *error*."""
        status, request_id = choose_status(error, STATUSES), _new_id()
        failure = Failure(error=error, status=status, request_id=request_id)
        return Answered(status=status, request_id=request_id, body=dump(to_error(failure)))


def _new_id() -> str:
    return f"req_{secrets.token_hex(16)}"
