"""OpenAI's API: its routes."""

from embedd.server.dialects.base import Dialect, Route
from embedd.server.dialects.openai.embed import (
    EmbedBody,
    EmbedReply,
    azure_embeddings,
    embeddings,
)
from embedd.server.dialects.openai.errors import STATUSES, to_error
from embedd.server.dialects.openai.models import ModelList, ShownModel, list_models, show_model

DIALECT = Dialect(
    name="openai",
    routes=(
        *(
            Route(method="POST", path=path, endpoint=embeddings, body=EmbedBody, reply=EmbedReply)
            for path in (
                "/v1/embeddings",
                "/embeddings",
                "/api/v1/embeddings",
                "/openai/v1/embeddings",
            )
        ),
        Route(
            method="POST",
            path="/openai/deployments/{model}/embeddings",
            endpoint=azure_embeddings,
            body=EmbedBody,
            reply=EmbedReply,
            query=("api-version",),
        ),
        *(
            Route(
                method="GET", path=path, endpoint=list_models, reply=ModelList, query=("endpoint",)
            )
            for path in ("/v1/models", "/models")
        ),
        Route(method="GET", path="/v1/models/{id}", endpoint=show_model, reply=ShownModel),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
