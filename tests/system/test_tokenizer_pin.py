"""Whose tokenizer makes the ids: the model's own, or llama.cpp's where that is asked for."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_cpp import Llama

from embedd.config import read_settings
from embedd.runtime import find_spec
from tests.needs import INHERITED
from tests.system.serving import Server, open_server

MODEL = "all-minilm"
# Texts whose ids differ, and their ids by the tokenizer that the model was trained with.
OWN_IDS = {
    "page\fbreak": [101, 3931, 23890, 102],
    "a" * 101: [101, 100, 102],
    "가": [101, 1455, 30006, 102],
    "강": [101, 1455, 30006, 30025, 102],
    "की": [101, 1315, 29878, 102],
    "안门 ok": [101, 1463, 30006, 30021, 100, 7929, 102],
}
PLAIN = "Why is the sky blue?"


@asynccontextmanager
async def serve(models: Path, state: Path, **settings: str) -> AsyncIterator[Server]:
    environment = {
        "EMBEDD_MODELS": str(models),
        "EMBEDD_STATE": str(state),
        "EMBEDD_THREADS": "1",
        **INHERITED,
        **settings,
    }
    async with open_server(read_settings(environment)) as server:
        yield server


async def named_tokenizer(server: Server, model: str = MODEL) -> str:
    """What the header of a computed answer says."""
    body = {"model": model, "input": PLAIN}
    async with server.session.post(server.url + "/api/embed", json=body) as response:
        assert response.status == 200
        return response.headers["X-Embedd-Model"].partition(";tokenizer=")[2]


async def ids(server: Server, text: str, model: str = MODEL) -> Any:
    body = {"model": model, "content": text, "add_special": True}
    status, reply = await server.send("/tokenize", body)
    assert status == 200, reply
    return reply["tokens"]


async def counted(server: Server, text: str) -> int:
    """Tokens of *text* as an embed route counts them."""
    count: int = (await server.embed(text))["prompt_eval_count"]
    return count


@pytest.mark.parametrize("loaded", [False, True])
async def test_ids_are_those_of_the_models_own_tokenizer(
    loaded: bool, default_store: Path, tmp_path: Path
) -> None:
    async with serve(default_store, tmp_path / "state") as server:
        if loaded:
            assert await named_tokenizer(server) == "model"
        for text, expected in OWN_IDS.items():
            assert await ids(server, text) == expected
            if loaded:
                assert await counted(server, text) == len(expected)


async def test_the_operators_pin_gives_the_ids_of_llama_cpp(
    default_store: Path, tmp_path: Path
) -> None:
    async with (
        serve(default_store, tmp_path / "own") as own,
        serve(default_store, tmp_path / "pinned", EMBEDD_TOKENIZER="llama") as pinned,
    ):
        assert await named_tokenizer(own) == "model"
        assert await named_tokenizer(pinned) == "llama"
        spec = find_spec(read_settings({"EMBEDD_MODELS": str(default_store)}), MODEL)
        vocabulary = Llama(str(spec.path), vocab_only=True, verbose=False)
        for text, expected in OWN_IDS.items():
            found = await ids(pinned, text)
            assert found == vocabulary.tokenize(text.encode(), special=True)
            assert found != expected
            assert await counted(pinned, text) == len(found)
        vocabulary.close()
        assert await ids(own, PLAIN) == await ids(pinned, PLAIN)
        assert await own.vectors([PLAIN]) == pytest.approx(await pinned.vectors([PLAIN]))
        korean = ["가", "강"]
        first, second = await own.vectors(korean)
        assert first @ second < 0.999
        first, second = await pinned.vectors(korean)
        assert np.array_equal(first, second), "llama.cpp drops the letters after the first"


async def test_a_models_own_pin_goes_before_the_operators(
    default_store: Path, tmp_path: Path
) -> None:
    models = shutil.copytree(default_store, tmp_path / "models")
    async with serve(models, tmp_path / "state", EMBEDD_TOKENIZER="llama") as server:
        for tokenizer in ("auto", "llama"):
            body = {"model": tokenizer, "from": MODEL, "parameters": {"tokenizer": tokenizer}}
            status, reply = await server.send("/api/create", {**body, "stream": False})
            assert status == 200, reply
        assert [await named_tokenizer(server, one) for one in ("auto", "llama", MODEL)] == [
            "model", "llama", "llama",
        ]  # fmt: skip
        text = "a" * 101
        assert await ids(server, text, "auto") == OWN_IDS[text]
        assert await ids(server, text, "llama") != OWN_IDS[text]
        rows = {one["name"]: one["tokenizer"] for one in await server.running()}
        assert rows["auto:latest"] == "model"
        status, shown = await server.send("/api/show", {"model": "auto"})
        assert (status, shown["tokenizer"]) == (200, "model")
        await server.send("/api/generate", {"model": "auto", "keep_alive": 0})
        assert "auto:latest" not in [one["name"] for one in await server.running()]
        status, shown = await server.send("/api/show", {"model": "auto"})
        assert (status, shown["tokenizer"], "engine" in shown) == (200, "model", False)
        assert 'tokenizer                      "auto"' in shown["parameters"]
        assert "PARAMETER tokenizer auto" in shown["modelfile"]


async def test_another_word_is_refused_when_a_model_is_created(
    default_store: Path, tmp_path: Path
) -> None:
    async with serve(default_store, tmp_path / "state") as server:
        body = {"model": "x", "from": MODEL, "parameters": {"tokenizer": "model"}}
        status, reply = await server.send("/api/create", {**body, "stream": False})
    assert (status, reply) == (400, {"error": 'parameter "tokenizer" must be one of auto, llama'})
