"""Door one: texts in, vectors out."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedd.engine.base import ModelInfo, ModelSpec
from embedd.errors import EmbeddError, InvalidInputError, InvalidTokenIdError, WrongModelError
from embedd.options import Options, parse_options
from embedd.resolve import ResolvedModel, Resolver
from embedd.scheduler.memory import measure_bytes
from embedd.scheduler.residents import Loaded, ResidentStatus
from embedd.scheduler.scheduler import Scheduler
from embedd.tokens import fit_ids, fit_text
from embedd.types import (
    ClientIds,
    DimensionRule,
    DType,
    EmbedRequest,
    EmbedResult,
    Normalize,
    Pooling,
    Quantized,
    Role,
    ServedBy,
    Timings,
    TokenIds,
    Truncated,
    Vectors,
)
from embedd.vectors import finish, quantize

QUICK_NUMBERS = 1 << 17  # that are normalised in about 1 ms: more go to a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningModel:
    """A model in memory.

    ``size`` and ``gpu_size`` are bytes, ``expires_in`` seconds (``math.inf``: never,
    negative: it is on its way out), ``limit`` the tokens of the longest input.
    ``model`` is None when its name was deleted meanwhile.
    """

    name: str
    model: ResolvedModel | None
    size: int
    gpu_size: int
    expires_in: float
    limit: int
    loading: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """Sequences that are ready to encode, and what was cut from them."""

    sequences: Sequence[TokenIds]
    truncated: Sequence[Truncated]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A request that may be served, and what its model says to it."""

    model: ResolvedModel
    options: Options
    prefix: str
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    vectors: Vectors
    quantized: Mapping[DType, Quantized]


class Embedder:
    """Embeds for every way in.

    Args:
        context_length: Tokens that an input may have where neither request nor model
            says otherwise; 0 is what the model was trained for.
    """

    def __init__(self, *, resolver: Resolver, scheduler: Scheduler, context_length: int) -> None:
        self._resolver = resolver
        self._scheduler = scheduler
        self._context_length = context_length

    async def embed(self, request: EmbedRequest, *, arrived: float | None = None) -> EmbedResult:
        """Vectors for every input, or an error for all.

        What can be refused without the model is refused before it is loaded. Without
        inputs the model is loaded and the result is empty.

        Args:
            arrived: When the request came, by ``time.perf_counter``.

        Raises:
            ModelNotFoundError: Not in the store.
            UnsupportedError: The model cannot embed.
            InvalidInputError: An option, a token id or an input is not valid.
            InputTooLongError: An input is longer than the limit and may not be cut.
            UnavailableError: Too much to do, or the model takes too long to load.
            ServiceError: It cannot be loaded, or computing failed.
        """
        start = time.perf_counter() if arrived is None else arrived
        checked = self._check(request)
        model = checked.model
        spec = model.spec_for(checked.options)
        was_ready = self._is_ready(spec)
        async with self._scheduler.lease(spec, request.keep_alive) as loaded:
            loaded_at = time.perf_counter()
            if not request.inputs:
                return _nothing(total=loaded_at - start)
            limit = self.limit(model, checked.options)
            fitted = await self._fit(loaded, checked.prefix, request, limit)
            fitted_at = time.perf_counter()
            pooling = Pooling.NONE if request.per_token else None
            outcome = await loaded.embed(fitted.sequences, pooling, store=request.store)
            finished = await _finish(outcome.vectors, request, model)
            return EmbedResult(
                vectors=finished.vectors,
                quantized=finished.quantized,
                int8_range=model.parameters.int8_range,
                tokens=[len(ids) for ids in fitted.sequences],
                truncated=fitted.truncated,
                warnings=checked.warnings,
                timings=Timings(
                    load=0.0 if was_ready else loaded_at - start,
                    tokenize=fitted_at - loaded_at,
                    queue=outcome.queue,
                    compute=outcome.compute,
                    total=time.perf_counter() - start,
                    reused=outcome.reused,
                ),
                served_by=_served_by(model.spec, loaded.info),
            )

    def find(self, name: str) -> ResolvedModel:
        """The stored model *name*.

        Raises:
            ModelNotFoundError: Not in the store.
        """
        return self._resolver.resolve(name)

    def limit(self, model: ResolvedModel, options: Options | None = None) -> int:
        """Tokens that an input of *model* may have, special tokens included."""
        return model.limit(options or Options(), self._context_length)

    async def unload(self, name: str) -> None:
        """Let the model go once its requests end; it need not be loaded.

        Raises:
            ModelNotFoundError: Not in the store.
        """
        await self._scheduler.unload(self.find(name).spec)

    def running(self) -> list[RunningModel]:
        """Models in memory, furthest expiry first."""
        models = [self._describe(status) for status in self._scheduler.residents()]
        return sorted(models, key=lambda one: -one.expires_in)

    def _check(self, request: EmbedRequest) -> _Checked:
        model = self.find(request.model)
        if not model.supports_embedding:
            raise WrongModelError(
                "this model does not support embeddings", is_reranker=model.is_reranker
            )
        options = parse_options(request.options)
        warnings = _check_dimensions(request, model)
        prefix = _prefix(request, model)
        _check_ids(request.inputs, model.spec.vocabulary)
        is_prompted = request.prompt is not None or request.role is not Role.NONE
        if is_prompted and not all(isinstance(one, str) for one in request.inputs):
            warnings.append("no prompt was put before token arrays")
        return _Checked(model=model, options=options, prefix=prefix, warnings=warnings)

    def _is_ready(self, spec: ModelSpec) -> bool:
        """Whether a lease taken at once would not wait for a load."""
        return any(
            one.model is not None and one.model.broken is None and one.expires_in >= 0
            for one in self._scheduler.residents()
            if one.spec.key == spec.key
        )

    async def _fit(self, loaded: Loaded, prefix: str, request: EmbedRequest, limit: int) -> _Fitted:
        limit = min(limit, request.max_tokens or limit)
        texts = [prefix + text for text in request.inputs if isinstance(text, str)]
        tokenized = iter(await loaded.tokenize(texts))
        sequences = []
        truncated = []
        for index, sent in enumerate(request.inputs):
            ids = next(tokenized) if isinstance(sent, str) else sent.astype(np.int32)
            if not len(ids):
                raise InvalidInputError("input has no tokens", index=index)
            kept = ids
            if len(ids) > limit:
                kept = (fit_text if isinstance(sent, str) else fit_ids)(
                    ids,
                    frame=loaded.info.frame,
                    limit=limit,
                    truncate=request.truncate,
                    index=index,
                )
                truncated.append(Truncated(index=index, tokens=len(ids), kept=len(kept)))
            sequences.append(kept)
        return _Fitted(sequences=sequences, truncated=truncated)

    def _describe(self, status: ResidentStatus) -> RunningModel:
        try:
            model = self._resolver.resolve(status.spec.name)
            limit = self.limit(model)
        except EmbeddError:
            model, limit = None, status.spec.context_length
        loaded = status.model
        return RunningModel(
            name=status.spec.name,
            model=model,
            size=measure_bytes(loaded.pid) or status.size if loaded else status.size,
            gpu_size=loaded.info.gpu_bytes if loaded else 0,
            expires_in=status.expires_in,
            limit=limit,
            loading=loaded is None,
        )


def _check_ids(inputs: Sequence[str | ClientIds], vocabulary: int) -> None:
    numbered = [(index, ids) for index, ids in enumerate(inputs) if not isinstance(ids, str)]
    every = [ids for _, ids in numbered]
    # One look at all: each of ten thousand by itself would take a tenth of a second.
    if not every or not _outside(np.concatenate(every), vocabulary).any():
        return
    for index, ids in numbered:
        bad = _outside(ids, vocabulary)
        if bad.any():
            position = int(bad.argmax())
            raise InvalidTokenIdError(
                f"token id {ids[position]} is out of range (vocabulary size {vocabulary}): "
                "token ids must be the model's own, send text instead",
                index=index,
                position=position,
                value=str(ids[position]),
                vocabulary=vocabulary,
            )


def _outside(ids: ClientIds, vocabulary: int) -> npt.NDArray[np.bool_]:
    return (ids < 0) | (ids >= vocabulary)


def _check_dimensions(request: EmbedRequest, model: ResolvedModel) -> list[str]:
    """Refuse what the request's rule refuses; warnings of what it lets pass."""
    asked, width = request.dimensions, model.spec.width
    if asked is None or request.dimension_rule is DimensionRule.LENIENT:
        return []
    sizes = model.parameters.matryoshka
    if request.dimension_rule is DimensionRule.MATRYOSHKA and not sizes:
        raise InvalidInputError(
            f'dimensions is only supported by matryoshka models, "{request.model}" is not one',
            field="dimensions",
        )
    if not 1 <= asked <= width:
        raise InvalidInputError(
            f"dimensions must be between 1 and {width}, got {asked}", field="dimensions"
        )
    if asked in (*sizes, width):
        return []
    return [f'dimensions={asked} is not a matryoshka size of "{request.model}"']


async def _finish(vectors: Vectors, request: EmbedRequest, model: ResolvedModel) -> _Finished:
    if request.per_token:
        return _Finished(vectors=vectors, quantized={})
    if vectors.size <= QUICK_NUMBERS:
        return _finish_now(vectors, request, model)
    return await asyncio.to_thread(_finish_now, vectors, request, model)


def _finish_now(vectors: Vectors, request: EmbedRequest, model: ResolvedModel) -> _Finished:
    normalize = _normalizes(request.normalize, model)
    vectors = finish(vectors, dimensions=request.dimensions, normalize=normalize)
    dtypes = {output.dtype for output in request.outputs} - {DType.FLOAT}
    int8_range = model.parameters.int8_range
    quantized = {dtype: quantize(vectors, dtype, int8_range) for dtype in dtypes}
    return _Finished(vectors=vectors, quantized=quantized)


def _prefix(request: EmbedRequest, model: ResolvedModel) -> str:
    parameters = model.parameters
    named = {"query": parameters.query_prefix, "document": parameters.document_prefix}
    if request.prompt is None:
        return named.get(request.role) or ""
    prompts = {name.lower(): text for name, text in parameters.prompts.items()}
    wanted = request.prompt.name.lower()
    if wanted not in prompts and not request.prompt.is_optional and any((*named.values(), prompts)):
        allowed = ", ".join([*named, "passage", *parameters.prompts])
        raise InvalidInputError(
            f'unknown prompt_name "{request.prompt.name}", allowed are: {allowed}',
            field="prompt_name",
        )
    return prompts.get(wanted, "")


def _normalizes(normalize: Normalize, model: ResolvedModel) -> bool:
    if normalize is Normalize.LEGACY:
        return model.normalizes_legacy
    return normalize is Normalize.L2


def _served_by(spec: ModelSpec, info: ModelInfo) -> ServedBy:
    return ServedBy(digest=spec.digest, engine=info.engine, rung=info.rung)


def _nothing(total: float) -> EmbedResult:
    return EmbedResult(
        vectors=np.empty((0, 0), np.float32), tokens=[], timings=Timings(total=total)
    )
