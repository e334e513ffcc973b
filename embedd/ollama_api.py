"""Ollama's wire: the structs that both the server and the client speak.

Fields that a reply may leave out are ``UNSET`` then; everything else is always sent, and
has a default only so that replies of other versions can be read.
"""

from datetime import datetime
from typing import Final

from msgspec import UNSET, Struct, UnsetType, field, structs

# What changes the store, and may need a key of its own: beginnings of paths.
MANAGEMENT_PATHS: Final = (
    "/api/pull",
    "/api/delete",
    "/api/copy",
    "/api/create",
    "/api/blobs/",
    "/api/push",
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
    """``GET /api/tags``: what is in the store, newest first."""

    models: list[StoredModel]


class RunningModel(Struct, frozen=True, kw_only=True):
    """A row of ``/api/ps``: *size* is RAM and VRAM, *size_vram* the part on the GPU, in bytes.

    *state* is ``loading`` while the model is being loaded; *engine* computes it after that.
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


class PsReply(Struct, frozen=True, kw_only=True):
    """``GET /api/ps``: what is in memory, furthest expiry first."""

    models: list[RunningModel]


class Tensor(Struct, frozen=True, kw_only=True):
    """A tensor of ``/api/show``: *shape* as in the GGUF, row length first."""

    name: str
    type: str
    shape: list[int]


class ShowReply(Struct, frozen=True, kw_only=True):
    """``POST /api/show``: *model_info* is the GGUF's metadata, arrays null unless asked for.

    *engine* computes it, if the model is in memory.
    """

    license: str | UnsetType = UNSET
    modelfile: str = ""
    parameters: str | UnsetType = UNSET
    template: str = ""
    system: str | UnsetType = UNSET
    details: Details = Details()
    model_info: dict[str, object] = {}
    tensors: list[Tensor] = []
    capabilities: list[str] = []
    modified_at: datetime | UnsetType = UNSET
    engine: str | UnsetType = UNSET


class VersionReply(Struct, frozen=True, kw_only=True):
    """``GET /api/version``."""

    version: str


class GenerateBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/generate`` without a prompt: load or, with *keep_alive* 0, unload."""

    model: str
    keep_alive: float | str | None = None


class GenerateReply(Struct, frozen=True, kw_only=True):
    """``POST /api/generate``: *done_reason* is ``load`` or ``unload``."""

    model: str
    created_at: datetime
    response: str = ""
    done: bool = True
    done_reason: str = ""


class EmbedBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/embed``, as the client sends it."""

    model: str
    input: list[str]
    truncate: bool | None = None
    dimensions: int | None = None
    keep_alive: float | str | None = None
    input_type: str | None = None


class TruncatedInput(Struct, frozen=True, kw_only=True):
    """An input that was cut: both counts in tokens, special tokens included."""

    index: int
    tokens: int
    kept: int


class EmbedReply(Struct, frozen=True, kw_only=True):
    """``POST /api/embed``, as the client reads it; durations in nanoseconds."""

    model: str
    embeddings: list[list[float]]
    total_duration: int = 0
    load_duration: int = 0
    prompt_eval_count: int = 0
    truncated: list[TruncatedInput] = []


class OpenAIEmbedBody(Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings``, as the client sends it."""

    model: str
    input: list[str]
    encoding_format: str = "float"


class OpenAIEmbedding(Struct, frozen=True, kw_only=True):
    """A row of `OpenAIEmbedReply`."""

    embedding: list[float]
    index: int = 0


class OpenAIEmbedReply(Struct, frozen=True, kw_only=True):
    """``POST /v1/embeddings``, as the client reads it."""

    data: list[OpenAIEmbedding]


class PullBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/pull``, streamed."""

    model: str
    insecure: bool = False


class CreateBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/create``, streamed: *source* is a model, *files* are names of uploaded blobs."""

    model: str
    source: str | None = field(default=None, name="from")
    files: dict[str, str] | None = None
    quantize: str | None = None
    parameters: dict[str, object] | None = None
    license: list[str] | None = None


class ShowBody(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``POST /api/show``."""

    model: str
    verbose: bool = False


class CopyBody(Struct, frozen=True, kw_only=True):
    """``POST /api/copy``."""

    source: str
    destination: str


class DeleteBody(Struct, frozen=True, kw_only=True):
    """``DELETE /api/delete``."""

    model: str


class ProgressLine(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of a streamed pull or create: what is done, how many bytes of how many.

    The last line has the status ``success``, or an *error* and nothing else.
    """

    status: str = ""
    digest: str | None = None
    total: int | None = None
    completed: int | None = None
    error: str | None = None


class ErrorReply(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Every 4xx and 5xx; the siblings say which input is at fault, and by how much."""

    error: str
    index: int | None = None
    tokens: int | None = None
    limit: int | None = None
