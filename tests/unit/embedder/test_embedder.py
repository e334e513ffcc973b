"""The embedder: checks before a load, truncation, finished vectors, timings."""

import asyncio
import math
import time

import numpy as np
import pytest

from embedd.embedder import embedder as module
from embedd.embedder.embedder import Embedder
from embedd.engine.fake import FIRST, LAST, WIDTH
from embedd.errors import (
    EmbeddError,
    InputTooLongError,
    InvalidInputError,
    ModelNotFoundError,
    UnsupportedError,
)
from embedd.types import ClientIds, EmbedRequest, Normalize, Prompt, Truncate
from tests.server.serving import Loads, until
from tests.unit.embedder.requests import ask


def ids(*numbers: int) -> ClientIds:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (ask("x", model="nope"), ModelNotFoundError),
        (ask("x", model="talker"), UnsupportedError),
        (ask("x", options={"num_ctx": "x"}), InvalidInputError),
        (ask("x", ids(1, 5), ids(5, 99)), InvalidInputError),
        (ask(ids(-1)), InvalidInputError),
        (ask(ids(2**40)), InvalidInputError),
    ],
)
async def test_what_can_be_refused_without_the_model_never_loads_it(
    request_: EmbedRequest, error: type[EmbeddError], embedder: Embedder, loads: Loads
) -> None:
    with pytest.raises(error):
        await embedder.embed(request_)
    assert loads.names == []


async def test_a_wrong_token_id_is_named_with_its_input(embedder: Embedder) -> None:
    with pytest.raises(InvalidInputError, match=r"token id 99 is out of range \(vocab.* 99\)") as e:
        await embedder.embed(ask("x", ids(1, 98), ids(5, 99, 100)))
    assert e.value.index == 2


async def test_without_inputs_the_model_is_loaded_and_nothing_computed(
    embedder: Embedder, loads: Loads
) -> None:
    result = await embedder.embed(ask())
    assert (len(result.vectors), list(result.tokens), result.served_by) == (0, [], None)
    assert loads.names == ["tiny:latest"]


async def test_the_result_names_what_computed_it(embedder: Embedder) -> None:
    result = await embedder.embed(ask("x"))
    assert result.served_by is not None
    assert (result.served_by.engine, result.served_by.backend) == ("fake", "llama")
    assert result.served_by.digest.startswith("sha256:")


@pytest.mark.parametrize(
    ("truncate", "text"),
    [(Truncate.END, "abc"), (Truncate.START, "efg"), (Truncate.MIDDLE, "abg")],
)
async def test_the_end_the_start_or_the_middle_of_a_text_may_be_removed(
    truncate: Truncate, text: str, embedder: Embedder
) -> None:
    cut = await embedder.embed(ask("abcdefg", truncate=truncate, options={"num_ctx": 5}))
    whole = await embedder.embed(ask(text))
    assert np.array_equal(cut.vectors, whole.vectors)
    [report] = cut.truncated
    assert (report.index, report.tokens, report.kept) == (0, 9, 5)


async def test_the_first_input_that_is_too_long_is_the_one_that_is_named(
    embedder: Embedder,
) -> None:
    request = ask("a", "abcdef", "abcdefgh", truncate=Truncate.ERROR, options={"num_ctx": 5})
    with pytest.raises(InputTooLongError) as caught:
        await embedder.embed(request)
    error = caught.value
    assert (error.index, error.tokens, error.limit, error.special) == (1, 8, 5, 2)


async def test_a_request_may_mix_texts_and_token_ids(embedder: Embedder) -> None:
    mixed = await embedder.embed(ask("AB", ids(FIRST, 67, LAST), "D"))
    texts = await embedder.embed(ask("AB", "C", "D"))
    assert np.array_equal(mixed.vectors, texts.vectors)
    assert list(mixed.tokens) == [4, 3, 3]


async def test_a_prefix_that_the_model_does_not_have_changes_nothing(embedder: Embedder) -> None:
    plain, query, document = [
        await embedder.embed(ask("x", prompt=name and Prompt(name=name)))
        for name in (None, "query", "document")
    ]
    assert np.array_equal(plain.vectors, document.vectors)
    assert list(query.tokens) == [8]


async def test_vectors_are_normalised_by_default(embedder: Embedder) -> None:
    lengths = [
        float(np.linalg.norm((await embedder.embed(ask("x", normalize=how))).vectors))
        for how in Normalize
    ]
    assert lengths[0] == pytest.approx(1)
    assert lengths[1] != pytest.approx(1)
    assert lengths[2] == pytest.approx(1), "bert with its own tokenizer"


async def test_token_vectors_come_as_the_model_gives_them(embedder: Embedder) -> None:
    result = await embedder.embed(ask("ab", "c", per_token=True, dimensions=2))
    assert result.vectors.shape == (4 + 3, WIDTH)
    assert list(result.tokens) == [4, 3]


async def test_many_vectors_are_finished_in_a_thread_like_few(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await embedder.embed(ask("x", "y", dimensions=3))
    monkeypatch.setattr(module, "QUICK_NUMBERS", 0)
    many = await embedder.embed(ask("x", "y", dimensions=3))
    assert np.array_equal(few.vectors, many.vectors)


async def test_requests_that_waited_for_the_load_have_its_time(
    embedder: Embedder, loads: Loads
) -> None:
    loads.gate.clear()
    embedder.find("tiny")  # so that both begin to wait at once
    waiting = [asyncio.create_task(embedder.embed(ask("x"))) for _ in range(2)]
    await asyncio.sleep(0)
    loads.gate.set()
    for result in await asyncio.gather(*waiting):
        assert 0 < result.timings.load <= result.timings.total
    assert (await embedder.embed(ask("x"))).timings.load == 0


async def test_load_and_total_count_from_the_arrival(embedder: Embedder) -> None:
    result = await embedder.embed(ask("x"), arrived=time.perf_counter() - 100)
    assert result.timings.load > 100
    assert result.timings.total > 100


async def test_running_models_come_with_the_furthest_expiry_first(
    embedder: Embedder, loads: Loads
) -> None:
    await embedder.embed(ask("x", keep_alive=math.inf))
    [running] = embedder.running()
    assert running.spec.name == "tiny:latest"
    assert running.info == loads.models[0].info
    assert running.expires_in == math.inf
    assert running.size > 1 << 20, "measured, not estimated"


async def test_a_model_that_is_loading_is_listed(embedder: Embedder, loads: Loads) -> None:
    loads.gate.clear()
    waiting = asyncio.create_task(embedder.embed(ask("x")))
    await until(lambda: bool(embedder.running()))
    [running] = embedder.running()
    assert running.info is None
    assert running.size > 0
    loads.gate.set()
    await waiting


async def test_unloading_a_model_that_is_not_loaded_is_no_error(
    embedder: Embedder, loads: Loads
) -> None:
    with pytest.raises(ModelNotFoundError):
        await embedder.unload("nope")
    await embedder.unload("tiny")
    await embedder.embed(ask("x"))
    await embedder.unload("tiny")
    assert embedder.running() == []
    assert loads.models[0].closed


async def test_a_request_that_is_cancelled_gives_its_lease_back(
    embedder: Embedder, loads: Loads
) -> None:
    await embedder.embed(ask())
    [model] = loads.models
    model.gate.clear()
    running = asyncio.create_task(embedder.embed(ask("x", keep_alive=0)))
    await until(lambda: model.waiting == 1)
    running.cancel()
    await asyncio.wait([running])
    await until(lambda: model.closed)
    assert embedder.running() == []
