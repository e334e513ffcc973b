"""Official clients, unchanged: the vectors of ``/api/embed``, and errors of their own."""

import asyncio
import json
import time
from collections.abc import Callable

import cohere
import huggingface_hub
import litellm
import numpy as np
import ollama
import openai
import pytest
import voyageai
from conftest import KEY, MODEL, TEXTS
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.ollama import (
    OllamaDocumentEmbedder,
    OllamaTextEmbedder,
)
from langchain_ollama import OllamaEmbeddings
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.embeddings.openai import OpenAIEmbedding
from node import needs_node, run_node

Check = Callable[[object], None]


def test_ollama(url: str, check: Check) -> None:
    client = ollama.Client(url)
    check(client.embed(MODEL, TEXTS).embeddings)
    check([client.embeddings(MODEL, text).embedding for text in TEXTS])
    with pytest.raises(ollama.ResponseError, match="not found") as caught:
        client.embed("nope", "x")
    assert caught.value.status_code == 404


async def test_ollama_async(url: str, check: Check) -> None:
    client = ollama.AsyncClient(url)
    check((await client.embed(MODEL, TEXTS)).embeddings)
    with pytest.raises(ollama.ResponseError):
        await client.embed("nope", "x")


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}], ids=["base64", "float"])
def test_openai(url: str, check: Check, options: dict[str, str]) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    reply = client.embeddings.create(model=MODEL, input=TEXTS, **options)
    check([one.embedding for one in reply.data])
    assert reply.usage.total_tokens == reply.usage.prompt_tokens > 0
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.embeddings.create(model="nope", input="x", **options)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=MODEL, input="x", dimensions=1000)


def test_openai_runs_batches(url: str, check: Check) -> None:
    """The client's own flow: upload, create, poll, download, errors, delete."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/embeddings",
            "body": {"model": model, "input": text},
        }
        for number, (model, text) in enumerate([*((MODEL, text) for text in TEXTS), ("nope", "a")])
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert client.files.wait_for_processing(file.id).filename == "requests.jsonl"
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"of": "a test"},
    )
    deadline = time.monotonic() + 60
    while batch.status not in ("completed", "failed") and time.monotonic() < deadline:
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed"
    assert batch.metadata == {"of": "a test"}
    counts = batch.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (4, 3, 1)
    assert batch.output_file_id and batch.error_file_id
    answers = [
        json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()
    ]
    assert [one["custom_id"] for one in answers] == ["0", "1", "2"]
    check([one["response"]["body"]["data"][0]["embedding"] for one in answers])
    [error] = map(json.loads, client.files.content(batch.error_file_id).text.splitlines())
    assert error["response"]["status_code"] == 404
    assert batch.id in [one.id for one in client.batches.list(limit=1)]
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    for id_ in (file.id, batch.output_file_id, batch.error_file_id):
        assert client.files.delete(id_).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_openai_has_chunks(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    text = " ".join(TEXTS)
    wanted = {"chunk": {"tokens": 5}}
    reply = client.embeddings.create(model=MODEL, input=["a", text], extra_body=wanted)
    chunks = (reply.model_extra or {})["chunks"]
    assert [row.index for row in reply.data] == [*range(len(chunks))]
    parts = [text[one["start"] : one["end"]] for one in chunks if one["input"] == 1]
    assert len(parts) > 1
    assert "".join(parts) == text
    pooled = {"chunk": {"tokens": 5, "pool": "mean"}}
    reply = client.embeddings.create(model=MODEL, input=["a", text], extra_body=pooled)
    assert len(reply.data) == 2


def test_openai_lists_models(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY)
    assert f"{MODEL}:latest" in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


async def test_openai_async(url: str, check: Check) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        reply = await client.embeddings.create(model=MODEL, input=TEXTS)
        check([one.embedding for one in reply.data])
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="nope", input="x")


def test_cohere(url: str, check: Check) -> None:
    client = cohere.Client(KEY, base_url=url)
    reply = client.embed(texts=TEXTS, model=MODEL, input_type="search_document")
    assert reply.response_type == "embeddings_floats"
    check(reply.embeddings)
    with pytest.raises(cohere.NotFoundError):
        client.embed(texts=["x"], model="nope", input_type="search_document")


def test_cohere_version_2(url: str, check: Check) -> None:
    client = cohere.ClientV2(KEY, base_url=url)
    asked = {"model": MODEL, "input_type": "search_document"}
    reply = client.embed(texts=TEXTS, embedding_types=["float", "int8"], **asked)
    check(reply.embeddings.float_)
    assert {type(number) for number in reply.embeddings.int8[0]} == {int}
    with pytest.raises(cohere.NotFoundError):
        client.embed(texts=["x"], **{**asked, "model": "nope"})


@pytest.mark.parametrize("dtype", [None, "int8", "uint8", "binary", "ubinary"])
def test_voyageai(url: str, check: Check, dtype: str | None) -> None:
    client = voyageai.Client(KEY, base_url=f"{url}/v1", max_retries=0)
    reply = client.embed(TEXTS, MODEL, output_dtype=dtype)
    if dtype is None:
        check(reply.embeddings)
    assert len(reply.embeddings) == len(TEXTS)
    assert len(reply.embeddings[0]) == (48 if dtype and "binary" in dtype else 384)
    assert reply.total_tokens > 0
    with pytest.raises(voyageai.error.VoyageError, match="not found"):
        client.embed(["x"], "nope", output_dtype=dtype)


def test_huggingface_hub(url: str, check: Check) -> None:
    client = huggingface_hub.InferenceClient(base_url=url)
    one = client.feature_extraction(TEXTS[0])
    assert one.shape == (1, 384)
    check(np.concatenate([client.feature_extraction(text) for text in TEXTS]))
    assert len(client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])) == 2
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError):
        client.feature_extraction("x " * 600, truncate=False)


def test_langchain_ollama(url: str, check: Check) -> None:
    client = OllamaEmbeddings(model=MODEL, base_url=url)
    check(client.embed_documents(TEXTS))
    check([client.embed_query(text) for text in TEXTS])
    with pytest.raises(ollama.ResponseError):
        OllamaEmbeddings(model="nope", base_url=url).embed_query("x")


def test_langchain_openai(url: str, check: Check) -> None:
    def client(model: str) -> OpenAIEmbeddings:
        return OpenAIEmbeddings(
            model=model, base_url=f"{url}/v1", api_key=KEY, check_embedding_ctx_length=False
        )

    check(client(MODEL).embed_documents(TEXTS))
    check(asyncio.run(client(MODEL).aembed_documents(TEXTS)))
    with pytest.raises(openai.NotFoundError):
        client("nope").embed_query("x")


def test_llama_index_ollama(url: str, check: Check) -> None:
    client = OllamaEmbedding(MODEL, base_url=url)
    check(client.get_text_embedding_batch(TEXTS))
    with pytest.raises(ollama.ResponseError):
        OllamaEmbedding("nope", base_url=url).get_text_embedding("x")


def test_llama_index_openai(url: str, check: Check) -> None:
    def client(model: str) -> OpenAIEmbedding:
        return OpenAIEmbedding(
            model_name=model, api_base=f"{url}/v1", api_key=KEY, max_retries=0, timeout=30.0
        )

    check(client(MODEL).get_text_embedding_batch(TEXTS))
    with pytest.raises(openai.NotFoundError):
        client("nope").get_text_embedding("x")


def test_haystack_ollama(url: str, check: Check) -> None:
    def client(model: str) -> OllamaDocumentEmbedder:
        return OllamaDocumentEmbedder(model, url=url, progress_bar=False)

    documents = [Document(content=text) for text in TEXTS]
    check([one.embedding for one in client(MODEL).run(documents)["documents"]])
    check([OllamaTextEmbedder(MODEL, url=url).run(text)["embedding"] for text in TEXTS])


def test_haystack_openai(url: str, check: Check) -> None:
    key = Secret.from_token(KEY)
    client = OpenAIDocumentEmbedder(
        model=MODEL, api_base_url=f"{url}/v1", api_key=key, progress_bar=False, max_retries=0
    )
    documents = client.run([Document(content=text) for text in TEXTS])["documents"]
    check([one.embedding for one in documents])
    one = OpenAITextEmbedder(model=MODEL, api_base_url=f"{url}/v1", api_key=key)
    check([one.run(text)["embedding"] for text in TEXTS])


@pytest.mark.parametrize(
    ("provider", "path"), [("openai", "/v1"), ("ollama", ""), ("cohere", "/v1/embed")]
)
def test_litellm(provider: str, path: str, url: str, check: Check) -> None:
    asked = {"api_base": url + path, "api_key": KEY}
    reply = litellm.embedding(f"{provider}/{MODEL}", TEXTS, **asked)
    check([one["embedding"] for one in reply.data])
    with pytest.raises(litellm.NotFoundError, match="not found"):
        litellm.embedding(f"{provider}/nope", ["x"], **asked)


@needs_node
def test_javascript(url: str, check: Check) -> None:
    printed = run_node("clients.mjs", url, MODEL, *TEXTS)
    check(printed["vectors"]["ollama"])
    check(printed["vectors"]["openai"])
    assert printed["refusals"] == {"ollama": 404, "openai": 404}


@needs_node
def test_javascript_manages_models(url: str) -> None:
    printed = run_node("manage.mjs", url, MODEL)
    assert printed["last"] == "success"
    assert printed["family"] == "bert"
    assert f"{MODEL}:latest" in printed["running"]
    assert printed["created"]["status"] == "success"
    assert {"js-copy:latest", "js-made:latest"} <= set(printed["after"])
    assert printed["parameters"].split() == ["num_ctx", "16"]
    assert printed["refused"] == 404
    assert not [name for name in printed["left"] if name.startswith("js-")]
