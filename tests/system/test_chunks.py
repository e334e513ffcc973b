"""Texts cut into chunks by the default model: real tokens, real workers, real HTTP."""

import random
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from embedd.config import read_settings
from tests.needs import INHERITED
from tests.system.serving import Array, Server, open_server
from tests.unit.tokenizers.vocabularies import find_checkpoint

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 256
SPECIAL = 2
WORDS = [
    "sky", "grass", "river", "stone", "house", "bread", "letter", "music", "winter", "garden",
    "the", "a", "of", "and", "is", "was", "Würde", "unbelievable", "1989", "CERN", "don't",
    "state-of-the-art", "naïve", "thirty", "percent", "invoice",
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(default_store: Path) -> AsyncIterator[Server]:
    """With the default model; what is compared was computed, not remembered."""
    environment = {
        "EMBEDD_MODELS": str(default_store),
        "EMBEDD_STATE": str(default_store / "state"),
        "EMBEDD_THREADS": "1",
        "EMBEDD_CACHE_BYTES": "0",
        **INHERITED,
    }
    async with open_server(read_settings(environment)) as opened:
        yield opened


def write_pages(count: int, *, seed: int = 5) -> str:
    """Pages of some 3,000 characters: paragraphs of sentences of words."""
    rng = random.Random(seed)

    def sentence() -> str:
        words = rng.choices(WORDS, k=rng.randint(4, 20))
        return " ".join(words).capitalize() + rng.choice([".", ".", "?", "!", '."'])

    def page() -> str:
        return "\n\n".join(" ".join(sentence() for _ in range(rng.randint(2, 9))) for _ in range(8))

    return "\n\n\n".join(page() for _ in range(count))


async def test_a_hundred_pages_are_their_chunks_put_together(server: Server) -> None:
    text = write_pages(100)
    assert 250_000 < len(text) < 350_000
    reply = await server.embed(text, chunk={})
    chunks = reply["chunks"]
    assert len(chunks) == len(reply["embeddings"])
    assert "".join(text[one["start"] : one["end"]] for one in chunks) == text
    assert all(one["input"] == 0 for one in chunks)
    assert all(LIMIT / 2 - SPECIAL < one["tokens"] <= LIMIT - SPECIAL for one in chunks[:-1])
    assert reply["prompt_eval_count"] == sum(one["tokens"] + SPECIAL for one in chunks)
    assert np.allclose(np.linalg.norm(reply["embeddings"], axis=1), 1, atol=1e-5)
    tokenizer = Tokenizer.from_file(str(find_checkpoint()))
    tokenizer.no_truncation()
    whole = tokenizer.encode(text, add_special_tokens=False)
    starts = np.array([start for start, _ in whole.offsets])
    rows = [0, len(chunks) // 2, len(chunks) - 1]
    sequences = []
    for one in (chunks[row] for row in rows):
        first, last = np.searchsorted(starts, [one["start"], one["end"]])
        sequences.append([101, *whole.ids[first:last], 102])
        assert last - first == one["tokens"]
    alone = await server.vectors(sequences)
    same = 1 - (await server.tolerance()).batched
    for row, vector in zip(rows, alone, strict=True):
        assert np.dot(reply["embeddings"][row], vector) > same


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.text(st.sampled_from("ab é가か字。. \n\t😀'9"), max_size=120) | st.text(max_size=60),
        min_size=1,
        max_size=3,
    ),
    size=st.integers(4, 40),
    overlap=st.integers(0, 3),
)
async def test_chunks_cover_texts_of_every_script(
    server: Server, texts: list[str], size: int, overlap: int
) -> None:
    wanted = {"tokens": size, "overlap": overlap}
    body = {"model": "all-minilm", "input": texts, "chunk": wanted}
    status, reply = await server.send("/api/embed", body)
    assert status == 200, reply
    for index, text in enumerate(texts):
        places = [one for one in reply["chunks"] if one["input"] == index]
        assert (places[0]["start"], places[-1]["end"]) == (0, len(text))
        assert all(one["tokens"] <= size for one in places)
        for one, following in pairwise(places):
            assert one["start"] <= following["start"] <= one["end"] <= following["end"]
            assert overlap or one["end"] == following["start"]
    pooled = await server.vectors(texts, chunk={**wanted, "pool": "mean"})
    tolerance = (await server.tolerance()).batched
    for index, vector in enumerate(pooled):
        rows = [row for row, one in enumerate(reply["chunks"]) if one["input"] == index]
        mean = average([reply["embeddings"][row] for row in rows], reply["chunks"], rows)
        assert np.dot(vector, mean) > 1 - 2 * tolerance


def average(vectors: list[Array], chunks: list[dict[str, int]], rows: list[int]) -> Array:
    weights = [chunks[row]["tokens"] for row in rows]
    mean = np.average(vectors, axis=0, weights=weights if any(weights) else None)
    unit: Array = mean / np.linalg.norm(mean)
    return unit


async def test_openais_route_has_a_row_for_each_chunk(server: Server) -> None:
    text = write_pages(1)
    body = {"model": "all-minilm", "input": ["a", text], "chunk": {"tokens": 100}}
    status, reply = await server.send("/v1/embeddings", body)
    assert status == 200, reply
    chunks = reply["chunks"]
    assert [row["index"] for row in reply["data"]] == [*range(len(chunks))]
    parts = [text[one["start"] : one["end"]] for one in chunks if one["input"] == 1]
    assert "".join(parts) == text
    assert reply["usage"]["total_tokens"] == sum(one["tokens"] + SPECIAL for one in chunks)
