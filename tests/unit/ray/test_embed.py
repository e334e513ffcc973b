"""The class for pipelines of Ray Data, in a process that Ray has not started."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from embedd.config import SETTINGS
from embedd.engine import loader
from embedd.engine.fake import FAKE_BACKENDS
from embedd.errors import ExtraMissingError, InvalidInputError, ServiceError, UnavailableError
from embedd.ray import Embed
from embedd.ray import embed as module
from embedd.store.store import Store
from tests.needs import require_arrow
from tests.tiny_models import write_tiny_bert
from tests.unit.cli.fake_server import FakeServer, in_background
from tests.unit.stored import store_model

require_arrow()

import pyarrow as pa  # noqa: E402 - where it is not installed the module ends before

Make = Callable[..., Embed]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for setting in SETTINGS:
        monkeypatch.delenv(f"EMBEDD_{setting.name}", raising=False)
    with in_background(FakeServer()) as opened:
        yield opened


@pytest.fixture
def make(server: FakeServer) -> Iterator[Make]:
    """Makes instances that ask the server; they are closed at the end of the test."""
    made: list[Embed] = []

    def make_embed(**options: Any) -> Embed:
        made.append(Embed("all-minilm", url=server.url, **options))
        return made[-1]

    yield make_embed
    for one in made:
        one.close()


def numbers(table: Any, name: str = "embedding") -> list[Any]:
    found: list[Any] = table[name].to_pylist()
    return found


def test_a_batch_gets_a_column_of_vectors(make: Make) -> None:
    table = make()(pa.table({"id": [1, 2, 3], "text": ["a", "bbb", "a"]}))
    assert table.column_names == ["id", "text", "embedding"]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    vectors = numbers(table)
    assert [vector[0] for vector in vectors] == [1.0, 3.0, 1.0]  # lengths of the texts
    assert vectors[0] == vectors[2]


def test_columns_have_the_names_that_are_asked_for(make: Make) -> None:
    table = make(text="body", output="vector")(pa.table({"body": ["a"], "vector": [0]}))
    assert table.column_names == ["body", "vector"]
    assert numbers(table, "vector")[0][0] == 1.0


def test_a_null_has_no_vector(make: Make) -> None:
    table = make()(pa.table({"text": pa.array(["a", None, "bb"])}))
    vectors = numbers(table)
    assert vectors[1] is None
    assert [vectors[0][0], vectors[2][0]] == [1.0, 2.0]


def test_a_batch_without_texts_has_no_vectors(make: Make) -> None:
    embed = make()
    assert numbers(embed(pa.table({"text": pa.array([], pa.string())}))) == []
    assert numbers(embed(pa.table({"text": pa.array([None], pa.string())}))) == [None]


def test_a_batch_of_another_format_is_refused(make: Make) -> None:
    with pytest.raises(InvalidInputError, match='batch_format="pyarrow"'):
        make()({"text": np.array(["a"])})


def test_a_batch_without_the_column_is_refused_with_those_that_it_has(make: Make) -> None:
    with pytest.raises(InvalidInputError, match="its columns are a, b"):
        make()(pa.table({"a": [1], "b": [2]}))


def test_a_text_without_a_vector_is_an_error_that_names_its_row(
    make: Make, server: FakeServer
) -> None:
    embed = make()
    refusal = web.json_response({"error": {"message": "the text is bad"}}, status=400)
    server.refusals["/v1/embeddings"] = refusal
    with pytest.raises(ServiceError, match="row 2 of the batch: the text is bad"):
        embed(pa.table({"text": pa.array([None, None, "bad"])}))


def test_a_server_that_fails_is_an_error_in_its_words(make: Make, server: FakeServer) -> None:
    embed = make()
    server.refusals["/v1/embeddings"] = web.json_response({"error": "out of order"}, status=500)
    with pytest.raises(ServiceError, match="out of order"):
        embed(pa.table({"text": ["a"]}))


def test_several_servers_share_the_work(server: FakeServer) -> None:
    embed = Embed("all-minilm", url=[server.url, server.url])
    assert len(numbers(embed(pa.table({"text": ["a"]})))) == 1
    embed.close()


def test_without_a_server_the_process_computes(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "LLAMA_BACKENDS", FAKE_BACKENDS)
    monkeypatch.setenv("EMBEDD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EMBEDD_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("EMBEDD_ENGINE", "llama")
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    store_model(
        Store(tmp_path / "models"), "tiny", write_tiny_bert(tmp_path / "tiny.gguf", context=512)
    )
    embed = Embed("tiny", dtype="float16", dimensions=4)
    table = embed(pa.table({"text": ["a", "b"]}))
    embed.close()
    assert table.schema.field("embedding").type == pa.list_(pa.float16(), 4)
    assert not server.asked


def test_a_server_that_does_not_answer_is_an_error(server: FakeServer) -> None:
    with pytest.raises(UnavailableError):
        Embed("all-minilm", url="http://127.0.0.1:1")
    assert not server.asked


def test_without_arrow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_arrow", lambda: False)
    with pytest.raises(ExtraMissingError, match=r"embedd-server\[ray\]"):
        Embed("all-minilm")
