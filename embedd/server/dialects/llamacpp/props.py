"""llama.cpp's ``/props``: a model's properties, without loading its weights."""

import asyncio
from collections.abc import Sequence

import numpy as np
from aiohttp import web

from embedd import __version__
from embedd.embedder.embedder import Embedder
from embedd.resolve import ResolvedModel
from embedd.server.dialects.base import EMBEDDER
from embedd.server.dialects.endpoints import choose_model
from embedd.server.http.json_out import json_response


async def props(request: web.Request) -> web.StreamResponse:
    """``GET /props``."""
    embedder = request.app[EMBEDDER]
    name = request.query.get("model") or await choose_model(request.app, "embedding")
    model = await asyncio.to_thread(embedder.find, name)
    bos, eos = await _read_end_tokens(embedder, name, model)
    settings: dict[str, object] = {"n_ctx": embedder.limit(model), "params": {}}
    return json_response(
        {
            "default_generation_settings": settings,
            "total_slots": 1,
            "model_alias": name,
            "model_path": model.spec.path.name,
            "modalities": {"vision": False, "audio": False, "video": False},
            "chat_template": "",
            "bos_token": bos,
            "eos_token": eos,
            "build_info": f"embedd-{__version__}",
            "is_sleeping": not embedder.is_loaded(model),
        }
    )


async def _read_end_tokens(embedder: Embedder, name: str, model: ResolvedModel) -> Sequence[str]:
    """Texts of the tokens at the beginning and the end of an input; empty where there are none."""
    found = [model.facts.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in ("bos", "eos")]
    known = [np.array([one], np.int64) for one in found if isinstance(one, int)]
    texts = iter(await embedder.detokenize(name, known, special=True) if known else ())
    return [next(texts) if isinstance(one, int) else "" for one in found]
