"""What the dialects of OpenAI, Cohere and Nugen promise beyond single answers."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.choices import TokenIdChoice
from embedd.names import parse_model_name as parse
from embedd.server.dialects.base import Policy
from embedd.server.http import json_out
from embedd.types import Vectors
from tests.server.serving import OpenServer, Served
from tests.unit.stored import store_model

MAX_ROWS = 64


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with more than `MAX_ROWS` vectors of 8 numbers are sent in slices."""
    monkeypatch.setattr(json_out, "MAX_NUMBERS", 8 * MAX_ROWS)


OPENAI = "/v1/embeddings"
NUGEN = "/api/v3/inference/embeddings"
MANY = [f"{number}" for number in range(2 * MAX_ROWS + 3)]


async def openai(served: Served, **fields: object) -> list[Any]:
    """Vectors of a request that succeeds, in their order."""
    reply = await served.post(OPENAI, {"model": "tiny", **fields})
    assert reply.status == 200, reply.body
    assert [one["index"] for one in reply.json["data"]] == list(range(len(reply.json["data"])))
    return [one["embedding"] for one in reply.json["data"]]


def unpack(texts: list[str]) -> Vectors:
    return np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in texts])


def to_float32(rows: list[list[float]]) -> bytes:
    return np.array(rows, np.float32).tobytes()


async def test_a_text_has_the_same_vector_in_every_dialect_to_the_last_bit(served: Served) -> None:
    body: dict[str, object] = {"model": "tiny", "input": "why"}
    [expected] = (await served.embed(input="why")).json["embeddings"]
    for path in (OPENAI, "/embeddings", "/api/embeddings", NUGEN):
        assert (await served.post(path, body)).json["data"][0]["embedding"] == expected
    body = {"model": "tiny", "texts": ["why"]}
    assert (await served.post("/v1/embed", body)).json["embeddings"] == [expected]
    assert (await served.post("/v2/embed", body)).json["embeddings"] == {"float": [expected]}
    [packed] = await openai(served, input="why", encoding_format="base64")
    assert unpack([packed]).tobytes() == to_float32([expected])


async def test_large_answers_come_in_pieces_and_whole(served: Served) -> None:
    expected = to_float32((await served.embed(input=MANY)).json["embeddings"])
    assert to_float32(await openai(served, input=MANY)) == expected
    assert unpack(await openai(served, input=MANY, encoding_format="base64")).tobytes() == expected
    several = await openai(served, input=MANY, embedding_type=["base64", "ubinary"])
    assert unpack([one["base64"] for one in several]).tobytes() == expected
    for path in ("/v1/embed", "/v2/embed"):
        types = ["float", "base64", "int8"]
        body = {"model": "tiny", "texts": MANY, "embedding_types": types}
        reply = await served.post(path, body)
        assert to_float32(reply.json["embeddings"]["float"]) == expected
        assert unpack(reply.json["embeddings"]["base64"]).tobytes() == expected
        assert [len(row) for row in reply.json["embeddings"]["int8"]] == [8] * len(MANY)
        assert reply.headers["Transfer-Encoding"] == "chunked"


async def test_equal_inputs_are_equal_and_all_are_counted(served: Served) -> None:
    reply = await served.post(OPENAI, {"model": "tiny", "input": ["ab", "c", "ab"]})
    first, _, third = (one["embedding"] for one in reply.json["data"])
    assert first == third
    assert reply.json["usage"]["prompt_tokens"] == 4 + 3 + 4


async def test_raw_vectors_have_the_direction_of_the_normalised_ones(served: Served) -> None:
    [unit] = np.array(await openai(served, input="why"))
    [raw] = np.array(await openai(served, input="why", normalized=False))
    assert np.linalg.norm(raw) > 1.01
    assert np.allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)


async def test_a_shorter_vector_is_the_beginning_normalised_again(served: Served) -> None:
    [whole] = np.array(await openai(served, input="why"))
    [cut] = np.array(await openai(served, input="why", dimensions=3))
    assert np.allclose(cut, whole[:3] / np.linalg.norm(whole[:3]), atol=1e-6)


@pytest.fixture
async def prompted(open_server: OpenServer, tiny_store: Path) -> Served:
    """With a model ``prompted`` that has all kinds of prompts."""
    parameters = {
        "query_prefix": "ask: ",
        "document_prefix": "doc: ",
        "prompts": {"clustering": "group: ", "STS": "sts: "},
    }
    served: Served = await open_server(policy=Policy(token_ids=TokenIdChoice.OWN))
    store_model(served.store, "prompted", tiny_store.parent / "tiny.gguf", parameters)
    return served


@pytest.mark.parametrize(
    ("fields", "prefix"),
    [
        ({}, ""),
        ({"input_type": "query"}, "ask: "),
        ({"input_type": "Search_Query"}, "ask: "),
        ({"input_type": "document"}, "doc: "),
        ({"input_type": "passage"}, "doc: "),
        ({"input_type": "search_document"}, "doc: "),
        ({"input_type": "clustering"}, "group: "),
        ({"input_type": "classification"}, ""),
        ({"task": "retrieval.query"}, "ask: "),
        ({"task": "code.passage"}, "doc: "),
        ({"task": "clustering"}, "group: "),
        ({"task": "separation"}, ""),
        ({"prompt_name": "query"}, "ask: "),
        ({"prompt_name": "passage"}, "doc: "),
        ({"prompt_name": "sts"}, "sts: "),
        ({"prompt_name": "clustering", "task": "clustering", "input_type": "clustering"},
         "group: "),
        ({"prompt_name": "query", "task": "a.query", "input_type": "search_query"}, "ask: "),
    ],
)  # fmt: skip
async def test_a_prompt_is_what_one_would_have_written_by_hand(
    fields: dict[str, str], prefix: str, prompted: Served
) -> None:
    by_hand = await openai(prompted, model="prompted", input=[f"{prefix}why"])
    assert await openai(prompted, model="prompted", input=["why"], **fields) == by_hand
    reply = await prompted.post("/v2/embed", {"model": "prompted", "texts": ["why"], **fields})
    if fields.keys() == {"input_type"}:
        assert reply.json["embeddings"]["float"] == by_hand


async def test_a_model_without_prompts_ignores_their_names(served: Served) -> None:
    plain = await openai(served, input="why")
    assert await openai(served, input="why", prompt_name="anything") == plain
    assert await openai(served, input="why", task="retrieval.query") == plain


async def test_token_arrays_get_no_prompt_and_the_answer_says_so(prompted: Served) -> None:
    plain = await openai(prompted, input=[[5, 6]])
    body = {"model": "prompted", "input": [[5, 6], "a"], "input_type": "query"}
    reply = await prompted.post(OPENAI, body)
    assert reply.json["data"][0]["embedding"] == plain[0]
    assert reply.headers["X-Embedd-Warning"] == "no prompt was put before token arrays"
    both = await prompted.post(OPENAI, {**body, "dimensions": 2})
    assert both.headers["X-Embedd-Warning"] == (
        'dimensions=2 is not a matryoshka size of "prompted"; no prompt was put before token arrays'
    )


async def test_a_prompt_survives_the_cut(prompted: Served) -> None:
    long = "b" * 100
    whole = await openai(prompted, model="prompted", input=long, input_type="query")
    by_hand = await openai(prompted, model="prompted", input="ask: " + "b" * 57)
    assert whole == by_hand


async def test_a_length_that_the_model_was_made_for_needs_no_warning(
    served: Served, tiny_store: Path
) -> None:
    gguf = tiny_store.parent / "tiny.gguf"
    store_model(served.store, "nested", gguf, {"matryoshka": [4]})
    for size, warns in ((4, False), (32, False), (5, True)):
        reply = await served.post(OPENAI, {"model": "nested", "input": "a", "dimensions": size})
        assert ("X-Embedd-Warning" in reply.headers) is warns, size


async def test_a_setting_refuses_token_arrays(open_server: OpenServer) -> None:
    served: Served = await open_server(policy=Policy(token_ids=TokenIdChoice.REJECT))
    for inputs in ([1, 2], [[1], [2]], ["a", [1]]):
        reply = await served.post(OPENAI, {"model": "tiny", "input": inputs})
        assert reply.status == 400
        assert reply.json["detail"] == (
            "token arrays are not accepted (token_ids=reject); send text. "
            "With langchain-openai set check_embedding_ctx_length=False."
        )
    assert (await served.post(OPENAI, {"model": "tiny", "input": "a"})).status == 200
    assert (await served.embed(input=[1, 2])).status == 400
    assert (await served.embed(input="a")).status == 200


async def test_more_inputs_than_the_setting_allows_are_refused(open_server: OpenServer) -> None:
    served: Served = await open_server(policy=Policy(max_inputs=3))
    message = "too many inputs: 4, the limit is 3"
    for path in (OPENAI, NUGEN, "/api/embeddings"):
        reply = await served.post(path, {"model": "tiny", "input": ["a"] * 4})
        assert (reply.status, reply.json["detail"]) == (400, message)
        assert (await served.post(path, {"model": "tiny", "input": ["a"] * 3})).status == 200
    reply = await served.post("/v1/embed", {"model": "tiny", "texts": ["a"] * 4})
    assert (reply.status, reply.json["message"]) == (400, f"invalid request: {message}")
    one = await served.post("/api/embeddings", {"model": "tiny", "input": [5, 6, 7, 8]})
    assert one.status == 200, "a token array is one input"


async def test_a_request_without_a_model_gets_the_default_model(
    open_server: OpenServer, tiny_store: Path
) -> None:
    served: Served = await open_server(policy=Policy(default_model="other"))
    assert (await served.post("/v1/embed", {"texts": ["a"]})).status == 200
    assert await served.loaded() == ["other:latest"]
    alone: Served = await open_server(models=False)
    for name in ("other", "third", "short", "prefixed", "tiny", "talker"):
        alone.store.delete(parse(name))
    assert (await alone.post("/v1/embed", {"texts": ["a"]})).status == 400
    store_model(alone.store, "one", tiny_store.parent / "tiny.gguf")
    reply = await alone.post("/v1/embed", {"texts": ["a"]})
    assert reply.status == 200, "the only model that embeds, though a reranker is there"


async def test_models_are_listed_for_all_clients_at_once(served: Served) -> None:
    reply = (await served.send("GET", "/v1/models")).json
    assert reply == (await served.send("GET", "/models/")).json
    assert reply.keys() == {"object", "data", "models"}
    assert reply["object"] == "list"
    tags = (await served.send("GET", "/api/tags")).json["models"]
    assert tags
    assert [one["id"] for one in reply["data"]] == [one["name"] for one in tags]
    for one in reply["data"]:
        assert (one["object"], one["owned_by"]) == ("model", "library")
        assert type(one["created"]) is int
    by_name = {one["name"]: one for one in reply["models"]}
    assert by_name["short:latest"] == {
        "name": "short:latest", "model": "short:latest", "endpoints": ["embed"],
        "context_length": 8,
    }  # fmt: skip
    assert by_name["ranker:latest"]["endpoints"] == ["rerank"]
    assert by_name["talker:latest"]["endpoints"] == []
    rerankers = (await served.send("GET", "/v1/models?endpoint=rerank")).json
    assert [one["name"] for one in rerankers["models"]] == ["ranker:latest"]
    assert len(rerankers["data"]) == len(tags)


async def test_an_empty_store_lists_nothing(open_server: OpenServer) -> None:
    served: Served = await open_server(models=False)
    reply = (await served.send("GET", "/v1/models")).json
    assert reply == {"object": "list", "data": [], "models": []}


async def test_a_model_is_owned_by_its_namespace_and_a_broken_one_is_listed(
    served: Served, tiny_store: Path
) -> None:
    store_model(served.store, "org/m:tag", tiny_store.parent / "tiny.gguf")
    store_model(served.store, "broken", None)
    listed = (await served.send("GET", "/v1/models")).json
    assert {one["id"]: one["owned_by"] for one in listed["data"]}["org/m:tag"] == "org"
    assert {one["name"]: one["context_length"] for one in listed["models"]}["broken:latest"] == 0
    for path in ("/v1/models/org%2Fm:tag", "/v1/models/org/m:tag"):
        shown = (await served.send("GET", path)).json
        assert (shown["id"], shown["name"], shown["owned_by"]) == ("org/m:tag", "org/m:tag", "org")


async def test_whole_seconds_have_a_decimal_point_in_nugens_answer(served: Served) -> None:
    reply = await served.post(NUGEN, {"model": "tiny", "input": "a"})
    created = json.loads(reply.body, parse_float=str)["created"]
    assert created.endswith(".0")
    assert created.removesuffix(".0").isdecimal()


async def test_every_answer_has_its_own_request_id(served: Served) -> None:
    paths = [("GET", "/"), ("GET", "/nope"), ("GET", "/v1/nope"), ("POST", OPENAI)]
    names = [(await served.send(*path)).headers["X-Request-Id"] for path in paths]
    assert len({*names}) == len(names)
    rejected = await served.send("GET", "/", headers={"Host": "evil.example"})
    assert rejected.status == 403
    assert rejected.headers["X-Request-Id"]
