"""TEI's ``/info``: a model and the server's limits, without loading the model."""

import asyncio
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.engine.spec import ModelInfo
from embedd.resolve import ResolvedModel
from embedd.server.dialects.base import EMBEDDER, POLICY
from embedd.server.dialects.endpoints import choose_model
from embedd.server.http.json_out import json_response
from embedd.types import Pooling

POOLINGS: Final[Mapping[Pooling, str]] = {Pooling.LAST: "last_token"}
DTYPES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


async def info(request: web.Request) -> web.StreamResponse:
    """``GET /info``."""
    embedder = request.app[EMBEDDER]
    name = request.query.get("model") or await choose_model(request.app, "embedding")
    model = await asyncio.to_thread(embedder.find, name)
    return json_response(
        {
            "model_id": name,
            "model_sha": model.spec.digest,
            "model_dtype": DTYPES.get(model.facts.quantization, model.facts.quantization.lower()),
            "served_model_name": name,
            "model_type": _model_type(model),
            "max_concurrent_requests": request.app[POLICY].max_queue,
            "max_input_length": embedder.limit(model),
            "max_batch_tokens": _find_batch_tokens(embedder, model),
            "max_batch_requests": None,
            "max_client_batch_size": request.app[POLICY].max_inputs,
            "auto_truncate": True,
            "tokenization_workers": 1,
            "version": __version__,
            "sha": None,
            "docker_label": None,
        }
    )


def _find_batch_tokens(embedder: Embedder, model: ResolvedModel) -> int:
    """Tokens of a batch of the loaded model; of one that is not, those of its longest input."""
    running = (one.info for one in embedder.running() if one.spec.key == model.spec.key)
    sizes = [info.max_batch_tokens for info in running if isinstance(info, ModelInfo)]
    return max([*sizes, embedder.limit(model)])


def _model_type(model: ResolvedModel) -> dict[str, object]:
    pooling = model.spec.pooling
    if not model.is_reranker:
        return {"embedding": {"pooling": POOLINGS.get(pooling, pooling.value)}}
    # The metadata has their number alone: a loaded model knows their names.
    facts = model.facts
    count = facts.arrays.get(f"{facts.architecture}.classifier.output_labels") or 1
    labels = [f"LABEL_{index}" for index in range(count)]
    return {
        "reranker": {
            "id2label": {str(index): label for index, label in enumerate(labels)},
            "label2id": {label: index for index, label in enumerate(labels)},
        }
    }
