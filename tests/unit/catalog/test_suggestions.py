"""Names that are proposed for one that does not exist."""

import pytest

from embedd.catalog.catalog import read_catalog
from embedd.catalog.suggestions import WAYS, Suggestions
from embedd.errors import StoreError

CATALOG = read_catalog()


def suggest(*stored: str) -> Suggestions:
    return Suggestions(CATALOG, lambda: stored)


@pytest.mark.parametrize(
    ("text", "proposal"),
    [
        ("bge-reranker", "did you mean bge-reranker-v2-m3?"),
        (
            "BAAI/bge-small-en-v1.5",
            "did you mean bge-small-en-v1.5 or hf.co/BAAI/bge-small-en-v1.5?",
        ),
        ("bge-m4", "did you mean bge-m3?"),
        ("BGE-M33", "did you mean bge-m3?"),
        ("acme/nothing-like-it", "did you mean hf.co/acme/nothing-like-it?"),
        ("xyzzy", WAYS),
        ("all-minilm:q9_9", "the tags of all-minilm are latest"),
        ("hf.co/u/nothing", "it is misspelt, or private"),
        ("x" * 5000, WAYS),
    ],
)
def test_a_name_without_a_source_is_named_with_what_may_be_meant(text: str, proposal: str) -> None:
    found = suggest().for_pull(text)
    assert f'"{text}"' in found
    assert proposal in found


@pytest.mark.parametrize(
    ("text", "stored", "proposal"),
    [
        ("all-minlm", ["all-minilm:latest"], "did you mean all-minilm?"),
        ("all-minilm:f33", ["all-minilm:q8_0"], "did you mean all-minilm:q8_0?"),
        ("mine", ["mine-2:latest", "mine-1:latest"], "did you mean mine-1 or mine-2?"),
        ("all-minilm", [], "run `embedd pull all-minilm`"),
        ("bge-reranker", [], "did you mean bge-reranker-v2-m3, after `embedd pull`?"),
        ("xyzzy", ["all-minilm:latest"], ""),
        ("", ["all-minilm:latest"], ""),
        ("///:::", ["all-minilm:latest"], ""),
    ],
)
def test_stored_models_are_proposed_before_those_to_pull(
    text: str, stored: list[str], proposal: str
) -> None:
    assert suggest(*stored).for_use(text) == proposal


def test_a_store_that_cannot_be_read_proposes_nothing() -> None:
    def fail() -> list[str]:
        raise StoreError("no")

    assert Suggestions(CATALOG, fail).for_use("xyzzy") == ""
