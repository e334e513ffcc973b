"""The API of llama.cpp's server: its routes."""

from typing import Any

from embedd.server.dialects.base import Dialect, Route
from embedd.server.dialects.endpoints import DetokenizeBody
from embedd.server.dialects.llamacpp.embed import EmbedBody, Items, embedding
from embedd.server.dialects.llamacpp.errors import STATUSES, to_error
from embedd.server.dialects.llamacpp.props import props
from embedd.server.dialects.llamacpp.tokens import TokenizeBody, TokenizeReply, detokenize, tokenize

Object = dict[str, Any]
DIALECT = Dialect(
    name="llamacpp",
    routes=(
        Route(method="POST", path="/embedding", endpoint=embedding, body=EmbedBody, reply=Items),
        # OpenAI's bodies on this path have `input`.
        Route(
            method="POST",
            path="/embeddings",
            endpoint=embedding,
            body=EmbedBody,
            reply=Items,
            accepts=lambda fields: "content" in fields and "input" not in fields,
        ),
        Route(
            method="POST",
            path="/tokenize",
            endpoint=tokenize,
            body=TokenizeBody,
            reply=TokenizeReply,
        ),
        Route(
            method="POST",
            path="/detokenize",
            endpoint=detokenize,
            body=DetokenizeBody,
            reply=Object,
        ),
        Route(method="GET", path="/props", endpoint=props, reply=Object, query=("model",)),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
