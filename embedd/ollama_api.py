"""Ollama's wire format: the structs that both the server and the client encode and decode.

In a body every field is optional: null equals absent, and unknown fields are ignored. A field
that a reply may leave out is ``UNSET`` then; the others are always sent, and have a default
only so that replies of other versions can be read.
"""

import functools
from datetime import datetime
from typing import Annotated, Any, Final, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType, field, structs

from embedd.types import ChunkPlace, ServedBy, Truncated

_COUNT: Final = {"type": ["integer", "null"]}
# Fields of `Chunking` by their names on the wire: the schema is for the OpenAPI document, the
# values are checked one by one, so that errors can say what is wrong.
ChunkField: TypeAlias = Annotated[
    dict[str, Any] | None,
    Meta(
        extra_json_schema={
            "properties": {
                "tokens": {**_COUNT, "minimum": 1},
                "overlap": {**_COUNT, "minimum": 0},
                "pool": {"enum": ["mean", None]},
            },
            "additionalProperties": False,
        }
    ),
]

# Paths that change the store and may need a key of their own: how they begin.
MANAGEMENT_PATHS: Final = (
    "/api/pull",
    "/api/delete",
    "/api/copy",
    "/api/create",
    "/api/blobs/",
    "/api/push",
)


@functools.lru_cache(64)
def format_served_by(served_by: ServedBy) -> str:
    """Return the header ``X-Embedd-Model``: the weights' digest, and what computed with them."""
    digest = served_by.digest.removeprefix("sha256:")[:12]
    return (
        f"{digest};engine={served_by.engine};backend={served_by.backend}"
        f";tokenizer={served_by.tokenizer}"
    )


class Details(Struct, frozen=True, kw_only=True):
    """Architecture, size and type of a model; ``/api/tags`` alone sends the lengths."""

    parent_model: str = ""
    format: str = ""
    family: str = ""
    families: list[str] | None = None
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | UnsetType = UNSET
    embedding_length: int | UnsetType = UNSET

    def without_lengths(self) -> "Details":
        """These details as all routes but ``/api/tags`` send them."""
        return structs.replace(self, context_length=UNSET, embedding_length=UNSET)


class StoredModel(Struct, frozen=True, kw_only=True):
    """A row of ``/api/tags``: *size* in bytes, *digest* 64 hex digits without ``sha256:``."""

    name: str
    model: str
    modified_at: datetime
    size: int
    digest: str
    details: Details = Details()
    capabilities: list[str] = []


class TagsReply(Struct, frozen=True, kw_only=True):
    """``GET /api/tags``: the models in the store, newest first."""

    models: list[StoredModel]


class RunningModel(Struct, frozen=True, kw_only=True):
    """A row of ``/api/ps``: *size* is RAM and VRAM, *size_vram* the part on the GPU, in bytes.

    *state* is ``loading`` until the model is loaded; *engine*, *backend* and *tokenizer* (``model``
    or ``llama``) are sent after that.
    """

    name: str
    model: str
    size: int
    digest: str
    details: Details = Details()
    expires_at: datetime
    size_vram: int = 0
    context_length: int = 0
    state: str | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    tokenizer: str | UnsetType = UNSET


class PsReply(Struct, frozen=True, kw_only=True):
    """``GET /api/ps``: the models in memory, furthest expiry first."""

    models: list[RunningModel]


class Tensor(Struct, frozen=True, kw_only=True):
    """A tensor of ``/api/show``: *shape* as in the GGUF, row length first."""

    name: str
    type: str
    shape: list[int]


class ShowReply(Struct, frozen=True, kw_only=True):
    """``POST /api/show``: *model_info* is the GGUF's metadata, its arrays null unless *verbose*.

    *engine* and *backend* are sent of a model in memory, *tokenizer* of one that was used before.
    """

    license: str | UnsetType = UNSET
    modelfile: str = ""
    parameters: str | UnsetType = UNSET
    template: str = ""
    system: str | UnsetType = UNSET
    details: Details = Details()
    model_info: dict[str, Any] = {}
    tensors: list[Tensor] = []
    capabilities: list[str] = []
    modified_at: datetime | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    backend: str | UnsetType = UNSET
    tokenizer: str | UnsetType = UNSET


class VersionReply(Struct, frozen=True, kw_only=True):
    """``GET /api/version``.

    Args:
        version: Ollama's, whose API the server speaks; clients demand one or another.
        embedd: embedd's own; absent in Ollama's answer.
    """

    version: str
    embedd: str | UnsetType = UNSET


class RunBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of every request that uses a model; *keep_alive* is seconds or a duration."""

    model: str | None = None
    keep_alive: Any = None
    options: dict[str, Any] | None = None


class EmbedBody(RunBody, frozen=True, kw_only=True):
    """Body of ``POST /api/embed``; *input* is a text, texts, token ids or lists of them."""

    input: Any = None
    truncate: bool | str | None = None
    chunk: ChunkField = None
    dimensions: int | None = None
    input_type: str | None = None


class EmbedReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/embed``; durations in nanoseconds, left out where nothing was computed.

    *chunks* answers a request with ``chunk``: where the texts were cut.
    """

    model: str
    embeddings: list[list[float]]
    chunks: list[ChunkPlace] | UnsetType = UNSET
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    truncated: list[Truncated] = []


class EmbeddingBody(RunBody, frozen=True, kw_only=True):
    """Body of ``POST /api/embeddings`` with ``prompt``."""

    prompt: str | None = None


class EmbeddingReply(Struct, frozen=True, kw_only=True):
    """``POST /api/embeddings`` with ``prompt``."""

    embedding: list[float]


class GenerateBody(RunBody, frozen=True, kw_only=True):
    """Body of ``POST /api/generate``: without a prompt it loads, or unloads with *keep_alive* 0.

    The other fields are for image models; *negative_prompt*, *guidance* and *output_format* are
    embedd's.
    """

    prompt: str | None = None
    stream: bool | None = None
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    images: Any = None
    negative_prompt: str | None = None
    guidance: float | None = None
    output_format: str | None = None


class ChatBody(RunBody, frozen=True, kw_only=True):
    """Body of ``POST /api/chat``: without messages as `GenerateBody` without a prompt."""

    messages: list[Any] | None = None


class GenerateReply(Struct, frozen=True, kw_only=True):
    """``POST /api/generate``, and ``/api/chat`` with *message* in place of *response*.

    *done_reason* is ``load``, ``unload`` or ``stop``. An image model answers lines of progress,
    *completed* and *total* steps, and the *image* as base64 in the last one; durations in
    nanoseconds. A line with an *error* is the last one.
    """

    model: str = ""
    created_at: datetime | UnsetType = UNSET
    response: str | UnsetType = ""
    image: str | UnsetType = UNSET
    done: bool = True
    done_reason: str | UnsetType = ""
    completed: int | UnsetType = UNSET
    total: int | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    message: dict[str, str] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class NamedBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Fields of every request about a stored model; *name* is the older name of *model*."""

    model: str | None = None
    name: str | None = None


class ShowBody(NamedBody, frozen=True, kw_only=True):
    """Body of ``POST /api/show``."""

    verbose: bool | None = None


class DeleteBody(NamedBody, frozen=True, kw_only=True):
    """Body of ``DELETE /api/delete``."""


class CopyBody(Struct, frozen=True, kw_only=True):
    """Body of ``POST /api/copy``."""

    source: str | None = None
    destination: str | None = None


class PullBody(NamedBody, frozen=True, kw_only=True):
    """Body of ``POST /api/pull``."""

    stream: bool | None = None
    insecure: bool | None = None


class CreateBody(NamedBody, frozen=True, kw_only=True):
    """Body of ``POST /api/create``: *source* names a model, *files* uploaded blobs by digest.

    *components* are further files of an image model: component → digest of an uploaded blob.
    """

    stream: bool | None = None
    source: str | None = field(default=None, name="from")
    files: dict[str, str] | None = None
    components: dict[str, str] | None = None
    quantize: str | None = None
    quantization: str | None = None
    parameters: dict[str, Any] | None = None
    license: Any = None
    adapters: Any = None
    draft_files: Any = None
    template: Any = None
    system: Any = None
    messages: Any = None
    renderer: Any = None
    parser: Any = None
    requires: Any = None
    info: Any = None


class OpenAIEmbedding(Struct, frozen=True, kw_only=True):
    """A row of `OpenAIEmbedReply`."""

    embedding: list[float]
    index: int = 0


class OpenAIEmbedReply(Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings`` of any server: the vectors alone are read."""

    data: list[OpenAIEmbedding]


class ArraysBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Body of ``POST /v1/embeddings`` as the client sends it."""

    model: str
    input: list[str]
    encoding_format: str
    truncate: bool | str | None = None
    chunk: ChunkField = None
    dimensions: int | None = None
    input_type: str | None = None
    output_dtype: str | None = None


class ArraysItem(Struct, frozen=True, kw_only=True):
    """A row of `ArraysReply`: the bytes of its numbers."""

    embedding: bytes
    index: int = 0


class ArraysUsage(Struct, frozen=True, kw_only=True):
    """Tokens of a request."""

    prompt_tokens: int = 0


class ArraysReply(Struct, frozen=True, kw_only=True):
    """The answer to `ArraysBody` with vectors as base64."""

    data: list[ArraysItem]
    usage: ArraysUsage = ArraysUsage()
    chunks: list[ChunkPlace] = []


class OpenAIFault(Struct, frozen=True, kw_only=True):
    """What `OpenAIErrorReply` is about."""

    message: str
    index: int | None = None
    tokens: int | None = None
    limit: int | None = None


class OpenAIErrorReply(Struct, frozen=True, kw_only=True):
    """Every 4xx and 5xx of OpenAI's routes."""

    error: OpenAIFault


class ProgressLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a streamed pull or create: the step, and its bytes so far and in all.

    The last line has the status ``success``, or an *error* and nothing else.
    """

    status: str = ""
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
    error: str | None = None


class ErrorReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every 4xx and 5xx; *index* is the input at fault, *limit* what its *tokens* exceed."""

    error: str
    index: int | None = None
    tokens: int | None = None
    limit: int | None = None
