"""Every dialect that the server speaks: add an API here."""

from collections.abc import Mapping, Sequence
from typing import Final

from embedd.server.dialects import aigne, nebula, nugen, rerank
from embedd.server.dialects.a1111 import dialect as a1111
from embedd.server.dialects.base import Dialect
from embedd.server.dialects.batches import dialect as batches
from embedd.server.dialects.cohere import dialect as cohere
from embedd.server.dialects.llamacpp import dialect as llamacpp
from embedd.server.dialects.ollama import dialect as ollama
from embedd.server.dialects.openai import dialect as openai
from embedd.server.dialects.openai import images as openai_images
from embedd.server.dialects.tei import dialect as tei

DIALECTS: Final[Sequence[Dialect]] = (
    ollama.DIALECT,
    openai.DIALECT,
    openai_images.DIALECT,
    batches.DIALECT,
    nebula.EMBEDDINGS,
    nebula.DIALECT,
    a1111.DIALECT,
    aigne.DIALECT,
    nugen.DIALECT,
    cohere.DIALECT,
    rerank.DIALECT,
    tei.DIALECT,
    llamacpp.DIALECT,
)
# Paths that clients send by mistake → the routes that they mean.
MEANT: Final[Mapping[str, Sequence[str]]] = {
    "/api/embedding": ("/api/embed", "/api/embeddings"),
    "/api/embeds": ("/api/embed",),
    "/api/api/embed": ("/api/embed",),
    "/api/api/embeddings": ("/api/embeddings",),
    "/v1/api/embed": ("/api/embed",),
    "/v1/api/embeddings": ("/api/embeddings",),
    "/v1/embedding": ("/v1/embeddings",),
    "/v1/v1/embeddings": ("/v1/embeddings",),
    "/v1/embeddings/embeddings": ("/v1/embeddings",),
}
# Paths without a route (with a slash at the end: all that begin so) → the dialect of the answer.
NOT_SERVED: Final[Mapping[str, Dialect]] = {
    "/v1/": openai.DIALECT,
    "/v2/": openai.DIALECT,
    "/openai/": openai.DIALECT,
    "/sdapi/": a1111.DIALECT,
    **dict.fromkeys(("/embed_sparse", "/predict", "/vertex", "/invocations"), tei.DIALECT),
}
