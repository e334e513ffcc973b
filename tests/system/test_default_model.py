"""all-minilm on real weights, through real workers and real HTTP."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import ollama
import pytest
import pytest_asyncio

from embedd.choices import Precision
from embedd.config import Settings, read_settings
from tests.needs import INHERITED, require_bf16
from tests.system.serving import Array, Server, open_server, until, workers
from tests.tolerances import BF16, F32

pytestmark = pytest.mark.asyncio(loop_scope="module")

SKY = "Why is the sky blue?"
SKY_IDS = [101, 2339, 2003, 1996, 3712, 2630, 1029, 102]
# The first numbers that the model's authors' own code computes for SKY …
SKY_HEAD = [
    0.010071029, -0.0017594862, 0.05007221, 0.04692972, 0.054916814,
    0.008599704, 0.105441414, -0.025878139, 0.12958129, 0.031952348,
]  # fmt: skip
# … and for "test", cut to 128 dimensions and normalised again.
TEST_HEAD = [
    0.020964134, 0.04565805, -0.066505864, 0.10739273, -0.013054413, -0.07467599, 0.13989426,
]  # fmt: skip
DIFFERENCE = {"latest": 2e-4, "f32": 2e-4, "q8_0": 1.2e-2}  # rounding of the weights

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Kitten",
    "An embedding is a list of numbers that stands for the meaning of a text. " * 2,
    "def add(a, b):\n    return a + b",
    "Die Würde des Menschen ist unantastbar.",
    "On 12 March 1989 a proposal for information management was circulated at CERN.",
    "A question? An answer!",
    "emoji 🙂 and 漢字",
    "Invoices are due within thirty days; late payment costs 1.5 % a month.",
    "the the the the the the the the the the the the the the the the the",
]


@pytest.fixture(scope="module")
def settings(default_store: Path, request: pytest.FixtureRequest) -> Settings:
    """Of a server that reads the default store; with one core, others may compute beside.

    A test may ask for one of `PRECISIONS`; the others have that of the run.
    """
    precision = getattr(request, "param", None)
    if precision == "bf16":
        require_bf16()
    environment = {
        "EMBEDD_MODELS": str(default_store),
        "EMBEDD_STATE": str(default_store / "state"),
        "EMBEDD_THREADS": "1",
        # A vector that is compared with another must have been computed.
        "EMBEDD_CACHE_BYTES": "0",
        **INHERITED,
        **({"EMBEDD_PRECISION": precision} if precision else {}),
    }
    return read_settings(environment)


# That of the run, with the tolerance of the backend that serves; f32, with its own.
PRECISIONS = [pytest.param(None, id="default"), "f32"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(settings: Settings) -> AsyncIterator[Server]:
    """One server for the tests that leave it as it was."""
    async with open_server(settings) as opened:
        yield opened


def cosine(a: Array, b: Array) -> float:
    return float(np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def least_cosine(a: Array, b: Array) -> float:
    """Of the rows, pairwise."""
    return min(cosine(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("settings", ["f32", "bf16"], indirect=True)
async def test_the_precision_that_is_asked_for_computes(settings: Settings, server: Server) -> None:
    expected = F32 if settings.precision is Precision.F32 else BF16
    assert await server.tolerance() == expected


@pytest.mark.parametrize("settings", [*PRECISIONS, "bf16"], indirect=True)
@pytest.mark.parametrize("tag", DIFFERENCE)
async def test_the_seeds_question_gives_the_seeds_numbers(tag: str, server: Server) -> None:
    tolerance = await server.tolerance(f"all-minilm:{tag}")
    most = max(DIFFERENCE[tag], tolerance.number)
    reply = await server.embed(SKY, model=f"all-minilm:{tag}")
    [row] = np.array(reply["embeddings"])
    assert row.shape == (384,)
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
    assert np.abs(row[:10] - SKY_HEAD).max() <= most
    assert cosine(row[:10], np.array(SKY_HEAD)) >= (0.9999 if tag != "q8_0" else 0.999)
    assert reply["model"] == f"all-minilm:{tag}"
    assert reply["prompt_eval_count"] == 8
    assert 0 < reply["load_duration"] <= reply["total_duration"]
    [head] = await server.vectors("test", model=f"all-minilm:{tag}", dimensions=128)
    assert head.shape == (128,)
    assert np.abs(head[:7] - TEST_HEAD).max() <= most


async def test_two_texts_give_two_vectors_in_order_whatever_their_letter_case(
    server: Server,
) -> None:
    texts = ["why is the sky blue?", "why is the grass green?"]
    reply = await server.embed(texts)
    rows = np.array(reply["embeddings"])
    assert reply["prompt_eval_count"] == 16
    same = 1 - (await server.tolerance()).batched
    assert cosine(rows[0], (await server.vectors(SKY))[0]) >= same
    assert cosine(rows[0], rows[1]) == pytest.approx(0.473, abs=0.002)


async def test_the_old_route_gives_the_same_vector(server: Server) -> None:
    body = {"model": "all-minilm", "prompt": SKY, "keep_alive": "10m"}
    status, reply = await server.send("/api/embeddings", body)
    assert (status, list(reply)) == (200, ["embedding"])
    assert cosine(np.array(reply["embedding"]), (await server.vectors(SKY))[0]) > 1 - 1e-6


async def test_truncation_counts_tokens(server: Server) -> None:
    reply = await server.embed(SKY, options={"num_ctx": 3})
    assert reply["truncated"] == [{"index": 0, "tokens": 8, "kept": 3}]
    assert reply["prompt_eval_count"] == 3
    [why] = await server.vectors("why")
    assert cosine(np.array(reply["embeddings"][0]), why) > 0.999


TOO_LONG = "the input length exceeds the context length"
NO_ROOM = "input after truncation exceeds maximum context length"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"truncate": False, "options": {"num_ctx": 3}}, TOO_LONG),
        ({"options": {"num_ctx": 1}}, NO_ROOM),
        ({"options": {"num_ctx": 0}}, NO_ROOM),
    ],
)
async def test_an_input_that_may_or_can_not_be_truncated_is_refused(
    fields: dict[str, object], error: str, server: Server
) -> None:
    status, reply = await server.send("/api/embed", {"model": "all-minilm", "input": SKY, **fields})
    assert (status, reply["error"]) == (400, error)


async def test_one_input_that_is_too_long_fails_the_whole_request(server: Server) -> None:
    texts = ["short input", "very long input " * 100, "another short input"]
    body = {"model": "all-minilm", "input": texts, "truncate": False, "options": {"num_ctx": 10}}
    status, reply = await server.send("/api/embed", body)
    assert (status, reply["index"], reply["limit"]) == (400, 1, 10)


async def test_lengths_around_every_limit_give_a_vector(server: Server) -> None:
    for words in (254, 255, 510, 511, 100_000):
        for num_ctx in (None, 8192):
            reply = await server.embed("word " * words, options={"num_ctx": num_ctx})
            limit = min(num_ctx or 256, 512)
            assert reply["prompt_eval_count"] == min(words + 2, limit)
            assert ("truncated" in reply) == (words + 2 > limit)
            assert np.isfinite(reply["embeddings"][0]).all()


async def test_a_long_text_is_its_first_tokens(server: Server) -> None:
    cut = await server.vectors("word " * 700, options={"num_ctx": 512})
    ids = [101, *[2773] * 510, 102]
    same = await server.vectors([ids], options={"num_ctx": 512})
    assert least_cosine(cut, same) > 1 - 1e-6


async def test_token_ids_are_the_text(server: Server) -> None:
    rows = await server.vectors([SKY_IDS, [101, 2339, 102]])
    assert least_cosine(rows, await server.vectors([SKY, "why"])) > 1 - 1e-6
    body = {"model": "all-minilm", "input": [999999]}
    status, reply = await server.send("/api/embed", body)
    assert (status, reply["index"]) == (400, 0)


STRANGE = [
    "🙂",
    "👩\u200d👩\u200d👧\u200d👦" * 300,
    "\ud800",
    "a\udfffb",
    "\0",
    "a\0b",
    " ",
    "\n\t",
    "\u200b",
    "\u202e",
    "ﷺ" * 2000,
    "x" * 200_000,
    "[CLS] [SEP] [MASK]",
    "\ufeff",
    "\U0010ffff",
]


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: ascii(text[:8]))
async def test_every_unicode_text_gets_a_vector(text: str, server: Server) -> None:
    rows = await server.vectors([text, "why"])
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1], abs=1e-5)
    same = 1 - (await server.tolerance()).batched
    assert cosine(rows[1], (await server.vectors("why"))[0]) >= same


async def test_the_empty_text_is_its_special_tokens(server: Server) -> None:
    reply = await server.embed([""])
    assert reply["prompt_eval_count"] == 2
    assert len(reply["embeddings"][0]) == 384


@pytest.mark.parametrize("settings", PRECISIONS, indirect=True)
@pytest.mark.parametrize(
    ("tag", "least", "empty"), [("latest", 0.99999, 0.99999), ("q8_0", 0.999, 0.998)]
)
async def test_smaller_weights_stay_close_to_the_exact_ones(
    tag: str, least: float, empty: float, server: Server
) -> None:
    texts = [*TEXTS, ""]
    exact = await server.vectors(texts, model="all-minilm:f32")
    rows = await server.vectors(texts, model=f"all-minilm:{tag}")
    tolerance = await server.tolerance()
    rounding = 0 if tolerance == F32 else 2 * tolerance.exact  # of both models' arithmetic
    assert least_cosine(rows[:-1], exact[:-1]) >= least - rounding
    assert cosine(rows[-1], exact[-1]) >= empty - rounding


def mixed_texts(count: int) -> list[str]:
    """From one word to more than the limit."""
    texts = [f"{TEXTS[i % len(TEXTS)]} {i} " * (1 + i % 3) for i in range(count)]
    return [*texts[:-2], "word " * 200, "word " * 300]


@pytest.mark.parametrize("settings", [*PRECISIONS, "bf16"], indirect=True)
@pytest.mark.parametrize(("tag", "most"), [("latest", 1e-6), ("q8_0", 2e-4)])
async def test_a_vector_does_not_depend_on_its_neighbours(
    tag: str, most: float, server: Server
) -> None:
    model = f"all-minilm:{tag}"
    [alone] = await server.vectors(SKY, model=model)
    texts = mixed_texts(100)
    texts.insert(37, SKY)
    together = await server.vectors(texts, model=model)
    tolerance = await server.tolerance(model)
    assert 1 - cosine(alone, together[37]) <= max(most, tolerance.batched)


async def test_one_batch_one_by_one_and_many_clients_agree(server: Server) -> None:
    texts = mixed_texts(100)
    batch = await server.vectors(texts)
    one_by_one = [(await server.vectors(text))[0] for text in texts[::5]]
    assert least_cosine(batch[::5], np.array(one_by_one)) >= 0.9999
    gate = asyncio.Semaphore(32)

    async def of(text: str) -> Array:
        async with gate:
            return np.asarray((await server.vectors(text))[0])

    at_once = await asyncio.gather(*map(of, texts))
    assert least_cosine(batch, np.array(at_once)) >= 0.9999


async def test_many_inputs_are_one_request(server: Server) -> None:
    texts = [str(number) for number in range(1_000)]
    reply = await server.embed(texts)
    assert len(reply["embeddings"]) == 1_000
    picked = [0, 432, 999]
    rows = np.array([reply["embeddings"][index] for index in picked])
    same = 1 - (await server.tolerance()).batched
    assert least_cosine(rows, await server.vectors([texts[index] for index in picked])) >= same


@pytest.mark.parametrize(
    "triple",
    [("cat", "kitten", "dog"), ("king", "queen", "baron"), ("paris", "london", "vancouver")],
)
async def test_texts_with_similar_meaning_have_close_vectors(
    triple: Sequence[str], server: Server
) -> None:
    a, b, c = await server.vectors(list(triple))
    assert cosine(a, b) > cosine(a, c)
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)
    assert np.abs(a - b).sum() < np.abs(a - c).sum()


@pytest.mark.parametrize("settings", PRECISIONS, indirect=True)
async def test_the_official_client_works(server: Server) -> None:
    most = (await server.tolerance()).number
    async with ollama.AsyncClient(host=server.url) as client:
        reply = await client.embed(
            "all-minilm", [SKY, "why"], options={"num_ctx": 128}, keep_alive=-1.0
        )
        assert reply.embeddings[0][:4] == pytest.approx(SKY_HEAD[:4], abs=most)
        assert reply.prompt_eval_count == 11
        old = await client.embeddings("all-minilm", SKY, keep_alive="10m")
        assert list(old.embedding[:4]) == pytest.approx(SKY_HEAD[:4], abs=most)
        names = {model.model for model in (await client.list()).models}
        assert names == {"all-minilm:latest", "all-minilm:f32", "all-minilm:q8_0"}
        running = {model.model: model for model in (await client.ps()).models}
        details = running["all-minilm:latest"].details
        assert details is not None
        assert details.quantization_level == "F16"
        with pytest.raises(ollama.ResponseError, match="not found, try pulling it first") as caught:
            await client.embed("nope", "x")
        assert caught.value.status_code == 404
        await client.generate("all-minilm:f32", keep_alive=0)
        assert "all-minilm:f32" not in {model.model for model in (await client.ps()).models}


async def test_the_worker_of_an_idle_model_ends(settings: Settings) -> None:
    before = {one.pid for one in workers()}
    async with open_server(settings) as server:
        await server.embed("x", keep_alive="2s")
        [running] = await server.running()
        [worker] = [one for one in workers() if one.pid not in before]
        assert running["size"] > 20_000_000, "the worker's memory, while it lives"
        await until(lambda: not server.runtime.embedder.running())
        assert await server.running() == []
        assert not worker.is_running()
        assert {one.pid for one in workers()} == before


@pytest.mark.parametrize("settings", PRECISIONS, indirect=True)
async def test_64_clients_at_once_share_one_load(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    before = {one.pid for one in workers()}
    async with open_server(settings) as server:
        rows = await asyncio.gather(*[server.vectors(SKY) for _ in range(64)])
        most = (await server.tolerance()).number
        assert np.abs(np.array(rows)[:, 0, :10] - SKY_HEAD).max() <= most
        assert len({one.pid for one in workers()} - before) == 1
    assert caplog.messages.count("model loaded") == 1
    assert {one.pid for one in workers()} == before, "stopping ends the workers"


@pytest.mark.parametrize("settings", PRECISIONS, indirect=True)
async def test_a_killed_worker_costs_a_delay_and_nothing_else(settings: Settings) -> None:
    before = {one.pid for one in workers()}
    async with open_server(settings) as server:
        texts = [f"{text} {number}" for number in range(20) for text in TEXTS]
        expected = await server.vectors(texts)
        # llama.cpp, which computes exactly, may take over from a faster backend.
        most = (await server.tolerance()).exact
        [worker] = [one for one in workers() if one.pid not in before]
        running = asyncio.create_task(server.vectors(texts))
        spent = worker.cpu_times().user
        await until(lambda: worker.cpu_times().user > spent + 0.05)
        assert not running.done()
        worker.kill()
        rows = await running
        assert least_cosine(rows, expected) >= 1 - most
        assert least_cosine(await server.vectors(texts[:3]), expected[:3]) >= 1 - most
        assert len({one.pid for one in workers()} - before) == 1
