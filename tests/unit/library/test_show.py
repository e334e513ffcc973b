"""The reply of show: texts, parameters, metadata."""

from pathlib import Path

from msgspec import UNSET

from embedd.catalog.catalog import Catalog
from embedd.library import Library
from embedd.library.show import SYSTEM, TEMPLATE, format_parameters
from embedd.modelfile import parse_modelfile
from embedd.resolve import Resolver
from embedd.store.manifests import LICENSE, make_layer
from tests.tiny_models import TINY_VOCABULARY
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


def test_arrays_are_shown_when_asked_for(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf())
    key = "tokenizer.ggml.tokens"
    assert workshop.library.show("a").model_info[key] is None
    tokens = workshop.library.show("a", verbose=True).model_info[key]
    assert isinstance(tokens, list)
    assert len(tokens) == len(TINY_VOCABULARY)


def test_a_tokenizer_that_is_known_is_named(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf())
    library = Library(
        workshop.store,
        Resolver(workshop.store),
        Catalog([]),
        find_tokenizer=lambda spec: "model" if spec.name == "a:latest" else None,
    )
    assert library.show("a").tokenizer == "model"
    assert workshop.library.show("a").tokenizer is UNSET
