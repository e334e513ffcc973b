"""Other APIs than Ollama's on real weights, through real workers and real HTTP."""

import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from embedd.config import read_settings
from tests.needs import INHERITED
from tests.system.serving import Array, Server, open_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

SKY = "why is the sky blue?"
SKY_IDS = [101, 2339, 2003, 1996, 3712, 2630, 1029, 102]
PATHS = ("/v1/embeddings", "/embeddings", "/api/embeddings", "/api/v3/inference/embeddings")
BY_WIRE = {"float": np.float32, "int8": np.int8, "uint8": np.uint8, "binary": np.int8,
           "ubinary": np.uint8}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(default_store: Path) -> AsyncIterator[Server]:
    settings = read_settings(
        {
            "EMBEDD_MODELS": str(default_store),
            "EMBEDD_STATE": str(default_store / "state"),
            "EMBEDD_THREADS": "1",
            **INHERITED,
        }
    )
    async with open_server(settings) as opened:
        yield opened


async def ask(server: Server, path: str = PATHS[0], **fields: object) -> Any:
    status, reply = await server.send(path, {"model": "all-minilm", **fields})
    assert status == 200, reply
    return reply


async def vectors(server: Server, path: str = PATHS[0], **fields: object) -> Array:
    return np.array([one["embedding"] for one in (await ask(server, path, **fields))["data"]])


@pytest.mark.parametrize("path", PATHS)
async def test_every_dialect_gives_ollamas_vector(path: str, server: Server) -> None:
    [expected] = await server.vectors(SKY)
    [row] = await vectors(server, path, input=SKY)
    assert row.tolist() == expected.tolist()
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-3)
    reply = await ask(server, path, input=SKY, encoding_format="base64")
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert raw == expected.astype("<f4").tobytes()
    assert reply["usage"]["total_tokens"] == 8


async def test_cohere_gives_ollamas_vector(server: Server) -> None:
    [expected] = await server.vectors(SKY)
    one = await ask(server, "/v1/embed", texts=[SKY])
    two = await ask(server, "/v2/embed", texts=[SKY], embedding_types=["float"])
    assert one["embeddings"] == two["embeddings"]["float"] == [expected.tolist()]


@pytest.mark.parametrize(
    ("inputs", "tokens"),
    [
        (["This is a test"], 6),
        (["I believe the meaning of life is"], 9),
        (SKY_IDS, 8),
        ([SKY_IDS], 8),
        ([SKY, [101, 102]], 10),
        ("", 2),
        ([""], 2),
    ],
)
async def test_tokens_are_counted_with_the_special_ones(
    inputs: object, tokens: int, server: Server
) -> None:
    usage = (await ask(server, "/api/embeddings", input=inputs))["usage"]
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


async def test_token_ids_are_the_texts_that_they_came_from(server: Server) -> None:
    text, ids = await vectors(server, "/api/embeddings", input=[SKY, SKY_IDS])
    assert text @ ids > 0.9999


async def test_ids_of_another_vocabulary_are_told_with_the_way_out(server: Server) -> None:
    body = {"model": "all-minilm", "input": [35734, 374]}
    status, reply = await server.send("/api/embeddings", body)
    assert status == 400
    assert reply["detail"] == (
        "input[0][0] is not a token id of this model: 35734 (valid: 0..30521). "
        "Token arrays must hold the model's own ids; with langchain-openai set "
        "check_embedding_ctx_length=False to send text."
    )


@pytest.mark.parametrize("dtype", BY_WIRE)
async def test_other_types_are_made_from_the_same_vector(dtype: str, server: Server) -> None:
    [expected] = (await server.vectors(SKY)).astype(np.float32)
    steps = np.rint(expected * (np.float32(127) / np.abs(expected).max())).astype(int)
    bits = np.packbits(expected > 0).astype(int)
    wanted = {
        "float": expected, "int8": steps, "uint8": steps + 128, "binary": bits - 128,
        "ubinary": bits,
    }[dtype]  # fmt: skip
    [listed] = await vectors(server, input=SKY, output_dtype=dtype)
    assert listed.astype(wanted.dtype).tolist() == wanted.tolist()
    reply = await ask(server, input=SKY, output_dtype=dtype, encoding_format="base64")
    raw = base64.b64decode(reply["data"][0]["embedding"])
    assert np.frombuffer(raw, BY_WIRE[dtype]).tolist() == wanted.tolist()


async def test_shorter_vectors_are_normalised_again_with_a_warning(server: Server) -> None:
    [whole] = await vectors(server, input=SKY)
    body = {"model": "all-minilm", "input": SKY, "dimensions": 64}
    async with server.session.post(server.url + PATHS[0], json=body) as response:
        cut = np.array((await response.json())["data"][0]["embedding"])
        warning = response.headers["X-Embedd-Warning"]
    assert warning == 'dimensions=64 is not a matryoshka size of "all-minilm"'
    assert np.allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-6)


async def test_what_was_cut_is_told(server: Server) -> None:
    long = "word " * 300
    body = {"model": "all-minilm", "input": ["a", long]}
    async with server.session.post(server.url + PATHS[0], json=body) as response:
        header = response.headers["X-Embedd-Truncated"]
        assert header == "count=1; index=1 tokens=302 kept=256"
        assert re.search(r"engine=(llama|openvino);backend=", response.headers["X-Embedd-Model"])
    status, reply = await server.send(PATHS[0], {**body, "truncate": False})
    assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")
    assert (reply["error"]["tokens"], reply["error"]["limit"]) == (302, 256)


async def test_a_model_without_prompts_ignores_a_task(server: Server) -> None:
    plain = await vectors(server, input=SKY)
    assert (await vectors(server, input=SKY, task="retrieval.query")).tolist() == plain.tolist()
