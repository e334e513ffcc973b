"""Resolution of a model's name to what to load: manifest, parameters, GGUF header."""

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET

from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.engine.image_spec import ImageModel
from embedd.engine.spec import ModelSpec
from embedd.errors import (
    InvalidInputError,
    ModelLoadError,
    ModelNotFoundError,
    NotAnImageModelError,
    WrongModelError,
)
from embedd.gguf.faults import find_fault, lacks_dense_layers
from embedd.gguf.header import GgufFacts, read_header_file
from embedd.images import ImagePart
from embedd.names import ModelName, parse_model_name
from embedd.ollama_api import Details
from embedd.options import Options, parse_options
from embedd.store.manifests import MODEL, PARAMS, ConfigBlob, Layer, StoredManifest
from embedd.store.store import Store
from embedd.stored_images import (
    ImageFiles,
    StoredImageModel,
    make_stored_image,
    parts_of_layers,
    read_image_files,
)
from embedd.types import Pooling

_log = logging.getLogger(__name__)

MAX_PARAMS_BYTES: Final = 1 << 20
# Names come from clients, in any letter case: the memory of them is bounded.
_MAX_REMEMBERED: Final = 1024

# Encoders that are always pooled by the mean; bge, mxbai and arctic are bert with cls.
ALWAYS_MEAN: Final = frozenset({"gemma-embedding", "llama-embed"})
ENDS_TEXTS: Final = "tokenizer.ggml.add_eos_token"
# Types of weights that are not quantised.
EXACT: Final = frozenset({"F32", "F16", "BF16"})

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
Range: TypeAlias = Annotated[float, msgspec.Meta(gt=0)]

_Value = TypeVar("_Value")
_Word = TypeVar("_Word", bound=StrEnum)

# Modification time, size and inode: a replaced manifest has another inode, one that was
# written in place another time.
_Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Parameters stored with a model, by a Modelfile or by the recipe at pull.

    Args:
        prompts: Name → text put before an input, besides the two prefixes.
        matryoshka: Lengths to which the model was trained to have its vectors cut.
        int8_range: The number that becomes 127 in int8; None uses each vector's largest.
        raw: All parameters as they are stored.
    """

    options: Options = field(default_factory=Options)
    pooling: Pooling | None = None
    engine: EngineChoice | None = None
    precision: Precision | None = None
    tokenizer: TokenizerChoice | None = None
    query_prefix: str = ""
    document_prefix: str = ""
    prompts: Mapping[str, str] = field(default_factory=dict)
    matryoshka: tuple[int, ...] = ()
    int8_range: float | None = None
    raw: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A stored model: what to load, and what is known before loading it.

    Args:
        manifest_digest: sha256 of the manifest, 64 hex digits.
        size: Bytes of all layers and the config.
        modified_at: Seconds since the epoch.
        refusal: Why the model cannot be loaded, if the header shows it.
    """

    name: ModelName
    spec: ModelSpec
    facts: GgufFacts
    parameters: Parameters
    supports_embedding: bool
    manifest_digest: str
    size: int
    modified_at: float
    refusal: str | None = None

    @property
    def is_reranker(self) -> bool:
        """Whether the model scores pairs of texts instead of embedding them."""
        return self.spec.pooling is Pooling.RANK

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do: Ollama's words, and ``rerank``."""
        if self.supports_embedding:
            return ("embedding",)
        return ("rerank",) if self.is_reranker else ("completion",)

    @property
    def details(self) -> Details:
        """Architecture, size and type, from the header of its GGUF."""
        facts = self.facts
        return Details(
            format="gguf",
            family=facts.architecture,
            families=[facts.architecture],
            parameter_size=facts.parameter_size,
            quantization_level=facts.quantization,
            context_length=UNSET if facts.context_length is None else facts.context_length,
            embedding_length=UNSET if facts.embedding_length is None else facts.embedding_length,
        )

    @property
    def normalizes_legacy(self) -> bool:
        """Whether Ollama's old route normalises this model's vectors."""
        return self.facts.normalizes_legacy

    def limit(self, options: Options, default_num_ctx: int = 0) -> int:
        """Return the limit of tokens in an input, special tokens included; may be 0 or less.

        It is the first that is set of: ``num_ctx`` of the request's *options*, of the model's
        parameters, *default_num_ctx* (0 is unset); and never more than the trained context.
        """
        num_ctx = options.over(self.parameters.options).num_ctx
        if num_ctx is None:
            num_ctx = default_num_ctx or self.spec.context_length
        return min(num_ctx, self.spec.context_length)

    def spec_for(self, options: Options) -> ModelSpec:
        """Return what to load for a request whose *options* go before the model's parameters."""
        if not options.affect_loading:
            return self.spec
        return _place(self.spec, options.over(self.parameters.options))


# What a stored model is: one that reads texts, or one that paints.
AnyModel: TypeAlias = ResolvedModel | StoredImageModel


class Resolver:
    """Finds models by name. A name that was resolved before costs one `stat` of its manifest.

    Safe to call from several threads: two that resolve a name find the same model.

    Args:
        suggest: Returns what may be meant by a name that is not in the store.
    """

    def __init__(self, store: Store, suggest: Callable[[str], str] = lambda _: "") -> None:
        self._store = store
        self._suggest = suggest
        self._by_text: dict[str, tuple[str, _Stamp, AnyModel]] = {}
        self._facts: dict[str, GgufFacts | ImageFiles] = {}

    def resolve(self, text: str) -> ResolvedModel:
        """Return the model with the name *text* that reads texts, ready to be loaded.

        Raises:
            InvalidModelNameError: *text* is not a valid name.
            ModelNotFoundError: There is no such model; the error has the name as sent.
            ModelLoadError: The metadata show that the model cannot be loaded.
            WrongModelError: It is an image model.
            StoreError: The store cannot be read.
        """
        return _check_reads_texts(text, self.find(text))

    def resolve_image(self, text: str) -> StoredImageModel:
        """Return the image model with the name *text*, ready to be loaded.

        Raises:
            NotAnImageModelError: It is another model.
            EmbeddError: As `resolve`.
        """
        return _check_paints(text, self.find(text))

    def find(self, text: str) -> AnyModel:
        """Return the model with the name *text*, ready to be loaded, whatever it does.

        Raises:
            EmbeddError: As `resolve`.
        """
        return _check_loadable(text, self._remembered(text) or self._read(text))

    async def find_apart(self, text: str) -> AnyModel:
        """As `find`, for the event loop: files are read in a thread."""
        model = self._remembered(text)
        if model is None:
            model = await asyncio.to_thread(self._read, text)
        return _check_loadable(text, model)

    async def resolve_apart(self, text: str) -> ResolvedModel:
        """As `resolve`, for the event loop."""
        return _check_reads_texts(text, await self.find_apart(text))

    async def find_image_apart(self, text: str) -> ImageModel:
        """As `resolve_image`, for the event loop."""
        return _check_paints(text, await self.find_apart(text)).model

    def describe(self, stored: StoredManifest) -> AnyModel:
        """Return what is known of a manifest's model, whether or not it can be loaded.

        Raises:
            ModelLoadError: The model has no file of weights, or its metadata cannot be read.
            UnsupportedError: It is an image model that embedd cannot paint with.
            StoreError: The store cannot be read.
        """
        layers = stored.manifest.of_type(MODEL)
        if not layers:
            raise ModelLoadError(f'model "{stored.name.display}" has no GGUF: it cannot be loaded')
        paths = [self._store.blobs.path(layer.digest) for layer in layers]
        facts = self._read_facts(layers, paths)
        raw = self._read_parameters(stored)
        try:
            if isinstance(facts, ImageFiles):
                return make_stored_image(stored, _place_files(facts, layers, paths), facts, raw)
            parameters = parse_parameters(raw)
        except InvalidInputError as error:
            raise _bad_parameters(stored, str(error)) from error
        return self._describe_text_model(stored, paths, facts, parameters)

    def _describe_text_model(
        self,
        stored: StoredManifest,
        paths: Sequence[Path],
        facts: GgufFacts,
        parameters: Parameters,
    ) -> ResolvedModel:
        layers = stored.manifest.of_type(MODEL)
        pooling = choose_pooling(parameters.pooling, facts)
        spec = ModelSpec(
            name=stored.name.display,
            digest=layers[0].digest,
            path=paths[0],
            parts=tuple(paths[1:]),
            # Never used for a model without: nothing is embedded with it.
            pooling=pooling or Pooling.LAST,
            context_length=facts.context_length or 0,
            vocabulary=facts.vocabulary_size or 0,
            width=facts.vector_length or 0,
            weights=sum(layer.size for layer in layers),
            engine=parameters.engine,
            precision=parameters.precision,
            tokenizer=parameters.tokenizer,
            elements=facts.parameter_count,
            exact=facts.quantization in EXACT,
        )
        return ResolvedModel(
            name=stored.name,
            spec=_place(spec, parameters.options),
            facts=facts,
            parameters=parameters,
            supports_embedding=pooling is not None and pooling is not Pooling.RANK,
            manifest_digest=stored.digest,
            size=stored.manifest.size,
            modified_at=stored.modified_at,
            refusal=_find_refusal(facts, pooling),
        )

    def _remembered(self, text: str) -> AnyModel | None:
        entry = self._by_text.get(text)
        if entry is None:
            return None
        path, stamp, model = entry
        return model if _stamp(path) == stamp else None

    def _read(self, text: str) -> AnyModel:
        found = self._store.manifests.find(parse_model_name(text))
        if found is None:
            raise ModelNotFoundError(text, hint=self._suggest(text))
        path = str(self._store.layout.manifest(found))
        # The stamp comes first: a manifest replaced in between is read again next time.
        stamp = _stamp(path)
        stored = self._store.manifests.read(found)
        if stored is None or stamp is None:
            raise ModelNotFoundError(text, hint=self._suggest(text))
        model = self.describe(stored)
        _remember(self._by_text, text, (path, stamp, model))
        _warn(model)
        return model

    def _read_facts(self, layers: Sequence[Layer], paths: Sequence[Path]) -> GgufFacts | ImageFiles:
        digests = " ".join(f"{layer.name}={layer.digest}" for layer in layers)
        facts = self._facts.get(digests)
        if facts is None:
            facts = _read_weights(layers, paths)
            _remember(self._facts, digests, facts)
        return facts

    def _read_parameters(self, stored: StoredManifest) -> dict[str, object]:
        """Merge the parameters of all layers that have some; later layers win."""
        raw: dict[str, object] = {}
        for layer in stored.manifest.of_type(PARAMS):
            data = self._store.blobs.read(layer.digest, MAX_PARAMS_BYTES)
            try:
                raw |= msgspec.json.decode(data, type=dict[str, object])
            except msgspec.DecodeError as error:
                raise _bad_parameters(stored, str(error)) from error
        return raw


def _check_loadable(text: str, model: AnyModel) -> AnyModel:
    if isinstance(model, ResolvedModel) and model.refusal is not None:
        raise ModelLoadError(f'model "{text}" cannot be loaded: {model.refusal}')
    return model


def _check_reads_texts(text: str, model: AnyModel) -> ResolvedModel:
    if isinstance(model, StoredImageModel):
        raise WrongModelError(f'"{text}" makes images, not embeddings', is_reranker=False)
    return model


def _check_paints(text: str, model: AnyModel) -> StoredImageModel:
    if isinstance(model, StoredImageModel):
        return model
    raise NotAnImageModelError(text, is_reranker=model.is_reranker)


def _read_weights(layers: Sequence[Layer], paths: Sequence[Path]) -> GgufFacts | ImageFiles:
    """Read the headers of a model's files, which show whether it is an image model."""
    named = parts_of_layers(layers)
    if named:
        places = dict(zip(named, paths, strict=True))
        first = places.pop(ImagePart.MODEL, None) or places.pop(ImagePart.DIFFUSION, None)
        if first is None:
            raise ModelLoadError("the manifest names no diffusion model: create the model again")
        return _read_image(first, places)
    try:
        facts = read_model_facts(paths)
    except ModelLoadError as error:
        # Files that stable-diffusion.cpp writes have no architecture; safetensors are no GGUF.
        files = _find_image(paths)
        if files is None:
            raise error from None
        return files
    return facts if facts.context_length is not None else _find_image(paths) or facts


def _find_image(paths: Sequence[Path]) -> ImageFiles | None:
    """The image model in a file whose layer names no component; None if it is none."""
    if len(paths) > 1:
        return None
    try:
        return read_image_files(paths[0], {})
    except (InvalidInputError, ModelLoadError):
        return None


def _read_image(first: Path, components: Mapping[ImagePart, Path]) -> ImageFiles:
    try:
        files = read_image_files(first, components)
    except InvalidInputError as error:
        raise ModelLoadError(f"the files do not belong together: {error}") from error
    if files is None:
        raise ModelLoadError("the file is not an image model: create the model again")
    return files


def _place_files(
    files: ImageFiles, layers: Sequence[Layer], paths: Sequence[Path]
) -> dict[ImagePart, Path]:
    named = parts_of_layers(layers)
    return dict(zip(named or files.files, paths, strict=True))


def read_model_facts(paths: Sequence[Path]) -> GgufFacts:
    """Return the facts of a GGUF of one file, or of several parts in order.

    The first part has the metadata, each part its own tensors.

    Raises:
        ModelLoadError: A file cannot be used, or a part is missing or out of order.
    """
    all_facts = [read_header_file(path) for path in paths]
    first = all_facts[0]
    count = max(int(first.metadata.get("split.count", 1)), 1)
    numbers = [facts.metadata.get("split.no", 0) for facts in all_facts]
    if count == 1 and len(paths) > 1:
        raise ModelLoadError(
            f"{len(paths)} GGUFs were given, but they are not parts of one model: give one"
        )
    if numbers != list(range(count)):
        raise ModelLoadError(
            f"the GGUF is split into {count} parts, but those given are "
            f"{', '.join(f'number {int(number) + 1}' for number in numbers)}: give all, in order"
        )
    return replace(first, tensors=tuple(one for facts in all_facts for one in facts.tensors))


def parse_parameters(raw: Mapping[str, object]) -> Parameters:
    """Check and translate the parameters of a model.

    Raises:
        InvalidInputError: A parameter has the wrong type or an invalid value.
    """
    own = {one.name for one in fields(Parameters)}
    return Parameters(
        options=parse_options({key: value for key, value in raw.items() if key not in own}),
        pooling=_choice(raw, "pooling", [one for one in Pooling if one is not Pooling.NONE]),
        engine=_choice(raw, "engine", list(EngineChoice)),
        precision=_choice(raw, "precision", list(Precision)),
        tokenizer=_choice(raw, "tokenizer", list(TokenizerChoice)),
        query_prefix=_text(raw, "query_prefix"),
        document_prefix=_text(raw, "document_prefix"),
        prompts=_typed(raw, "prompts", dict[str, str]) or {},
        matryoshka=tuple(_typed(raw, "matryoshka", list[Count]) or ()),
        int8_range=_typed(raw, "int8_range", Range),
        raw=raw,
    )


def choose_pooling(parameter: Pooling | None, facts: GgufFacts) -> Pooling | None:
    """Return the pooling of a model before it is loaded.

    This is the *parameter* (from a Modelfile, or from the recipe at pull), else that of the
    file, else the one that the architecture is used with. None is a language model: a decoder
    whose file names no pooling.
    """
    if parameter is not None:
        return parameter
    if facts.is_reranker:
        return Pooling.RANK
    return facts.pooling or (Pooling.MEAN if facts.is_encoder else None)


def details_of_config(config: ConfigBlob) -> Details:
    """Details of a model whose GGUF cannot be read, from its config."""
    return Details(
        format=config.model_format,
        family=config.model_family,
        families=list(config.model_families or ()),
        parameter_size=config.model_type,
        quantization_level=config.file_type,
    )


def _warn(model: AnyModel) -> None:
    """Log what the file leaves open, or lacks, and why its vectors may not be the expected ones."""
    if isinstance(model, StoredImageModel):
        return
    facts, pooling = model.facts, model.spec.pooling
    extra = {"model": model.name.display, "pooling": pooling.value}
    is_guess = model.parameters.pooling is None and facts.pooling is None and facts.is_encoder
    if is_guess and not model.is_reranker and facts.architecture not in ALWAYS_MEAN:
        _log.warning("pooling guessed: neither file nor parameters name one", extra=extra)
    if lacks_dense_layers(facts):
        _log.warning(
            "the file lacks the dense layers of embeddinggemma, vectors differ from the "
            "original's: pull a conversion with dense_2.weight and dense_3.weight",
            extra=extra,
        )
    if model.supports_embedding and pooling is Pooling.LAST and ENDS_TEXTS not in facts.metadata:
        _log.warning(
            "the vector is that of the last token, but the file does not say whether texts end "
            "with a special one (tokenizer.ggml.add_eos_token): none is added",
            extra=extra,
        )


def _find_refusal(facts: GgufFacts, pooling: Pooling | None) -> str | None:
    if facts.foreign_package is not None:
        return f"{facts.foreign_package}; delete it and pull it again with embedd"
    if facts.context_length is None:
        return f"its GGUF has no {facts.architecture}.context_length"
    return find_fault(facts, pooling)


def _known(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


def _text(raw: Mapping[str, object], name: str) -> str:
    value = raw.get(name)
    if value is None or isinstance(value, str):
        return value or ""
    raise InvalidInputError(f'parameter "{name}" must be of type string')


def _choice(raw: Mapping[str, object], name: str, words: Sequence[_Word]) -> _Word | None:
    """Return the word stored under *name*; None if it is missing or empty.

    Raises:
        InvalidInputError: Another value than one of *words* is stored.
    """
    value = raw.get(name)
    word = next((word for word in words if word == value), None)
    if word is None and value not in (None, ""):
        raise InvalidInputError(f'parameter "{name}" must be one of {", ".join(words)}')
    return word


def _typed(raw: Mapping[str, object], name: str, kind: Any) -> Any:
    value = raw.get(name)
    try:
        return None if value is None else msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f'parameter "{name}" is wrong: {error}') from None


def _bad_parameters(stored: StoredManifest, cause: str) -> ModelLoadError:
    return ModelLoadError(f'the parameters of model "{stored.name.display}" are wrong: {cause}')


def _stamp(path: str) -> _Stamp | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - for every request: a `Path` takes as long again
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _place(spec: ModelSpec, merged: Options) -> ModelSpec:
    return replace(
        spec,
        gpu_layers=_known(merged.num_gpu),
        main_gpu=_known(merged.main_gpu),
        threads=merged.num_thread if (merged.num_thread or 0) > 0 else None,
        use_mmap=merged.use_mmap is not False,
    )


def _remember(memory: dict[str, _Value], key: str, value: _Value) -> None:
    if len(memory) >= _MAX_REMEMBERED:
        memory.clear()
    memory[key] = value
