"""The vectors of an answer: cut, prefixed, shortened, normalised or not; all in order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from embedd.engine.fake import WIDTH
from embedd.server.http import json_out
from tests.server.serving import OpenServer, Served
from tests.tiny_models import TINY_VOCABULARY
from tests.unit.stored import store_model

MAX_ROWS = 64


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers with more than `MAX_ROWS` vectors of 8 numbers are sent in slices."""
    monkeypatch.setattr(json_out, "MAX_NUMBERS", 8 * MAX_ROWS)


Array = npt.NDArray[np.float64]


async def vectors(served: Served, inputs: object, **fields: object) -> Array:
    reply = await served.embed(input=inputs, **fields)
    assert reply.status == 200, reply.json
    return np.array(reply.json["embeddings"])


async def vector(served: Served, text: object, **fields: object) -> Array:
    [row] = await vectors(served, text, **fields)
    return np.asarray(row)


async def test_a_cut_text_is_embedded_as_its_beginning_with_the_special_tokens(
    served: Served,
) -> None:
    cut = await vector(served, "why is the sky blue?", options={"num_ctx": 5})
    assert np.array_equal(cut, await vector(served, "why"))


async def test_token_ids_have_the_vector_of_their_text(served: Served) -> None:
    text = await vectors(served, ["AB", "CDE"])
    assert np.array_equal(text[:1], await vectors(served, [1, 65, 66, 2]))
    assert np.array_equal(text, await vectors(served, [[1, 65, 66, 2], [1, 67, 68, 69, 2]]))


async def test_cut_token_ids_keep_their_beginning_and_a_final_separator(served: Served) -> None:
    options = {"num_ctx": 4}
    cut = await vectors(served, [[1, 65, 66, 67, 68, 2], [65, 66, 67, 68, 69]], options=options)
    assert np.array_equal(cut, await vectors(served, [[1, 65, 66, 2], [65, 66, 67, 68]]))


async def test_a_prefix_is_put_before_texts_only(served: Served) -> None:
    plain = await vectors(served, ["ask: why", "doc: why"])
    for index, role in enumerate(["query", "document"]):
        prefixed = await vectors(served, ["why"], model="prefixed", input_type=role)
        assert np.array_equal(plain[index], prefixed[0])
    ids = await vectors(served, [1, 65, 2], model="prefixed", input_type="query")
    assert np.array_equal(ids, await vectors(served, [1, 65, 2]))


async def test_shortened_vectors_have_the_direction_of_the_head_and_length_1(
    served: Served,
) -> None:
    whole = await vector(served, "why")
    head = await vector(served, "why", dimensions=3)
    assert head == pytest.approx(whole[:3] / np.linalg.norm(whole[:3]), abs=1e-6)
    for none in (0, -1, WIDTH, 4096):
        assert np.array_equal(whole, await vector(served, "why", dimensions=none))


async def test_the_limit_comes_from_the_request_the_model_or_the_server(
    open_server: OpenServer,
) -> None:
    served = await open_server(context_length=20)
    for model, options, limit in [
        ("tiny", {}, 20),
        ("tiny", {"num_ctx": 30}, 30),
        ("tiny", {"num_ctx": None}, 20),
        ("tiny", {"num_ctx": 9999}, 64),
        ("short", {}, 8),
        ("short", {"num_ctx": 12}, 12),
    ]:
        reply = await served.embed(model=model, input="x" * 100, options=options)
        assert reply.json["truncated"] == [{"index": 0, "tokens": 102, "kept": limit}]
    assert served.loads.names == ["tiny:latest"], "tags share weights, limits are per request"


@pytest.mark.parametrize("count", [MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS])
async def test_a_large_answer_is_the_small_ones_in_order(served: Served, count: int) -> None:
    texts = [f"text {number}" for number in range(count)]
    reply = await served.embed(input=texts)
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert ("Content-Length" in reply.headers) == (count <= MAX_ROWS), "large ones are streamed"
    assert reply.headers["X-Embedd-Model"].endswith(";engine=fake;backend=llama;tokenizer=llama")
    assert list(reply.json) == [
        "model",
        "embeddings",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
    ]
    for start in range(0, count, 50):
        part = await served.embed(input=texts[start : start + 50])
        assert part.json["embeddings"] == reply.json["embeddings"][start : start + 50]


async def test_ten_thousand_inputs_are_one_request(served: Served) -> None:
    texts = [str(number) for number in range(10_000)]
    reply = await served.embed(input=texts)
    assert len(reply.json["embeddings"]) == 10_000
    assert reply.json["prompt_eval_count"] == sum(len(text) + 2 for text in texts)
    assert reply.json["embeddings"][9_876] == (await vector(served, "9876")).tolist()


async def test_the_header_shortens_a_long_list_of_truncated_inputs(served: Served) -> None:
    reply = await served.embed(input=["x" * 9] * 400, options={"num_ctx": 5})
    header = reply.headers["X-Embedd-Truncated"]
    assert len(header) <= 1000
    assert header.startswith("count=400; index=0 tokens=11 kept=5; index=1 tokens=11 kept=5; ")
    assert header.endswith("; more")
    assert [cut["index"] for cut in reply.json["truncated"]] == list(range(400))


async def test_unusual_line_ends_are_escaped(served: Served) -> None:
    name = "a\u2028\u2029\u0085"
    reply = await served.post("/api/generate", {"model": "tiny", "prompt": name})
    assert reply.status == 400
    error = (await served.embed(input="x", input_type=name)).body
    assert rb"a\u2028\u2029\u0085" in error


async def test_an_input_without_tokens_is_named(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await served.embed(input=[])
    empty = np.empty(0, np.int32)

    async def tokenize(texts: Sequence[str], **_: bool) -> list[npt.NDArray[np.int32]]:
        return [np.array([65], np.int32) if text else empty for text in texts]

    monkeypatch.setattr(served.loads.models[0], "tokenize", tokenize)
    reply = await served.embed(input=["a", ""])
    assert (reply.status, reply.json) == (400, {"error": "input has no tokens", "index": 1})


def write_header(path: Path, architecture: str, tokenizer: str, keys: dict[str, Any]) -> Path:
    """A GGUF that says what it is and holds no weights."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_tokenizer_model(tokenizer)
    writer.add_token_list(TINY_VOCABULARY)
    for key, value in keys.items():
        add: Any = writer.add_bool if isinstance(value, bool) else writer.add_uint32
        add(f"{architecture}.{key}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NORMALIZED, RAW = {"normalize_embeddings": True}, {"normalize_embeddings": False}


@pytest.mark.parametrize(
    ("kind", "is_raw"),
    [
        (("bert", "bert", {}), False),
        (("bert", "t5", {}), False),
        (("bert", "bert", {"pooling_type": 1}), False),
        (("bert", "bert", {"pooling_type": 1, **NORMALIZED}), False),
        (("bert", "bert", {"pooling_type": 1, **RAW}), True),
        (("bert", "t5", {"pooling_type": 2}), True),
        (("bert", "gpt2", {"pooling_type": 2}), True),
        (("nomic-bert", "bert", {"pooling_type": 1}), True),
        (("nomic-bert", "bert", {"pooling_type": 1, **NORMALIZED}), False),
        (("nomic-bert-moe", "t5", {"pooling_type": 1}), True),
        (("gemma-embedding", "llama", {"pooling_type": 1}), False),
        (("qwen3", "gpt2", {"pooling_type": 3}), False),
    ],
)
async def test_the_old_route_normalises_as_the_kind_of_model_was(
    kind: tuple[str, str, dict[str, Any]], is_raw: bool, served: Served, tmp_path: Path
) -> None:
    store_model(served.store, "kind", write_header(tmp_path / "kind.gguf", *kind))
    reply = await served.post("/api/embeddings", {"model": "kind", "prompt": "why"})
    row = np.array(reply.json["embedding"])
    assert (abs(np.linalg.norm(row) - 1) > 1e-3) == is_raw
    unit = await vector(served, "why", model="kind")
    assert row / np.linalg.norm(row) == pytest.approx(unit, abs=1e-6)
