"""From a name to what to load: pooling, limits, refusals, and what is remembered."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from embedd import resolve
from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.errors import (
    InvalidInputError,
    InvalidModelNameError,
    ModelLoadError,
    ModelNotFoundError,
    NotAnImageModelError,
    WrongModelError,
)
from embedd.gguf.header import GgufFacts, TensorFacts, read_header_file
from embedd.images import ImageFamily, ImagePart
from embedd.names import parse_model_name
from embedd.ollama_api import Details
from embedd.options import Options
from embedd.resolve import (
    Parameters,
    ResolvedModel,
    Resolver,
    choose_pooling,
    parse_parameters,
)
from embedd.store.blobs import hash_file
from embedd.store.store import Store
from embedd.types import Pooling
from tests.families import FAMILIES
from tests.families.hybrid import OUT
from tests.image_files import klein_in_one_file, write_gguf, write_klein
from tests.tiny_models import write_tiny_bert, write_tiny_decoder
from tests.unit.stored import store_image_model, store_model


@dataclass(frozen=True, slots=True)
class Models:
    """A store, a folder for GGUF files, and a resolver."""

    root: Path
    store: Store
    resolver: Resolver

    def bert(self, **changes: object) -> Path:
        return write_tiny_bert(self.root / "bert.gguf", **changes)  # type: ignore[arg-type]  # a method is replaced, arguments are passed on

    def add(
        self, name: str, path: Path, parameters: Mapping[str, object] | bytes | None = None
    ) -> None:
        store_model(self.store, name, path, parameters)


@pytest.fixture
def models(tmp_path: Path) -> Models:
    store = Store(tmp_path / "models")
    return Models(tmp_path, store, Resolver(store))


def make_facts(architecture: str = "bert", pooling: int | None = None, *tensors: str) -> GgufFacts:
    metadata: dict[str, str | int | float | bool] = {"general.architecture": architecture}
    if pooling is not None:
        metadata[f"{architecture}.pooling_type"] = pooling
    return GgufFacts(
        version=3,
        metadata=metadata,
        arrays={},
        array_types={},
        tensors=tuple(TensorFacts(name=name, shape=(1,), type="F32") for name in tensors),
    )


@pytest.mark.parametrize(
    ("parameter", "facts", "pooling"),
    [
        (None, make_facts("bert", 1), Pooling.MEAN),
        (None, make_facts("bert", 2), Pooling.CLS),
        (None, make_facts("qwen3", 3), Pooling.LAST),
        (None, make_facts("bert", 4), Pooling.RANK),
        (None, make_facts("bert", 0), Pooling.MEAN),
        (None, make_facts("bert"), Pooling.MEAN),
        (None, make_facts("gemma-embedding"), Pooling.MEAN),
        (None, make_facts("bert", None, "cls.weight"), Pooling.RANK),
        (None, make_facts("qwen3"), None),
        (None, make_facts("qwen3", 0), None),
        (Pooling.LAST, make_facts("qwen3"), Pooling.LAST),
        (Pooling.CLS, make_facts("bert", 1), Pooling.CLS),
        (Pooling.MEAN, make_facts("bert", 4), Pooling.MEAN),
        (Pooling.RANK, make_facts("bert", 1), Pooling.RANK),
    ],
)
def test_pooling_is_the_parameters_then_the_files_then_the_architectures(
    parameter: Pooling | None, facts: GgufFacts, pooling: Pooling | None
) -> None:
    assert choose_pooling(parameter, facts) is pooling


def test_a_name_becomes_what_to_load(models: Models) -> None:
    path = models.bert(context=64, width=32, pooling="cls")
    prompts = {"query_prefix": "q: ", "document_prefix": "d: "}
    models.add("Tiny:q8_0", path, {"num_ctx": 16, **prompts, "stop": ["x"]})
    model = models.resolver.resolve("tiny:Q8_0")
    stored = models.store.manifests.read(parse_model_name("tiny:q8_0"))
    assert stored is not None
    assert model.name == parse_model_name("Tiny:q8_0")
    assert (model.manifest_digest, model.modified_at) == (stored.digest, stored.modified_at)
    assert model.size == stored.manifest.size
    assert model.spec.name == "Tiny:q8_0"
    assert model.spec.digest == hash_file(path)
    assert model.spec.path.read_bytes() == path.read_bytes()
    assert model.spec.weights == path.stat().st_size
    assert (model.spec.pooling, model.spec.context_length) == (Pooling.CLS, 64)
    assert (model.spec.width, model.spec.vocabulary) == (32, model.facts.vocabulary_size)
    assert model.parameters == Parameters(
        options=Options(num_ctx=16),
        query_prefix="q: ",
        document_prefix="d: ",
        raw={"num_ctx": 16, **prompts, "stop": ["x"]},
    )
    assert model.normalizes_legacy
    assert model.details == Details(
        format="gguf",
        family="bert",
        families=["bert"],
        parameter_size=model.facts.parameter_size,
        quantization_level="F32",
        context_length=64,
        embedding_length=32,
    )


@pytest.mark.parametrize(
    ("kind", "pooling", "parameters", "capabilities"),
    [
        ("bert", "mean", None, ("embedding",)),
        ("bert", None, None, ("embedding",)),
        ("bert", "rank", None, ("rerank",)),
        ("decoder", None, None, ("completion",)),
        ("decoder", "none", None, ("completion",)),
        ("decoder", "last", None, ("embedding",)),
        ("decoder", None, {"pooling": "last"}, ("embedding",)),
        ("bert", "mean", {"pooling": "rank"}, ("rerank",)),
    ],
)
def test_a_model_embeds_if_file_parameters_or_architecture_name_a_pooling(
    models: Models,
    kind: str,
    pooling: str | None,
    parameters: Mapping[str, object] | None,
    capabilities: tuple[str, ...],
) -> None:
    path = models.root / "m.gguf"
    if kind == "bert":
        write_tiny_bert(path, pooling=pooling, head=["score"] if "rerank" in capabilities else None)
    else:
        write_tiny_decoder(path, pooling=pooling)
    models.add("m", path, parameters)
    model = models.resolver.resolve("m")
    assert model.capabilities == capabilities
    assert model.supports_embedding == ("embedding" in capabilities)
    assert model.is_reranker == ("rerank" in capabilities)


@pytest.mark.parametrize(
    ("pooling", "parameters", "warned"),
    [(None, None, True), ("cls", None, False), (None, {"pooling": "cls"}, False)],
)
def test_a_guessed_pooling_gives_one_warning(
    models: Models,
    caplog: pytest.LogCaptureFixture,
    pooling: str | None,
    parameters: Mapping[str, object] | None,
    warned: bool,
) -> None:
    models.add("m", models.bert(pooling=pooling), parameters)
    with caplog.at_level(logging.WARNING, "embedd.resolve"):
        models.resolver.resolve("m")
        models.resolver.resolve("m")
    assert len(caplog.records) == int(warned)


@pytest.mark.parametrize(
    ("family", "pooling", "message"),
    [
        ("gemma-embedding", None, None),
        ("gemma-embedding, without dense layers", None, "lacks the dense layers"),
        ("llama-embed", None, None),
        ("qwen3", Pooling.LAST, None),
        ("qwen3, silent", Pooling.LAST, "tokenizer.ggml.add_eos_token"),
        ("qwen3, silent", Pooling.MEAN, None),
    ],
)
def test_what_a_decoder_lacks_gives_one_warning(
    models: Models,
    caplog: pytest.LogCaptureFixture,
    family: str,
    pooling: Pooling | None,
    message: str | None,
) -> None:
    name, silent, _ = family.partition(", silent")
    path = FAMILIES[name].write(models.root / "m.gguf", pooling)
    if silent:  # another key has the value, so that the file does not say
        data = path.read_bytes()
        path.write_bytes(data.replace(b"ggml.add_eos_token", b"ggml.add_odd_token"))
    models.add("m", path)
    with caplog.at_level(logging.WARNING, "embedd.resolve"):
        models.resolver.resolve("m")
        models.resolver.resolve("m")
    lines = [record.message for record in caplog.records]
    assert len(lines) == (message is not None)
    assert all(message in line for line in lines if message)


def test_a_vector_is_as_wide_as_its_last_layer(models: Models) -> None:
    models.add("m", FAMILIES["lfm2, dense layer"].write(models.root / "m.gguf", Pooling.MEAN))
    model = models.resolver.resolve("m")
    assert model.spec.width == OUT
    assert model.facts.embedding_length != OUT


@pytest.mark.parametrize(
    ("parameter", "option", "default", "limit"),
    [
        (None, None, 0, 64),
        (None, None, 32, 32),
        (None, None, 4096, 64),
        (16, None, 32, 16),
        (16, 24, 32, 24),
        (16, 100, 32, 64),
        (100, None, 0, 64),
        (16, 0, 32, 0),
        (16, -7, 32, -7),
        (0, None, 32, 0),
        (None, 1, 0, 1),
    ],
)
def test_the_limit_is_the_first_num_ctx_set_but_never_above_the_trained_context(
    models: Models, parameter: int | None, option: int | None, default: int, limit: int
) -> None:
    models.add("m", models.bert(context=64), {"num_ctx": parameter})
    model = models.resolver.resolve("m")
    assert model.limit(Options(num_ctx=option), default) == limit


def test_options_of_the_request_decide_how_it_is_loaded(models: Models) -> None:
    models.add("m", models.bert(), {"num_thread": 3, "num_gpu": 5, "use_mmap": False})
    model = models.resolver.resolve("m")
    spec = model.spec
    assert (spec.gpu_layers, spec.main_gpu, spec.threads, spec.use_mmap) == (5, None, 3, False)
    changed = model.spec_for(Options(num_gpu=-1, main_gpu=1, num_thread=0, use_mmap=True))
    assert changed.gpu_layers is None
    assert (changed.main_gpu, changed.threads, changed.use_mmap) == (1, None, True)
    assert model.spec_for(Options(num_gpu=0)).gpu_layers == 0
    assert model.spec_for(Options()) == spec


@pytest.mark.parametrize("text", ["nope", "m:other", "hf.co/u/m"])
def test_a_missing_model_is_named_as_it_was_sent(models: Models, text: str) -> None:
    models.add("m", models.bert())
    with pytest.raises(ModelNotFoundError) as caught:
        models.resolver.resolve(text)
    assert str(caught.value) == f'model "{text}" not found, try pulling it first'


def test_an_invalid_name_is_refused(models: Models) -> None:
    with pytest.raises(InvalidModelNameError):
        models.resolver.resolve("bad name!")


def write_foreign(path: Path, kind: str) -> Path:
    writer = gguf.GGUFWriter(path, "gemma3" if kind == "gemma" else "bert")
    if kind != "no context":
        writer.add_context_length(8192)
    if kind == "rank":
        writer.add_pooling_type(gguf.PoolingType.RANK)
    if kind == "arctic":
        writer.add_array("tokenizer.ggml.precompiled_charsmap", ["A", "B"])
    tensor = "dense.0.weight" if kind == "gemma" else "w"
    writer.add_tensor(tensor, np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gemma", "dense.0.weight.*pull it again"),
        ("arctic", "precompiled_charsmap.*pull it again"),
        ("no context", r"no bert\.context_length"),
        ("rank", "no score head"),
    ],
)
def test_a_model_that_llama_cpp_must_not_load_is_refused_but_described(
    models: Models, kind: str, message: str
) -> None:
    models.add("m", write_foreign(models.root / "m.gguf", kind))
    for _ in range(2):
        with pytest.raises(ModelLoadError, match=rf'model "M" cannot be loaded: .*{message}'):
            models.resolver.resolve("M")
    stored = models.store.manifests.read(parse_model_name("m"))
    assert stored is not None
    described = models.resolver.describe(stored)
    assert isinstance(described, ResolvedModel)
    assert described.refusal


def test_a_model_without_a_gguf_cannot_be_loaded(models: Models) -> None:
    store_model(models.store, "m", None)
    with pytest.raises(ModelLoadError, match='model "m:latest" has no GGUF'):
        models.resolver.resolve("m")


def test_a_file_that_is_not_a_gguf_cannot_be_loaded(models: Models) -> None:
    path = models.root / "zip.gguf"
    path.write_bytes(b"PK\x03\x04" * 10)
    models.add("m", path)
    with pytest.raises(ModelLoadError, match="not a GGUF"):
        models.resolver.resolve("m")


@pytest.mark.parametrize(
    "parameters",
    [b"{", b"[]", {"num_ctx": "x"}, {"pooling": "max"}, {"pooling": 1}, {"pooling": "none"},
     {"engine": "torch"}, {"engine": 1}, {"precision": "f16"}, {"tokenizer": "model"},
     {"query_prefix": 5}, {"prompts": ["a"]}, {"prompts": {"a": 1}}, {"matryoshka": [0]},
     {"matryoshka": 64}, {"int8_range": 0}, {"int8_range": "wide"}],
)  # fmt: skip
def test_wrong_parameters_are_the_operators_fault_not_the_clients(
    models: Models, parameters: Mapping[str, object] | bytes
) -> None:
    models.add("m", models.bert(), parameters)
    with pytest.raises(ModelLoadError, match='the parameters of model "m:latest" are wrong'):
        models.resolver.resolve("m")


@pytest.mark.parametrize("name", ["pooling", "engine", "precision", "tokenizer"])
def test_an_empty_word_is_as_no_parameter(name: str) -> None:
    """A model that an earlier version created with one is still served."""
    assert parse_parameters({name: ""}) == replace(parse_parameters({}), raw={name: ""})


def test_parameters_name_lengths_prompts_and_the_range_for_int8() -> None:
    raw = {"prompts": {"clustering": "c: "}, "matryoshka": [64, 128], "int8_range": 0.25}
    parameters = parse_parameters(raw)
    assert parameters.prompts == {"clustering": "c: "}
    assert parameters.matryoshka == (64, 128)
    assert parameters.int8_range == 0.25


def test_engine_precision_and_tokenizer_of_a_model_are_part_of_what_is_loaded(
    models: Models,
) -> None:
    path = models.bert()
    models.add("plain", path)
    models.add("exact", path, {"engine": "openvino", "precision": "f32", "tokenizer": "llama"})
    plain, exact = (models.resolver.resolve(name).spec for name in ("plain", "exact"))
    assert (plain.engine, plain.precision, plain.tokenizer) == (None, None, None)
    assert (exact.engine, exact.precision) == (EngineChoice.OPENVINO, Precision.F32)
    assert exact.tokenizer is TokenizerChoice.LLAMA
    for field in ("engine", "precision", "tokenizer"):
        changed = replace(plain, **{field: getattr(exact, field)})
        assert changed.key != plain.key, "models that differ in one are loaded apart"


def test_parameters_of_null_are_absent() -> None:
    raw = {"num_ctx": None, "pooling": None, "query_prefix": None}
    assert parse_parameters(raw) == Parameters(raw=raw)
    with pytest.raises(InvalidInputError, match="mean, cls, last, rank"):
        parse_parameters({"pooling": "none"})


def test_a_name_asked_for_again_is_remembered_until_its_manifest_changes(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def count(path: Path) -> GgufFacts:
        reads.append(path)
        return read_header_file(path)

    monkeypatch.setattr(resolve, "read_header_file", count)
    path = models.bert()
    models.add("m", path)
    first = models.resolver.resolve("m")
    assert models.resolver.resolve("m") is first
    assert models.resolver.resolve("M").spec == first.spec
    assert len(reads) == 1

    models.add("m", path, {"num_ctx": 5})
    assert models.resolver.resolve("m").limit(Options()) == 5
    assert len(reads) == 1  # the GGUF is the same
    models.add("m", models.bert(seed=1), {"num_ctx": 5})
    assert models.resolver.resolve("m").spec.digest != first.spec.digest
    assert len(reads) == 2

    models.store.delete(parse_model_name("m"))
    with pytest.raises(ModelNotFoundError):
        models.resolver.resolve("m")


def test_the_memory_of_names_that_clients_send_is_bounded(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolve, "_MAX_REMEMBERED", 3)
    models.add("name", models.bert())
    for text in ("name", "Name", "nAme", "naMe", "namE"):
        models.resolver.resolve(text)
    assert len(models.resolver._by_text) <= 3


def test_a_manifest_that_vanishes_while_it_is_read_is_not_found(models: Models) -> None:
    models.add("m", models.bert())
    manifests = models.store.manifests
    find = manifests.find

    def find_and_lose(name: object) -> object:
        found = find(name)  # type: ignore[arg-type]  # a method is replaced, arguments are passed on
        models.store.layout.manifest(parse_model_name("m")).unlink(missing_ok=True)
        return found

    manifests.find = find_and_lose  # type: ignore[method-assign, assignment]  # a method is replaced, arguments are passed on
    with pytest.raises(ModelNotFoundError):
        models.resolver.resolve("m")


def test_a_resolved_model_is_a_value(models: Models) -> None:
    models.add("m", models.bert())
    model = models.resolver.resolve("m")
    assert isinstance(model, ResolvedModel)
    assert model == Resolver(models.store).resolve("m")


@pytest.mark.parametrize("architecture", ["", "flux"])
def test_an_image_model_is_recognised_without_an_architecture_that_llama_cpp_knows(
    models: Models, architecture: str
) -> None:
    path = write_gguf(models.root / "a", klein_in_one_file(), architecture=architecture)
    for name, part in (("named", "model"), ("unnamed", "")):
        store_image_model(models.store, name, {part: path})
        model = models.resolver.resolve_image(name)
        assert model.spec.family is ImageFamily.FLUX2_KLEIN
        assert [*model.spec.parts] == [ImagePart.MODEL]


def test_a_model_that_paints_does_not_embed_and_the_other_way_round(models: Models) -> None:
    models.add("reader", write_tiny_bert(models.root / "reader.gguf"))
    store_image_model(models.store, "sd", write_klein(models.root / "klein"))
    with pytest.raises(WrongModelError, match=r'^"SD" makes images, not embeddings$'):
        models.resolver.resolve("SD")
    with pytest.raises(NotAnImageModelError, match=r'^"reader" does not make images$'):
        models.resolver.resolve_image("reader")
    assert models.resolver.find("sd").spec.key != models.resolver.find("reader").spec.key


def test_a_manifest_whose_files_do_not_belong_together_cannot_be_loaded(models: Models) -> None:
    paths = write_klein(models.root / "klein")
    store_image_model(models.store, "half", {"diffusion": paths["diffusion"], "llm": paths["llm"]})
    with pytest.raises(ModelLoadError, match=r"do not belong together: .*without vae"):
        models.resolver.resolve_image("half")
    store_image_model(models.store, "headless", {"llm": paths["llm"], "vae": paths["vae"]})
    with pytest.raises(ModelLoadError, match="names no diffusion model"):
        models.resolver.resolve_image("headless")
    store_image_model(models.store, "text", {"model": paths["llm"]})
    with pytest.raises(ModelLoadError, match="the file is not an image model"):
        models.resolver.resolve_image("text")
    store_image_model(models.store, "vae", {"": paths["vae"]})
    with pytest.raises(ModelLoadError, match="not a GGUF"):
        models.resolver.resolve_image("vae")


def test_wrong_parameters_of_an_image_model_are_the_operators_fault(models: Models) -> None:
    paths = write_klein(models.root / "klein")
    store_image_model(models.store, "sd", paths, {"steps": "many"})
    with pytest.raises(ModelLoadError, match="steps"):
        models.resolver.resolve_image("sd")
