"""Clients as they come: defaults, base URLs and headers that other servers were made for."""

from collections.abc import Callable

import openai
import pytest
import tiktoken
from conftest import KEY, MODEL, TEXTS
from langchain_openai import AzureOpenAIEmbeddings, OpenAIEmbeddings
from node import needs_node, run_node

Check = Callable[[object], None]


@pytest.fixture
def _vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vocabulary of OpenAI's kind that needs no network: a token for each byte."""
    encoding = tiktoken.Encoding(
        "bytes",
        pat_str=r"\S+|\s+",
        mergeable_ranks={bytes([byte]): byte for byte in range(256)},
        special_tokens={},
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda _: encoding)
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: encoding)


@pytest.mark.usefixtures("_vocabulary")
def test_langchains_default_sends_foreign_ids_and_gets_the_remedy(url: str, check: Check) -> None:
    asked = {"model": MODEL, "base_url": f"{url}/v1", "api_key": KEY}
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
        OpenAIEmbeddings(**asked).embed_documents(TEXTS)
    assert "EMBEDD_TOKEN_IDS" in str(caught.value)
    check(OpenAIEmbeddings(**asked, check_embedding_ctx_length=False).embed_documents(TEXTS))


def test_azure_openai(url: str, strict_url: str, check: Check) -> None:
    asked = {"api_key": KEY, "api_version": "2024-10-21"}
    client = openai.AzureOpenAI(azure_endpoint=url, **asked)
    check([one.embedding for one in client.embeddings.create(model=MODEL, input=TEXTS).data])
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.embeddings.create(model="nope", input="x")
    wrong = openai.AzureOpenAI(azure_endpoint=strict_url, **{**asked, "api_key": "no"})
    with pytest.raises(openai.AuthenticationError):
        wrong.embeddings.create(model=MODEL, input="x")
    locked = openai.AzureOpenAI(azure_endpoint=strict_url, **asked, max_retries=0)
    with pytest.raises(openai.NotFoundError):
        locked.embeddings.create(model="nope", input="x")


def test_langchains_azure_client(url: str, check: Check) -> None:
    client = AzureOpenAIEmbeddings(
        azure_endpoint=url,
        azure_deployment=MODEL,
        api_key=KEY,
        api_version="2024-10-21",
        check_embedding_ctx_length=False,
    )
    check(client.embed_documents(TEXTS))


@pytest.mark.parametrize("base", ["/v1", "/v1/", "//v1", "/openai/v1"])
def test_base_urls_with_slashes(base: str, url: str, check: Check) -> None:
    client = openai.OpenAI(base_url=url + base, api_key=KEY)
    check([one.embedding for one in client.embeddings.create(model=MODEL, input=TEXTS).data])


@needs_node
def test_the_ai_sdks_ollama_provider_on_the_bare_host(url: str, check: Check) -> None:
    printed = run_node("aisdk.mjs", url, MODEL, *TEXTS)
    check(printed["vectors"])
    assert printed["refusal"] == 404
