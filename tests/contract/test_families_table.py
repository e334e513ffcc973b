"""The tables of families in docs/models.md are those of the records that the tests run on."""

from pathlib import Path

import pytest

from embedd.engine.backends import LLAMA_BACKENDS
from embedd.errors import ModelLoadError
from embedd.library.architectures import ARCHITECTURES
from embedd.types import Pooling
from tests.contract.conftest import find_engine, make_spec
from tests.families import FAMILIES, table, vocabularies
from tests.families.family import write_gguf


def test_the_tables_in_the_document_are_those_of_the_records() -> None:
    text = table.DOCUMENT.read_text()
    assert table.replace_tables(text) == text, "run: python -m tests.families.table"


def test_every_family_is_of_an_architecture_that_can_be_pulled() -> None:
    assert {family.architecture for family in FAMILIES.values()} <= ARCHITECTURES


@pytest.mark.parametrize("architecture", table.UNKNOWN_ARCHITECTURES)
def test_what_is_not_served_is_refused_by_name(architecture: str, tmp_path: Path) -> None:
    path = write_gguf(
        tmp_path / "tiny.gguf",
        architecture,
        keys={"block_count": 1, "context_length": 64, "embedding_length": 8},
        pooling=Pooling.MEAN,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors={},
    )
    with pytest.raises(ModelLoadError, match=f"unknown model architecture: '{architecture}'"):
        find_engine("llama").load(make_spec(path, Pooling.MEAN), LLAMA_BACKENDS[0], threads=1)
    assert architecture not in ARCHITECTURES
