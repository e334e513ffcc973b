"""What each route takes and gives, for the OpenAPI document: bodies are those that decode.

Replies are written by hand where they are sent, so their shapes stand here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from msgspec import Struct

from embedd import ollama_api as api
from embedd.server.dialects import aigne, nugen, rerank
from embedd.server.dialects.base import Endpoint
from embedd.server.dialects.cohere import embed as cohere
from embedd.server.dialects.cohere import tokens as cohere_tokens
from embedd.server.dialects.llamacpp import embed as llamacpp
from embedd.server.dialects.ollama import embed as ollama
from embedd.server.dialects.ollama import management
from embedd.server.dialects.openai import embed as openai
from embedd.server.dialects.openai import models
from embedd.server.dialects.tei import embed as tei
from embedd.server.dialects.tei import rerank as tei_rerank
from embedd.server.dialects.tei import tokens as tei_tokens
from embedd.server.openapi import pages
from embedd.server.ops import metrics as ops
from embedd.server.ops.health import health

NDJSON: Final = "application/x-ndjson"
BYTES: Final = "application/octet-stream"
TEXT: Final = "text/plain"
HTML: Final = "text/html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One endpoint.

    Args:
        body: The struct that decodes it; None is no body, `bytes` a file.
        reply: Type of the answer as JSON; None is an empty one.
        media: What the answer is sent as.
        query: Names of parameters after the path.
    """

    body: type | None = None
    reply: Any = None
    media: str = "application/json"
    query: tuple[str, ...] = ()


class Item(Struct):
    """One vector: a list, base64, or an object of them by type."""

    index: int
    embedding: list[float] | str | dict[str, Any]
    object: str


class Usage(Struct):
    """Tokens."""

    total_tokens: int


class PromptUsage(Usage):
    """Tokens, of the prompt too."""

    prompt_tokens: int


class Vectors(Struct):
    """The answer of OpenAI's route."""

    id: str
    object: str
    data: list[Item]
    model: str
    usage: PromptUsage


class AigneVectors(Struct):
    """The answer of AIGNE Hub's route."""

    object: str
    data: list[Item]
    model: str
    usage: PromptUsage


class NugenVectors(Struct):
    """The answer of Nugen's route."""

    id: str
    object: str
    data: list[Item]
    model: str
    created: float
    usage: Usage


class CohereVectors(Struct):
    """The answer of Cohere's routes."""

    id: str
    response_type: str
    embeddings: list[list[float]] | dict[str, list[Any]]
    texts: list[str]
    meta: dict[str, Any]


class LlamaVectors(Struct):
    """An input's vectors, as llama.cpp has it."""

    index: int
    embedding: list[list[float]]


class LegacyVector(Struct):
    """The answer of Ollama's older route."""

    embedding: list[float]


class Ranked(Struct):
    """A document's place and score."""

    index: int
    relevance_score: float


class Ranking(Struct):
    """The answer of rerank."""

    id: str
    results: list[Ranked]
    meta: dict[str, Any]


class TeiRanked(Struct):
    """A text's place and score."""

    index: int
    score: float


RANKING: Final = Described(body=rerank.RerankBody, reply=Ranking)
MODELS: Final = Described(reply=models.ModelList, query=("endpoint",))
Object: TypeAlias = dict[str, Any]

ENDPOINTS: Final[Mapping[Endpoint, Described]] = {
    ollama.root: Described(media=TEXT, reply=str),
    ollama.version: Described(reply=api.VersionReply),
    ollama.tags: Described(reply=api.TagsReply),
    ollama.ps: Described(reply=api.PsReply),
    ollama.embed: Described(body=ollama.EmbedBody, reply=api.EmbedReply),
    ollama.embeddings: Described(body=ollama.EmbeddingBody, reply=LegacyVector),
    ollama.generate: Described(body=ollama.GenerateBody, reply=api.GenerateReply),
    ollama.chat: Described(body=ollama.ChatBody, reply=Object),
    management.show: Described(body=management.ShowBody, reply=Object),
    management.copy: Described(body=management.CopyBody),
    management.delete: Described(body=management.DeleteBody),
    management.pull: Described(body=management.PullBody, reply=Object, media=NDJSON),
    management.create: Described(body=management.CreateBody, reply=Object, media=NDJSON),
    management.has_blob: Described(),
    management.add_blob: Described(body=bytes),
    management.push: Described(),
    openai.embeddings: Described(body=openai.EmbedBody, reply=Vectors),
    models.list_models: MODELS,
    models.show_model: Described(reply=models.ShownModel),
    aigne.embeddings: Described(body=openai.EmbedBody, reply=AigneVectors),
    nugen.embeddings: Described(body=nugen.EmbedBody, reply=NugenVectors),
    cohere.embed: Described(body=cohere.EmbedBody, reply=CohereVectors),
    cohere.embed_v2: Described(body=cohere.EmbedBodyV2, reply=CohereVectors),
    cohere_tokens.tokenize: Described(body=cohere_tokens.TokenizeBody, reply=Object),
    cohere_tokens.detokenize_tokens: Described(body=cohere_tokens.DetokenizeBody, reply=Object),
    rerank.rerank: RANKING,
    rerank.rerank_v2: RANKING,
    tei.root: Described(body=tei.RootBody, reply=list[Any]),
    tei.embed: Described(body=tei.EmbedBody, reply=list[list[float]]),
    tei.embed_all: Described(body=tei.EmbedBody, reply=list[list[list[float]]]),
    tei.similarity: Described(body=tei.SimilarityBody, reply=list[float]),
    tei.info: Described(reply=Object),
    tei_tokens.decode: Described(body=tei_tokens.DecodeBody, reply=list[str]),
    tei_tokens.tokenize: Described(body=tei_tokens.TokenizeBody, reply=list[list[Object]]),
    tei_rerank.rerank: Described(body=tei_rerank.RerankBody, reply=list[TeiRanked]),
    llamacpp.embedding: Described(body=llamacpp.EmbedBody, reply=list[LlamaVectors]),
    llamacpp.tokenize: Described(body=llamacpp.TokenizeBody, reply=Object),
    llamacpp.detokenize_tokens: Described(body=llamacpp.DetokenizeBody, reply=Object),
    llamacpp.props: Described(reply=Object, query=("model",)),
    health: Described(reply=Object),
    pages.document: Described(reply=Object),
    ops.metrics: Described(media=TEXT, reply=str),
    pages.page: Described(media=HTML, reply=str),
    pages.asset: Described(media=HTML, reply=str),
}


class OpenAIFault(Struct):
    """Why, for OpenAI's clients."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """OpenAI's envelope."""

    error: OpenAIFault
    detail: str


class CohereError(Struct):
    """Cohere's envelope."""

    id: str
    message: str


class TeiError(Struct):
    """TEI's envelope."""

    error: str | dict[str, Any]
    error_type: str


class LlamaError(Struct):
    """llama.cpp's envelope."""

    error: dict[str, Any]


# By the name of the dialect; OpenAI's where none is given.
ERRORS: Final[Mapping[str, type]] = {
    "ollama": api.ErrorReply,
    "ollama management": api.ErrorReply,
    "cohere": CohereError,
    "tei": TeiError,
    "tei tokens": TeiError,
    "llamacpp": LlamaError,
}
