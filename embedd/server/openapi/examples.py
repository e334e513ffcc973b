"""What the OpenAPI document says of each route: a summary, and requests that work unchanged."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

Json: TypeAlias = dict[str, Any]

MODEL: Final = "all-minilm"
RERANKER: Final = "bge-reranker-v2-m3"
PAINTER: Final = "sd-turbo"
COPY: Final = "my-minilm"
EMPTY_FILE: Final = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

TEXT: Final = "The cat sat on the mat."
TEXTS: Final = [TEXT, "A kitten rests on a rug."]
QUERY: Final = "Where is the cat?"
DOCUMENTS: Final = ["The cat sat on the mat.", "Stocks fell on Monday."]
TOKENS: Final = [101, 1996, 4937, 102]  # [CLS] the cat [SEP] of the example model
PROMPT: Final = "a watercolour of a lighthouse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the document says of a route.

    Args:
        summary: One line, shown beside the path.
        details: Shown when the route is opened; Markdown.
        bodies: Bodies that may be sent, by what they show; the first is filled in.
        parameters: Values of the parameters in path and query.
    """

    summary: str
    details: str = ""
    bodies: Mapping[str, Json] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


NEEDS_RERANKER: Final = (
    f"Needs a reranker: pull `{RERANKER}` once, by `POST /api/pull` or `embedd pull {RERANKER}`."
)
NEEDS_PAINTER: Final = (
    f"Needs an image model and the extra `embedd-server[images]`: pull `{PAINTER}` once, by "
    f"`POST /api/pull` or `embedd pull {PAINTER}`."
)

EMBED: Final = Entry(
    summary="Embed texts (Ollama)",
    details="The vectors are normalised. Texts that are too long are cut, unless `truncate` is "
    "false.",
    bodies={
        "Two texts": {"model": MODEL, "input": TEXTS},
        "Fewer dimensions": {"model": MODEL, "input": TEXT, "dimensions": 128},
        "Long text in chunks": {"model": MODEL, "input": TEXT, "chunk": {"tokens": 64}},
    },
)
OPENAI_EMBED: Final = Entry(
    summary="Embed texts (OpenAI)",
    bodies={
        "Two texts": {"model": MODEL, "input": TEXTS},
        "As base64": {"model": MODEL, "input": TEXT, "encoding_format": "base64"},
        "Fewer dimensions": {"model": MODEL, "input": TEXT, "dimensions": 128},
    },
)
RERANK: Final = Entry(
    summary="Order documents by relevance to a query (Jina, Cohere)",
    details=NEEDS_RERANKER,
    bodies={
        "Two documents": {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS},
        "As text-embeddings-inference": {"model": RERANKER, "query": QUERY, "texts": DOCUMENTS},
    },
)
TEI_EMBED: Final = Entry(
    summary="Embed texts (text-embeddings-inference)",
    bodies={"Two texts": {"model": MODEL, "inputs": TEXTS}},
)
SIMILARITY: Final = Entry(
    summary="Compare a sentence with others by cosine (text-embeddings-inference)",
    bodies={
        "Two sentences": {
            "model": MODEL,
            "inputs": {"source_sentence": QUERY, "sentences": DOCUMENTS},
        }
    },
)
NEBULA: Final = Entry(
    summary="Embed texts or paint a picture (Nebula Block)",
    details=f"A body with `input` is embedded, one with `prompt` painted. {NEEDS_PAINTER}",
    bodies={
        "Embed": {"model": MODEL, "input": TEXTS},
        "Paint": {"model": PAINTER, "prompt": PROMPT},
    },
)
NEBULA_GET: Final = Entry(
    summary="Paint a picture by GET with a body (Nebula Block)",
    details=f"Browsers send no body with GET: use the route with POST here. {NEEDS_PAINTER}",
)
MODELS: Final = Entry(summary="List the models in the store (OpenAI)")
HEALTH: Final = Entry(
    summary="Check that the server works", details="No model is loaded or called for it."
)
CREATE_A_COPY_FIRST: Final = f"Try `POST /api/copy` first, which makes `{COPY}`."

OLLAMA: Final = {
    ("GET", "/"): Entry(
        summary="Say that the server runs",
        details="Plain text by which Ollama's clients know the server; links for browsers.",
    ),
    ("GET", "/api/version"): Entry(summary="Get the version of Ollama's API, and embedd's own"),
    ("GET", "/api/ps"): Entry(summary="List the models in memory"),
    ("GET", "/api/tags"): Entry(summary="List the models in the store"),
    ("POST", "/api/embed"): EMBED,
    ("POST", "/api/embeddings"): Entry(
        summary="Embed one text (Ollama's older route; AIGNE with `input`)",
        bodies={
            "Ollama": {"model": MODEL, "prompt": TEXT},
            "AIGNE": {"model": MODEL, "input": TEXTS},
        },
    ),
    ("POST", "/api/generate"): Entry(
        summary="Load or unload a model, or paint a picture",
        details=f"To paint: {NEEDS_PAINTER}",
        bodies={
            "Load": {"model": MODEL, "keep_alive": "10m", "stream": False},
            "Unload": {"model": MODEL, "keep_alive": 0, "stream": False},
            "Paint": {"model": PAINTER, "prompt": PROMPT, "stream": False},
        },
    ),
    ("POST", "/api/chat"): Entry(
        summary="Load or unload a model",
        details="Without messages, as Ollama's clients do; embedd does not chat.",
        bodies={
            "Load": {"model": MODEL, "messages": [], "stream": False},
            "Unload": {"model": MODEL, "messages": [], "keep_alive": 0, "stream": False},
        },
    ),
    ("POST", "/api/show"): Entry(
        summary="Show a model's facts and parameters", bodies={"The model": {"model": MODEL}}
    ),
    ("POST", "/api/copy"): Entry(
        summary="Give a model a second name",
        bodies={"A copy": {"source": MODEL, "destination": COPY}},
    ),
    ("DELETE", "/api/delete"): Entry(
        summary="Delete a model",
        details=CREATE_A_COPY_FIRST,
        bodies={"The copy": {"model": COPY}},
    ),
    ("POST", "/api/pull"): Entry(
        summary="Download a model",
        details="Streams its progress unless `stream` is false.",
        bodies={
            "The default model": {"model": MODEL},
            "From the Hugging Face hub": {"model": "hf.co/CompendiumLabs/bge-small-en-v1.5-gguf"},
        },
    ),
    ("POST", "/api/push"): Entry(summary="Upload a model: not supported, always an error"),
    ("POST", "/api/create"): Entry(
        summary="Create a model from another one or from uploaded files",
        bodies={"Other parameters": {"model": COPY, "from": MODEL, "parameters": {"num_ctx": 128}}},
    ),
    ("HEAD", "/api/blobs/{digest}"): Entry(
        summary="Check whether a file was uploaded: 200 or 404",
        parameters={"digest": EMPTY_FILE},
    ),
    ("POST", "/api/blobs/{digest}"): Entry(
        summary="Upload a file for `POST /api/create`",
        details="The digest must be that of the file; the one here is of an empty file.",
        parameters={"digest": EMPTY_FILE},
    ),
}

OPENAI: Final = {
    ("POST", "/v1/embeddings"): OPENAI_EMBED,
    ("POST", "/api/v1/embeddings"): OPENAI_EMBED,
    ("POST", "/openai/v1/embeddings"): OPENAI_EMBED,
    ("POST", "/openai/deployments/{model}/embeddings"): Entry(
        summary="Embed texts (Azure OpenAI): the deployment is the model",
        bodies={"Two texts": {"input": TEXTS}},
        parameters={"model": MODEL, "api-version": "2024-10-21"},
    ),
    ("GET", "/v1/models"): MODELS,
    ("GET", "/models"): MODELS,
    ("GET", "/v1/models/{id}"): Entry(
        summary="Describe a model (OpenAI)", parameters={"id": MODEL}
    ),
    ("POST", "/v1/images/generations"): Entry(
        summary="Paint pictures (OpenAI)",
        details=NEEDS_PAINTER,
        bodies={"A picture": {"model": PAINTER, "prompt": PROMPT}},
    ),
}

IMAGES: Final = {
    ("POST", "/api/v1/images/generation"): NEBULA,
    ("POST", "/v1/images/generation"): NEBULA,
    ("GET", "/api/v1/images/generation"): NEBULA_GET,
    ("GET", "/v1/images/generation"): NEBULA_GET,
    ("POST", "/sdapi/v1/txt2img"): Entry(
        summary="Paint a picture (AUTOMATIC1111)",
        details=NEEDS_PAINTER,
        bodies={
            "A picture": {
                "prompt": PROMPT,
                "override_settings": {"sd_model_checkpoint": PAINTER},
            }
        },
    ),
    ("GET", "/sdapi/v1/progress"): Entry(
        summary="Get the progress of the picture that is painted (AUTOMATIC1111)"
    ),
    ("POST", "/sdapi/v1/interrupt"): Entry(
        summary="Cancel the pictures of the same key (AUTOMATIC1111)", bodies={"Nothing": {}}
    ),
    ("GET", "/sdapi/v1/options"): Entry(summary="Get the image model in use (AUTOMATIC1111)"),
    ("POST", "/sdapi/v1/options"): Entry(
        summary="Choose the image model (AUTOMATIC1111)",
        details=NEEDS_PAINTER,
        bodies={"The model": {"sd_model_checkpoint": PAINTER}},
    ),
    ("GET", "/sdapi/v1/sd-models"): Entry(summary="List the image models (AUTOMATIC1111)"),
    ("GET", "/sdapi/v1/samplers"): Entry(summary="List the samplers (AUTOMATIC1111)"),
    ("GET", "/sdapi/v1/schedulers"): Entry(summary="List the schedulers (AUTOMATIC1111)"),
}

OTHER_SERVICES: Final = {
    ("POST", "/api/v3/inference/embeddings"): Entry(
        summary="Embed texts (NuGen)", bodies={"Two texts": {"model": MODEL, "input": TEXTS}}
    ),
    ("POST", "/v1/embed"): Entry(
        summary="Embed texts (Cohere)", bodies={"Two texts": {"model": MODEL, "texts": TEXTS}}
    ),
    ("POST", "/v2/embed"): Entry(
        summary="Embed texts (Cohere, version 2)",
        bodies={
            "Numbers": {
                "model": MODEL,
                "texts": TEXTS,
                "input_type": "search_document",
                "embedding_types": ["float"],
            },
            "Bytes": {
                "model": MODEL,
                "texts": TEXTS,
                "input_type": "search_document",
                "embedding_types": ["int8"],
            },
        },
    ),
    ("POST", "/v2/rerank"): Entry(
        summary="Order documents by relevance to a query (Cohere, version 2)",
        details=NEEDS_RERANKER,
        bodies={"Two documents": {"model": RERANKER, "query": QUERY, "documents": DOCUMENTS}},
    ),
    ("POST", "/v1/tokenize"): Entry(
        summary="Get the tokens of a text (Cohere)",
        bodies={"A text": {"model": MODEL, "text": TEXT}},
    ),
    ("POST", "/v1/detokenize"): Entry(
        summary="Get the text of tokens (Cohere)",
        bodies={"Four tokens": {"model": MODEL, "tokens": TOKENS}},
    ),
    ("POST", "/rerank"): RERANK,
    ("POST", "/reranking"): RERANK,
    ("POST", "/v1/rerank"): RERANK,
    ("POST", "/v1/reranking"): RERANK,
}

SERVERS: Final = {
    ("POST", "/embed"): replace(
        TEI_EMBED,
        bodies={**TEI_EMBED.bodies, "As Ollama": {"model": MODEL, "input": TEXTS}},
    ),
    ("POST", "/embed_all"): Entry(
        summary="Get a vector for each token of texts (text-embeddings-inference)",
        bodies={"A text": {"model": MODEL, "inputs": TEXT}},
    ),
    ("POST", "/similarity"): SIMILARITY,
    ("POST", "/"): Entry(
        summary="Embed, compare or rerank, by the fields of the body (text-embeddings-inference)",
        details=f"To rerank: {NEEDS_RERANKER}",
        bodies={
            "Embed": {"model": MODEL, "inputs": TEXTS},
            "Compare": dict(SIMILARITY.bodies["Two sentences"]),
            "Rerank": {"model": RERANKER, "query": QUERY, "texts": DOCUMENTS},
        },
    ),
    ("POST", "/tokenize"): Entry(
        summary="Get the tokens of a text (text-embeddings-inference, llama.cpp)",
        bodies={
            "text-embeddings-inference": {"model": MODEL, "inputs": TEXT},
            "llama.cpp": {"model": MODEL, "content": TEXT, "with_pieces": True},
        },
    ),
    ("POST", "/decode"): Entry(
        summary="Get the text of tokens (text-embeddings-inference)",
        bodies={"Four tokens": {"model": MODEL, "ids": TOKENS}},
    ),
    ("POST", "/detokenize"): Entry(
        summary="Get the text of tokens (llama.cpp)",
        bodies={"Four tokens": {"model": MODEL, "tokens": TOKENS}},
    ),
    ("POST", "/embedding"): Entry(
        summary="Embed texts (llama.cpp)", bodies={"A text": {"model": MODEL, "content": TEXT}}
    ),
    ("POST", "/embeddings"): Entry(
        summary="Embed texts (OpenAI, or llama.cpp with `content`)",
        bodies={
            "OpenAI": {"model": MODEL, "input": TEXTS},
            "llama.cpp": {"model": MODEL, "content": TEXT},
        },
    ),
    ("GET", "/info"): Entry(
        summary="Describe a model and its limits (text-embeddings-inference)",
        parameters={"model": MODEL},
    ),
    ("GET", "/props"): Entry(summary="Describe a model (llama.cpp)", parameters={"model": MODEL}),
}

OPERATING: Final = {
    ("GET", "/health"): HEALTH,
    ("GET", "/v1/health"): HEALTH,
    ("GET", "/ping"): HEALTH,
    ("GET", "/ready"): Entry(
        summary="Check that the server should get requests",
        details="503 until the models of `--load` are in memory, and from SIGTERM on.",
    ),
    ("GET", "/metrics"): Entry(summary="Get the metrics, for Prometheus"),
    ("GET", "/openapi.json"): Entry(summary="Get this document"),
    ("GET", "/docs"): Entry(summary="Get this page"),
    ("GET", "/docs/{file}"): Entry(
        summary="Get a file of this page", parameters={"file": "docs.js"}
    ),
    ("GET", "/favicon.ico"): Entry(summary="Get the icon of the pages"),
    ("GET", "/ui"): Entry(summary="Get the page of models, texts and live figures"),
    ("GET", "/ui/{file}"): Entry(
        summary="Get a file of the page", parameters={"file": "index.html"}
    ),
    ("GET", "/ui/access"): Entry(summary="Tell whether the key of the request may manage models"),
    ("GET", "/ui/live"): Entry(
        summary="Follow the live figures: a stream of events, which does not end"
    ),
    ("GET", "/ui/catalogue"): Entry(summary="List what can be pulled by a short name"),
}

FILE: Final = "file-abc"
BATCH: Final = "batch_abc"
IN_PAGES: Final = "The latest come first; `after` is the last id of the page before."
BATCHES: Final = {
    ("POST", "/v1/files"): Entry(
        summary="Upload a file of requests (OpenAI)",
        details="A form with `file` (JSON lines) and `purpose` (`batch`), at once on the server's "
        "disk; `EMBEDD_BATCH_BYTES` limits what is kept.",
    ),
    ("GET", "/v1/files"): Entry(
        summary="List the files of batches (OpenAI)",
        details=IN_PAGES,
        parameters={"purpose": "batch", "limit": "20"},
    ),
    ("GET", "/v1/files/{id}"): Entry(summary="Show a file (OpenAI)", parameters={"id": FILE}),
    ("GET", "/v1/files/{id}/content"): Entry(
        summary="Download a file (OpenAI)", parameters={"id": FILE}
    ),
    ("DELETE", "/v1/files/{id}"): Entry(summary="Delete a file (OpenAI)", parameters={"id": FILE}),
    ("POST", "/v1/batches"): Entry(
        summary="Answer the requests of a file in the background (OpenAI)",
        details="Upload the file first. Other requests are computed before those of a batch.",
        bodies={
            "Embeddings": {
                "input_file_id": FILE,
                "endpoint": "/v1/embeddings",
                "completion_window": "24h",
            },
            "Reranking": {
                "input_file_id": FILE,
                "endpoint": "/v1/rerank",
                "completion_window": "24h",
            },
        },
    ),
    ("GET", "/v1/batches"): Entry(
        summary="List the batches (OpenAI)", details=IN_PAGES, parameters={"limit": "20"}
    ),
    ("GET", "/v1/batches/{id}"): Entry(
        summary="Show how far a batch is (OpenAI)", parameters={"id": BATCH}
    ),
    ("POST", "/v1/batches/{id}/cancel"): Entry(
        summary="Cancel a batch (OpenAI)",
        details="What is answered already can be downloaded.",
        parameters={"id": BATCH},
    ),
}

ENTRIES: Final[Mapping[tuple[str, str], Entry]] = {
    **OLLAMA,
    **OPENAI,
    **IMAGES,
    **OTHER_SERVICES,
    **SERVERS,
    **BATCHES,
    **OPERATING,
}
