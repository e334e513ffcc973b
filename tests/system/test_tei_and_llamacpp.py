"""text-embeddings-inference's and llama.cpp's APIs on real weights."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from embedd.config import read_settings
from tests.needs import INHERITED
from tests.system.serving import Server, open_server
from tests.tolerances import F32

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "all-minilm"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(default_store: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """With the precision of the run, or the one that a test asks for."""
    precision = getattr(request, "param", None)
    settings = read_settings(
        {
            "EMBEDD_MODELS": str(default_store),
            "EMBEDD_STATE": str(default_store / "state"),
            "EMBEDD_THREADS": "1",
            **INHERITED,
            **({"EMBEDD_PRECISION": precision} if precision else {}),
        }
    )
    async with open_server(settings) as opened:
        yield opened


async def ask(server: Server, path: str, **body: object) -> Any:
    status, reply = await server.send(path, {"model": MODEL, **body})
    assert status == 200, reply
    return reply


@pytest.mark.parametrize("server", [pytest.param(None, id="default"), "f32"], indirect=True)
async def test_the_vector_is_the_one_that_others_published(server: Server) -> None:
    tolerance = await server.tolerance()
    most = 1e-3 if tolerance == F32 else tolerance.number
    [vector] = await ask(server, "/embed", inputs="test", dimensions=128)
    assert vector[:3] == pytest.approx([0.020964134, 0.04565805, -0.066505864], abs=most)
    [whole] = await ask(server, "/", inputs="x")
    assert np.shape(whole) == (384,)
    [expected] = await server.vectors(["x"])
    assert whole == pytest.approx(expected.tolist())


async def test_every_token_has_a_vector(server: Server) -> None:
    rows = await ask(server, "/embed_all", inputs="hello hello hello")
    assert np.shape(rows) == (1, 5, 384)


async def test_cosines_are_those_of_the_vectors(server: Server) -> None:
    inputs = {"source_sentence": "sky", "sentences": ["blue sky", "grass", "sky"]}
    cosines = await ask(server, "/similarity", inputs=inputs)
    assert cosines == await ask(server, "/", inputs=inputs)
    vectors = await server.vectors(["sky", "blue sky", "grass", "sky"])
    assert cosines == pytest.approx((vectors[1:] @ vectors[0]).tolist(), abs=1e-4)


async def test_ids_and_texts_may_be_mixed(server: Server) -> None:
    assert len(await ask(server, "/embedding", content=[12, 34, "string", 56, 78])) == 1
    both = await ask(server, "/embedding", content=[[12, 34, 56], [12, "string", 34, 56]])
    assert [one["index"] for one in both] == [0, 1]
    assert np.shape(both[0]["embedding"]) == (1, 384)


async def test_llama_cpps_route_refuses_a_text_that_is_too_long(server: Server) -> None:
    body = {"model": MODEL, "content": "This is a test " * 512}
    status, reply = await server.send("/embedding", body)
    assert (status, reply["error"]["type"]) == (400, "exceed_context_size_error")
    assert "too large" in reply["error"]["message"]


async def test_tokens_have_their_offsets_in_bytes(server: Server) -> None:
    [tokens] = await ask(server, "/tokenize", inputs="Zürich 日本")
    spans = [(one["text"], one["start"], one["stop"]) for one in tokens if not one["special"]]
    assert spans == [("Zürich", 0, 7), ("日", 8, 11), ("本", 11, 14)]
    assert [tokens[0]["text"], tokens[-1]["text"]] == ["[CLS]", "[SEP]"]
    text = "why is the sky blue?"
    ids = (await ask(server, "/tokenize", content=text))["tokens"]
    assert ids == [2339, 2003, 1996, 3712, 2630, 1029]
    again = (await ask(server, "/detokenize", tokens=ids))["content"]
    assert (await ask(server, "/tokenize", content=again))["tokens"] == ids


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("안門 ok", [("안", 0, 3)] * 3 + [("門", 3, 6), ("ok", 7, 9)]),
        # Not in the vocabulary: an unknown token has a place, and is not special.
        ("안门 ok", [("안", 0, 3)] * 3 + [("门", 3, 6), ("ok", 7, 9)]),
        ("☃ İx", [("☃", 0, 3), ("İx", 4, 7)]),
        ("page\fbreak", [("page", 0, 4), ("break", 5, 10)]),
    ],
)
async def test_every_token_of_a_text_has_its_place(
    server: Server, text: str, spans: list[tuple[str, int, int]]
) -> None:
    """In whatever way the model's tokenizer decomposed, lowered or dropped letters."""
    [tokens] = await ask(server, "/tokenize", inputs=text)
    places = [(one["text"], one["start"], one["stop"]) for one in tokens[1:-1]]
    assert places == spans
    assert [one["special"] for one in tokens] == [True, *(False for _ in spans), True]
