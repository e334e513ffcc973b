"""What is shown of a model: texts, metadata, arrays."""

import struct
from pathlib import Path

import gguf
import pytest

from embedd.errors import ModelLoadError
from embedd.gguf.arrays import read_arrays
from embedd.library.show import SYSTEM, TEMPLATE, format_parameters
from embedd.modelfile import parse_modelfile
from embedd.store.manifests import LICENSE, make_layer
from tests.tiny_models import TINY_VOCABULARY, write_tiny_decoder
from tests.unit.library.conftest import Workshop
from tests.unit.stored import store_model


def test_parameters_are_a_line_each_and_texts_are_quoted() -> None:
    given = {"num_ctx": 256, "use_mmap": False, "stop": ["a", 'b"'], "query_prefix": "für: "}
    assert format_parameters(given).splitlines() == [
        "num_ctx                        256",
        "use_mmap                       false",
        'stop                           "a"',
        'stop                           "b\\""',
        'query_prefix                   "für: "',
    ]


def test_the_modelfile_makes_the_model_again(workshop: Workshop) -> None:
    parameters = {"num_ctx": 9, "pooling": "cls", "query_prefix": "q: "}
    workshop.create("a", workshop.gguf(), parameters=parameters, licenses=["MIT", "two\nlines"])
    parsed = parse_modelfile(workshop.library.show("a").modelfile)
    assert parsed.warnings == ()
    workshop.create(
        "b", Path(parsed.source), parameters=parsed.parameters, licenses=parsed.licenses
    )
    first, second = workshop.library.list()
    assert first.digest == second.digest


def test_texts_of_foreign_layers_are_shown(workshop: Workshop) -> None:
    stored = store_model(workshop.store, "a", workshop.gguf(), b"not JSON")
    with workshop.store.open_for_change():
        for kind, text in ((SYSTEM, b"be nice"), (TEMPLATE, b"{{ .System }}"), (LICENSE, b"\xff")):
            layer = make_layer(kind, workshop.store.blobs.add_bytes(text))
            stored.manifest.layers.append(layer)
        gone = make_layer(LICENSE, workshop.store.blobs.add_bytes(b"gone"))
        stored.manifest.layers.append(gone)
        workshop.store.commit(stored.name, stored.manifest)
        workshop.store.blobs.remove(gone.digest)
    texts = workshop.library.show("a")
    assert (texts.system, texts.template, texts.license) == ("be nice", "{{ .System }}", "\ufffd")
    assert not texts.parameters


def test_a_model_without_weights_is_shown_all_the_same(workshop: Workshop) -> None:
    store_model(workshop.store, "a", None)
    shown = workshop.library.show("a")
    assert (shown.model_info, shown.tensors) == ({}, [])
    assert shown.modelfile.splitlines()[4] == 'FROM ""'


def test_the_first_length_in_the_metadata_is_the_models_own(workshop: Workshop) -> None:
    path = workshop.gguf()
    data = path.read_bytes()
    key = b"bert.context_length"
    assert data.count(key) == 1
    # A key of the same length that comes first in the file.
    data = data.replace(b"bert.block_count", b"a.context_length", 1)
    path.write_bytes(data)
    workshop.create("a", path)
    info = workshop.library.show("a").model_info
    assert next(key for key in info if "context_length" in key) == "bert.context_length"
    assert info["general.parameter_count"] == sum(
        tensor.shape[0] * (tensor.shape[1] if len(tensor.shape) > 1 else 1)
        for tensor in workshop.library.show("a").tensors
    )


def test_arrays_are_those_of_the_file(workshop: Workshop) -> None:
    path = write_tiny_decoder(workshop.root / "llm.gguf")
    arrays = read_arrays(path)
    reader = gguf.GGUFReader(path)
    for key, value in arrays.items():
        assert value == reader.fields[key].contents()
    assert "tokenizer.ggml.merges" in arrays
    assert len(read_arrays(workshop.gguf())["tokenizer.ggml.tokens"]) == len(TINY_VOCABULARY)


def test_arrays_of_another_file_are_an_error(workshop: Workshop) -> None:
    path = workshop.gguf()
    data = path.read_bytes()
    path.write_bytes(data[:200])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_arrays(path)
    at = data.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens") + 8
    path.write_bytes(data[:at] + struct.pack("<Q", 1 << 60) + data[at + 8 :])
    with pytest.raises(ModelLoadError, match="is beyond"):
        read_arrays(path)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        read_arrays(workshop.root / "nope")
