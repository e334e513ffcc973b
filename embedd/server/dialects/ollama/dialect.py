"""Ollama's API: its routes."""

from embedd import ollama_api as api
from embedd.server.dialects.base import NDJSON, TEXT, Dialect, Route
from embedd.server.dialects.ollama import blobs, create, embed, generate, models, pull, status
from embedd.server.dialects.ollama.errors import STATUSES, to_error

DIALECT = Dialect(
    name="ollama",
    routes=(
        Route(method="GET", path="/", endpoint=status.root, reply=str, media=TEXT),
        Route(method="GET", path="/api/version", endpoint=status.version, reply=api.VersionReply),
        Route(method="GET", path="/api/ps", endpoint=status.ps, reply=api.PsReply),
        Route(method="GET", path="/api/tags", endpoint=models.tags, reply=api.TagsReply),
        Route(
            method="POST",
            path="/api/embed",
            endpoint=embed.embed,
            body=api.EmbedBody,
            reply=api.EmbedReply,
        ),
        # Clients with the bare host as their base URL; TEI's bodies on this path have `inputs`.
        Route(
            method="POST",
            path="/embed",
            endpoint=embed.embed,
            body=api.EmbedBody,
            reply=api.EmbedReply,
            accepts=lambda fields: "input" in fields and "inputs" not in fields,
        ),
        Route(
            method="POST",
            path="/api/embeddings",
            endpoint=embed.embeddings,
            body=api.EmbeddingBody,
            reply=api.EmbeddingReply,
        ),
        Route(
            method="POST",
            path="/api/generate",
            endpoint=generate.generate,
            body=api.GenerateBody,
            reply=api.GenerateReply,
            media=NDJSON,
        ),
        Route(
            method="POST",
            path="/api/chat",
            endpoint=generate.chat,
            body=api.ChatBody,
            reply=api.GenerateReply,
        ),
        Route(
            method="POST",
            path="/api/show",
            endpoint=models.show,
            body=api.ShowBody,
            reply=api.ShowReply,
        ),
        Route(method="POST", path="/api/copy", endpoint=models.copy, body=api.CopyBody),
        Route(method="DELETE", path="/api/delete", endpoint=models.delete, body=api.DeleteBody),
        Route(
            method="POST",
            path="/api/pull",
            endpoint=pull.pull,
            body=api.PullBody,
            reply=api.ProgressLine,
            media=NDJSON,
        ),
        Route(method="POST", path="/api/push", endpoint=pull.push),
        Route(
            method="POST",
            path="/api/create",
            endpoint=create.create,
            body=api.CreateBody,
            reply=api.ProgressLine,
            media=NDJSON,
        ),
        Route(method="HEAD", path="/api/blobs/{digest}", endpoint=blobs.has_blob),
        Route(method="POST", path="/api/blobs/{digest}", endpoint=blobs.add_blob, body=bytes),
    ),
    to_error=to_error,
    statuses=STATUSES,
    formats_routing_errors=False,
)
