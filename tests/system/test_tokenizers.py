"""Texts become the ids that a model was trained with: real servers, workers and vocabularies."""

import asyncio
import functools
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from tokenizers import Tokenizer

from embedd.config import read_settings
from embedd.engine.host.connection import Frames
from embedd.engine.ipc.messages import Cores, Ping, Pong
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.tokenizer_place import TokenizerPlace, TokenizerVerdict
from embedd.runtime import find_spec, open_tuning
from embedd.store.store import Store
from embedd.tokenizers import slices
from tests.needs import INHERITED
from tests.system.serving import Server, open_server, workers
from tests.tiny_models import write_tiny_bert, write_tiny_decoder
from tests.unit.stored import store_model
from tests.unit.tokenizers.vocabularies import find_checkpoint, iterate_code_points, mix_scripts

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Pairs of different words that are one to llama.cpp.
CONFUSED = (["가", "강"], ["나라", "누리"], ["서울", "사을"], ["की", "का"])
CALL = 512  # texts in a request


def environment(models: Path, state: Path, **more: str) -> dict[str, str]:
    return {
        "EMBEDD_MODELS": str(models),
        "EMBEDD_STATE": str(state),
        "EMBEDD_THREADS": "2",
        "EMBEDD_CACHE_BYTES": "0",
        **INHERITED,
        **{f"EMBEDD_{name}": value for name, value in more.items()},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    default_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """With the default model and no knowledge of it."""
    state = tmp_path_factory.mktemp("state")
    async with open_server(read_settings(environment(default_store, state))) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pinned(
    default_store: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """With the default model and llama.cpp's tokenizer."""
    state = tmp_path_factory.mktemp("pinned")
    settings = read_settings(environment(default_store, state, TOKENIZER="llama"))
    async with open_server(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def original() -> Tokenizer:
    """The tokenizer of the default model's checkpoint."""
    found = Tokenizer.from_file(str(find_checkpoint()))
    found.no_truncation()
    found.no_padding()
    return found


async def tokenize(server: Server, texts: Sequence[str]) -> list[list[int]]:
    """Through TEI's route, a request for many texts."""
    rows: list[list[int]] = []
    for start in range(0, len(texts), CALL):
        body = {"model": "all-minilm", "inputs": list(texts[start : start + CALL])}
        status, reply = await server.send("/tokenize", body)
        assert status == 200, reply
        rows += [[token["id"] for token in row] for row in reply]
    return rows


async def embed(server: Server, inputs: object, model: str = "all-minilm") -> Any:
    """Vectors, and the header that says what made them."""
    url = server.url + "/api/embed"
    async with server.session.post(url, json={"model": model, "input": inputs}) as response:
        reply = await response.json()
        assert response.status == 200, reply
        return np.array(reply["embeddings"]), response.headers["X-Embedd-Model"]


@pytest.mark.parametrize("loaded", [False, True])
async def test_ids_are_those_of_the_checkpoints_own_tokenizer(
    loaded: bool, server: Server, original: Tokenizer
) -> None:
    if loaded:
        await embed(server, "x")
    texts = mix_scripts(2000, seed=13)
    points = [point for points in iterate_code_points(step=97) for point in points]
    texts += [text for point in points[::7] for text in (point, f"a{point}b", f"x {point} x")]
    expected = [one.ids for one in original.encode_batch(texts)]
    found = await tokenize(server, texts)
    wrong = [text for text, one, other in zip(texts, found, expected, strict=True) if one != other]
    assert wrong == []


async def test_what_llama_cpp_gets_wrong_is_right(server: Server) -> None:
    rows = await tokenize(server, ["a" * 101, "page\fbreak", "[SEP]"])
    assert rows == [[101, 100, 102], [101, 3931, 23890, 102], [101, 102, 102]]


@pytest.mark.parametrize("words", CONFUSED)
async def test_different_words_have_different_vectors(words: list[str], server: Server) -> None:
    vectors, header = await embed(server, words)
    assert header.endswith(";tokenizer=model")
    assert float(vectors[0] @ vectors[1]) < 0.999


@pytest.mark.parametrize("words", CONFUSED)
async def test_the_pin_gives_the_vectors_that_llama_cpp_gives(
    words: list[str], server: Server, pinned: Server
) -> None:
    vectors, header = await embed(pinned, words)
    assert header.endswith(";tokenizer=llama")
    assert float(vectors[0] @ vectors[1]) == pytest.approx(1, abs=1e-3)
    english = ["Why is the sky blue?", "Invoices are due within thirty days."]
    ours, theirs = (await embed(server, english))[0], (await embed(pinned, english))[0]
    assert (ours * theirs).sum(axis=1) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("loaded", [False, True])
async def test_the_pin_gives_llama_cpps_ids(
    loaded: bool, pinned: Server, default_store: Path
) -> None:
    if loaded:
        await embed(pinned, "x")
    spec = find_spec(read_settings({"EMBEDD_MODELS": str(default_store)}), "all-minilm")
    texts = mix_scripts(1000, seed=5)
    expected = [row.tolist() for row in LlamaTokenizer.load(spec).tokenize(texts)]
    assert await tokenize(pinned, texts) == expected


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The kinds of messages between the server and its workers, in order.

    Without those that a clock sends: the heartbeat, and the cores of each worker.
    """
    seen: list[str] = []
    write, split = Frames.write, Frames._split

    def note(message: object) -> None:
        if not isinstance(message, (Ping, Pong, Cores)):
            seen.append(type(message).__name__)

    def counted_write(self: Frames[Any], message: Any, *array: Any) -> None:
        note(message)
        write(self, message, *array)

    def counted_split(self: Frames[Any]) -> None:
        take = self._take

        def counted_take(message: Any, array: bytes) -> None:
            note(message)
            take(message, array)

        self._take = counted_take
        try:
            split(self)
        finally:
            self._take = take

    monkeypatch.setattr(Frames, "write", counted_write)
    monkeypatch.setattr(Frames, "_split", counted_split)
    yield seen


async def test_a_lone_text_makes_one_round_trip_to_the_worker(
    server: Server, frames: list[str]
) -> None:
    await embed(server, "warm")
    await asyncio.sleep(0)
    frames.clear()
    for text in ("a text of its own", "나라", "another " * 100):
        await embed(server, text)
    assert frames == ["Encode", "Computed"] * 3


def post_text(server: Server, text: str) -> Any:
    """llama.cpp's ``/tokenize``, with a body of any length."""
    body = json.dumps({"model": "all-minilm", "content": text}).encode()
    return server.session.post(server.url + "/tokenize", data=io.BytesIO(body))


class Slicing:
    """What a long text is doing in its thread.

    Attributes:
        calls: Slices in each call of the library so far.
        begun, ended: Whether the first call has begun, and all work has ended.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self._loop = asyncio.get_running_loop()
        patch.setattr("embedd.tokenizers.model_tokenizer.group_slices", self._group)

    def _group(self, *arguments: Any, **options: Any) -> Iterator[list[slices.Slice]]:
        try:
            for one in slices.group_slices(*arguments, **options):
                self.calls.append(len(one))
                self._loop.call_soon_threadsafe(self.begun.set)
                yield one
        finally:
            self._loop.call_soon_threadsafe(self.ended.set)


async def test_a_long_text_is_tokenized_while_short_ones_are_answered(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten megabytes: every short text that is sent later is answered first."""
    await embed(server, "warm")
    slicing = Slicing(monkeypatch)
    order: list[str] = []

    async def ask(name: str, text: str) -> None:
        async with post_text(server, text) as response:
            assert response.status == 200
            assert (await response.json())["tokens"]
        order.append(name)

    long = asyncio.create_task(ask("long", "the quick brown fox " * 500_000))
    await asyncio.wait_for(slicing.begun.wait(), 60)
    for _ in range(5):
        await ask("short", "fox")
    assert order == ["short"] * 5
    await long
    assert sum(slicing.calls) > 100


async def test_a_text_whose_client_leaves_is_not_tokenized_to_its_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await embed(server, "warm")
    slicing = Slicing(monkeypatch)
    leaving = asyncio.ensure_future(post_text(server, "the quick brown fox " * 800_000))
    await asyncio.wait_for(slicing.begun.wait(), 60)
    leaving.cancel()
    await asyncio.wait([leaving])
    await asyncio.wait_for(slicing.ended.wait(), 60)
    assert 0 < len(slicing.calls) < 16_000_000 // slices.CALL_CHARACTERS // 2


# Tokenizers that do not live in the server


def store_tiny(folder: Path) -> dict[str, str]:
    """A store with ``tiny`` (WordPiece) and ``bloom``, whose words only llama.cpp knows."""
    store = Store(folder / "models")
    store_model(store, "tiny", write_tiny_bert(folder / "tiny.gguf"))
    path = write_tiny_decoder(folder / "bloom.gguf", pooling="last", add_eos=True)
    whole = path.read_bytes()
    place = whole.index(b"qwen2", whole.index(b"tokenizer.ggml.pre"))
    path.write_bytes(whole[:place] + b"bloom" + whole[place + 5 :])
    store_model(store, "bloom", path)
    return environment(folder / "models", folder / "state")


async def test_a_vocabulary_that_only_llama_cpp_knows_is_served_and_said_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    settings = read_settings(store_tiny(tmp_path))
    for _ in range(2):
        async with open_server(settings) as server:
            vectors, header = await embed(server, ["the sky", "blue"], "bloom")
            assert header.endswith(";tokenizer=llama")
            assert np.isfinite(vectors).all()
    refusals = [
        vars(one) for one in caplog.records if one.message == "model is tokenized by llama.cpp"
    ]
    assert [one["reason"] for one in refusals] == ["the pre-tokenizer 'bloom' is only llama.cpp's"]
    loads = [vars(one) for one in caplog.records if one.message == "model loaded"]
    assert [one["tokenizer"] for one in loads] == ["llama", "llama"]


async def test_a_large_tokenizer_lives_in_the_worker(tmp_path: Path, frames: list[str]) -> None:
    settings = read_settings(store_tiny(tmp_path))
    verdict = TokenizerVerdict(place=TokenizerPlace.WORKER, size=100 << 20)
    open_tuning(settings).write_tokenizer(find_spec(settings, "tiny"), verdict)
    others = workers()
    async with open_server(settings) as server:
        asked = functools.partial(server.send, "/tokenize")
        status, unloaded = await asked({"model": "tiny", "inputs": ["The Sky 가"]})
        assert status == 200
        assert workers() == others
        frames.clear()
        _, header = await embed(server, "the sky", "tiny")
        assert header.endswith(";tokenizer=model")
        assert frames.count("Tokenize") == frames.count("Tokens") == 1
        frames.clear()
        assert await asked({"model": "tiny", "inputs": ["The Sky 가"]}) == (200, unloaded)
        assert frames.count("Locate") + frames.count("Tokenize") >= 1
        # The places that only the model's own tokenizer knows.
        unknown = [one for one in unloaded[0] if one["text"] == "가"]
        assert [one["special"] for one in unknown] == [False]


async def test_models_that_are_not_loaded_are_tokenized_without_a_process(
    tmp_path: Path, frames: list[str]
) -> None:
    async with open_server(read_settings(store_tiny(tmp_path))) as server:
        body = {"model": "tiny", "inputs": ["the sky"]}
        status, first = await server.send("/tokenize", body)
        assert status == 200
        assert "Load" in frames  # whose worker found out that it can be done here
        frames.clear()
        assert await server.send("/tokenize", body) == (200, first)
        assert frames == []
