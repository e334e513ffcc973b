"""Cohere's API, versions 1 and 2: its routes."""

from typing import Any

from embedd.server.dialects.base import Dialect, Route
from embedd.server.dialects.cohere.embed import EmbedBody, EmbedBodyV2, EmbedReply, embed, embed_v2
from embedd.server.dialects.cohere.errors import to_error
from embedd.server.dialects.cohere.tokens import TokenizeBody, TokenizeReply, detokenize, tokenize
from embedd.server.dialects.endpoints import DetokenizeBody
from embedd.server.dialects.openai.errors import STATUSES
from embedd.server.dialects.rerank import Ranking, RerankBody, rerank_v2

DIALECT = Dialect(
    name="cohere",
    routes=(
        Route(method="POST", path="/v1/embed", endpoint=embed, body=EmbedBody, reply=EmbedReply),
        Route(
            method="POST", path="/v2/embed", endpoint=embed_v2, body=EmbedBodyV2, reply=EmbedReply
        ),
        Route(method="POST", path="/v2/rerank", endpoint=rerank_v2, body=RerankBody, reply=Ranking),
        Route(
            method="POST",
            path="/v1/tokenize",
            endpoint=tokenize,
            body=TokenizeBody,
            reply=TokenizeReply,
        ),
        Route(
            method="POST",
            path="/v1/detokenize",
            endpoint=detokenize,
            body=DetokenizeBody,
            reply=dict[str, Any],
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
