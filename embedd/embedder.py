"""Door one: texts in, vectors out."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedd.engine.base import ModelInfo, ModelSpec
from embedd.errors import EmbeddError, InvalidInputError, UnsupportedError
from embedd.options import Options, parse_options
from embedd.resolve import ResolvedModel, Resolver
from embedd.scheduler.memory import measure_bytes
from embedd.scheduler.residents import Loaded, ResidentStatus
from embedd.scheduler.scheduler import Scheduler
from embedd.tokens import fit_ids, fit_text
from embedd.types import (
    ClientIds,
    EmbedRequest,
    EmbedResult,
    Normalize,
    Pooling,
    Role,
    ServedBy,
    Timings,
    TokenIds,
    Truncated,
)
from embedd.vectors import finish


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
        model, options = self._check(request)
        async with self._scheduler.lease(model.spec_for(options), request.keep_alive) as loaded:
            loaded_at = time.perf_counter()
            if not request.inputs:
                return _nothing(load=loaded_at - start)
            limit = model.limit(options, self._context_length)
            fitted = await self._fit(loaded, model, request, limit)
            fitted_at = time.perf_counter()
            pooling = Pooling.NONE if request.per_token else None
            outcome = await loaded.embed(fitted.sequences, pooling)
            vectors = outcome.vectors
            if not request.per_token:
                normalize = _normalizes(request.normalize, model)
                vectors = finish(vectors, dimensions=request.dimensions, normalize=normalize)
            return EmbedResult(
                vectors=vectors,
                tokens=[len(ids) for ids in fitted.sequences],
                truncated=fitted.truncated,
                timings=Timings(
                    load=loaded_at - start,
                    tokenize=fitted_at - loaded_at,
                    queue=outcome.queue,
                    compute=outcome.compute,
                    total=time.perf_counter() - start,
                ),
                served_by=_served_by(model.spec, loaded.info),
            )

    async def unload(self, name: str) -> None:
        """Let the model go once its requests end; it need not be loaded.

        Raises:
            ModelNotFoundError: Not in the store.
        """
        await self._scheduler.unload(self._resolver.resolve(name).spec)

    def running(self) -> list[RunningModel]:
        """Models in memory, furthest expiry first."""
        models = [self._describe(status) for status in self._scheduler.residents()]
        return sorted(models, key=lambda one: -one.expires_in)

    def _check(self, request: EmbedRequest) -> tuple[ResolvedModel, Options]:
        model = self._resolver.resolve(request.model)
        if not model.supports_embedding:
            raise UnsupportedError("this model does not support embeddings")
        options = parse_options(request.options)
        for index, ids in enumerate(request.inputs):
            if not isinstance(ids, str):
                _check_ids(ids, index, model.spec.vocabulary)
        return model, options

    async def _fit(
        self, loaded: Loaded, model: ResolvedModel, request: EmbedRequest, limit: int
    ) -> _Fitted:
        prefix = _prefix(request.role, model)
        texts = [prefix + text for text in request.inputs if isinstance(text, str)]
        tokenized = iter(await loaded.tokenize(texts))
        sequences = []
        truncated = []
        for index, sent in enumerate(request.inputs):
            is_text = isinstance(sent, str)
            ids = next(tokenized) if isinstance(sent, str) else sent.astype(np.int32)
            if not len(ids):
                raise InvalidInputError("input has no tokens", index=index)
            fit = fit_text if is_text else fit_ids
            kept = fit(
                ids,
                frame=loaded.info.frame,
                limit=limit,
                truncate=request.truncate,
                index=index,
            )
            if len(kept) < len(ids):
                truncated.append(Truncated(index=index, tokens=len(ids), kept=len(kept)))
            sequences.append(kept)
        return _Fitted(sequences=sequences, truncated=truncated)

    def _describe(self, status: ResidentStatus) -> RunningModel:
        try:
            model = self._resolver.resolve(status.spec.name)
            limit = model.limit(Options(), self._context_length)
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


def _check_ids(ids: ClientIds, index: int, vocabulary: int) -> None:
    bad = (ids < 0) | (ids >= vocabulary)
    if bad.any():
        raise InvalidInputError(
            f"token id {ids[bad.argmax()]} is out of range (vocabulary size {vocabulary}): "
            "token ids must be the model's own, send text instead",
            index=index,
        )


def _prefix(role: Role, model: ResolvedModel) -> str:
    prefixes = {
        Role.QUERY: model.parameters.query_prefix,
        Role.DOCUMENT: model.parameters.document_prefix,
    }
    return prefixes.get(role) or ""


def _normalizes(normalize: Normalize, model: ResolvedModel) -> bool:
    if normalize is Normalize.LEGACY:
        return model.normalizes_legacy
    return normalize is Normalize.L2


def _served_by(spec: ModelSpec, info: ModelInfo) -> ServedBy:
    return ServedBy(digest=spec.digest, engine=info.engine, rung=info.rung)


def _nothing(load: float) -> EmbedResult:
    return EmbedResult(
        vectors=np.empty((0, 0), np.float32), tokens=[], timings=Timings(load=load, total=load)
    )
