"""The API of Hugging Face's text-embeddings-inference: its routes."""

from typing import Any

from embedd.server.dialects.base import Dialect, Route
from embedd.server.dialects.rerank import PATHS as RERANK_PATHS
from embedd.server.dialects.tei.embed import EmbedBody, embed, embed_all
from embedd.server.dialects.tei.errors import STATUSES, to_error
from embedd.server.dialects.tei.info import info
from embedd.server.dialects.tei.rerank import Ranked, RerankBody, rerank
from embedd.server.dialects.tei.similarity import SimilarityBody, similarity
from embedd.server.dialects.tei.tokens import DecodeBody, Token, TokenizeBody, decode, tokenize

Object = dict[str, Any]
DIALECT = Dialect(
    name="tei",
    routes=(
        Route(
            method="POST", path="/embed", endpoint=embed, body=EmbedBody, reply=list[list[float]]
        ),
        Route(
            method="POST",
            path="/embed_all",
            endpoint=embed_all,
            body=EmbedBody,
            reply=list[list[list[float]]],
        ),
        Route(
            method="POST",
            path="/similarity",
            endpoint=similarity,
            body=SimilarityBody,
            reply=list[float],
        ),
        # On `/` the body decides which of the three it is.
        Route(
            method="POST",
            path="/",
            endpoint=rerank,
            body=RerankBody,
            reply=list[Ranked],
            accepts=lambda fields: "query" in fields and "texts" in fields,
        ),
        Route(
            method="POST",
            path="/",
            endpoint=similarity,
            body=SimilarityBody,
            reply=list[float],
            accepts=lambda fields: fields.get("inputs", b"").startswith(b"{"),
        ),
        Route(method="POST", path="/", endpoint=embed, body=EmbedBody, reply=list[list[float]]),
        # llama.cpp's bodies on this path have `content`.
        Route(
            method="POST",
            path="/tokenize",
            endpoint=tokenize,
            body=TokenizeBody,
            reply=list[list[Token]],
            accepts=lambda fields: "inputs" in fields and "content" not in fields,
        ),
        Route(method="POST", path="/decode", endpoint=decode, body=DecodeBody, reply=list[str]),
        *(
            Route(
                method="POST",
                path=path,
                endpoint=rerank,
                body=RerankBody,
                reply=list[Ranked],
                accepts=lambda fields: "texts" in fields and "documents" not in fields,
            )
            for path in RERANK_PATHS
        ),
        Route(method="GET", path="/info", endpoint=info, reply=Object, query=("model",)),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
