"""Door one: texts in, vectors out."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from embedd.embedder import inputs
from embedd.embedder.ranking import rank, to_scores
from embedd.engine.serving.queue import Outcome
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import (
    NotARerankerError,
    UnsupportedError,
    WrongModelError,
)
from embedd.metrics import Metrics
from embedd.options import Options, parse_options
from embedd.resolve import ResolvedModel, Resolver
from embedd.scheduler.memory import measure_bytes
from embedd.scheduler.records import ModelStatus, Vocabulary
from embedd.scheduler.scheduler import Scheduler
from embedd.types import (
    ClientIds,
    DType,
    EmbedRequest,
    EmbedResult,
    Normalize,
    Pooling,
    Quantized,
    RerankRequest,
    RerankResult,
    Role,
    ServedBy,
    Timings,
    Tokenized,
    TokenizeRequest,
    Vectors,
)
from embedd.vectors import finish, quantize, scale_to_p_norm

OpenVocabulary = Callable[[ModelSpec], AbstractAsyncContextManager[Vocabulary]]

QUICK_NUMBERS = 1 << 17  # that are normalised in about 1 ms: more go to a thread


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
        open_vocabulary: The tokenizer of a model without its weights.
        context_length: Tokens that an input may have where neither request nor model
            says otherwise; 0 is what the model was trained for.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        scheduler: Scheduler,
        open_vocabulary: OpenVocabulary,
        metrics: Metrics,
        context_length: int,
    ) -> None:
        self._resolver = resolver
        self._open_vocabulary = open_vocabulary
        self._scheduler = scheduler
        self._metrics = metrics
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
        was_ready = self._scheduler.is_ready(spec)
        async with self._scheduler.lease(spec, request.keep_alive) as loaded:
            loaded_at = time.perf_counter()
            if not request.inputs:
                return _nothing(total=loaded_at - start)
            limit = self.limit(model, checked.options)
            fitted = inputs.fit(
                request.inputs,
                await inputs.tokenize(loaded, request.inputs, prefix=checked.prefix),
                frame=loaded.info.frame,
                limit=min(limit, request.max_tokens or limit),
                truncate=request.truncate,
            )
            fitted_at = time.perf_counter()
            pooling = Pooling.NONE if request.per_token else None
            outcome = await loaded.embed(fitted.sequences, pooling, store=request.store)
            finished = await _finish(outcome.vectors, request, model)
            self._count(spec, fitted, outcome)
            return EmbedResult(
                vectors=finished.vectors,
                quantized=finished.quantized,
                int8_range=model.parameters.int8_range,
                tokens=[len(ids) for ids in fitted.sequences],
                truncated=fitted.truncated,
                warnings=checked.warnings,
                timings=_timings(
                    outcome,
                    start=start,
                    loaded=start if was_ready else loaded_at,
                    tokenize=fitted_at - loaded_at,
                ),
                served_by=_served_by(model.spec, loaded.info),
            )

    async def rerank(self, request: RerankRequest, *, arrived: float | None = None) -> RerankResult:
        """The documents in the order of their scores, or an error for all.

        Args:
            arrived: When the request came, by ``time.perf_counter``.

        Raises:
            EmbeddError: As `embed`; `NotARerankerError` if the model cannot score pairs.
        """
        start = time.perf_counter() if arrived is None else arrived
        model = self.find(request.model)
        if not model.is_reranker:
            raise NotARerankerError
        spec = model.spec_for(Options())
        was_ready = self._scheduler.is_ready(spec)
        async with self._scheduler.lease(spec) as loaded:
            loaded_at = time.perf_counter()
            if loaded.info.pair is None:
                raise UnsupportedError("the model's rerank template is not one that embedd knows")
            fitted = await inputs.tokenize_pairs(
                loaded,
                request.query,
                request.documents,
                frame=loaded.info.pair,
                limit=self.limit(model),
                cap=request.max_tokens_per_doc,
                truncate=request.truncate,
            )
            fitted_at = time.perf_counter()
            outcome = await loaded.embed(fitted.sequences, store=request.store)
            scores = to_scores(
                outcome.vectors,
                loaded.info.labels,
                architecture=model.facts.architecture,
                raw=request.raw_scores,
            )
            self._count(spec, fitted, outcome)
            return RerankResult(
                ranked=rank(scores, request.top_n),
                tokens=[len(ids) for ids in fitted.sequences],
                truncated=fitted.truncated,
                timings=_timings(
                    outcome,
                    start=start,
                    loaded=start if was_ready else loaded_at,
                    tokenize=fitted_at - loaded_at,
                ),
                served_by=_served_by(model.spec, loaded.info),
            )

    async def tokenize(self, request: TokenizeRequest) -> list[Tokenized]:
        """The tokens of each input; the model is not loaded for it.

        Raises:
            ModelNotFoundError: Not in the store.
            InvalidInputError: A token id or a prompt's name is not valid.
            ServiceError: The vocabulary cannot be read.
        """
        model = self.find(request.model)
        prefix = inputs.choose_prefix(request, model)
        inputs.check_ids(request.inputs, model.spec.vocabulary)
        async with self._vocabulary(model.spec) as vocabulary:
            rows = await inputs.tokenize(
                vocabulary,
                request.inputs,
                prefix=prefix,
                add_special=request.add_special,
                parse_special=request.parse_special,
            )
            if not request.with_pieces:
                return [Tokenized(ids=ids, prefix=prefix) for ids in rows]
            pieces = iter(await vocabulary.token_pieces(np.concatenate(rows)) if rows else ())
            return [
                Tokenized(ids=ids, pieces=list(islice(pieces, len(ids))), prefix=prefix)
                for ids in rows
            ]

    async def detokenize(
        self, name: str, sequences: Sequence[ClientIds], *, special: bool
    ) -> list[str]:
        """The text of each of *sequences*, special tokens spelled or left out.

        Raises:
            ModelNotFoundError: Not in the store.
            InvalidTokenIdError: An id is none of the model's.
            ServiceError: The vocabulary cannot be read.
        """
        model = self.find(name)
        inputs.check_ids(sequences, model.spec.vocabulary)
        async with self._vocabulary(model.spec) as vocabulary:
            ids = [one.astype(np.int32) for one in sequences]
            texts = await vocabulary.detokenize(ids, special=special)
        return [text.decode("utf-8", "replace") for text in texts]

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

    def is_loaded(self, model: ResolvedModel) -> bool:
        """Whether it would compute at once."""
        return self._scheduler.is_ready(model.spec)

    def unhealthy_reason(self) -> str | None:
        """Why the server is unhealthy, or None."""
        if self._scheduler.is_closed:
            return "server is shutting down"
        reasons = (one.unhealthy_reason for one in self._scheduler.statuses())
        return next(filter(None, reasons), None)

    def running(self) -> list[ModelStatus]:
        """Return the models in memory or being loaded, furthest expiry first.

        ``size`` is what the worker's process takes where that can be measured.
        """
        models = [
            replace(one, size=measure_bytes(one.pid) or one.size) if one.pid else one
            for one in self._scheduler.statuses()
        ]
        return sorted(models, key=lambda one: -one.expires_in)

    def _check(self, request: EmbedRequest) -> _Checked:
        model = self.find(request.model)
        if not model.supports_embedding:
            raise WrongModelError(
                "this model does not support embeddings", is_reranker=model.is_reranker
            )
        options = parse_options(request.options)
        warnings = inputs.check_dimensions(request, model)
        prefix = inputs.choose_prefix(request, model)
        inputs.check_ids(request.inputs, model.spec.vocabulary)
        is_prompted = request.prompt is not None or request.role is not Role.NONE
        if is_prompted and not all(isinstance(one, str) for one in request.inputs):
            warnings.append("no prompt was put before token arrays")
        return _Checked(model=model, options=options, prefix=prefix, warnings=warnings)

    @asynccontextmanager
    async def _vocabulary(self, spec: ModelSpec) -> AsyncIterator[Vocabulary]:
        """The tokenizer of a loaded model, else one of its own without weights."""
        if self._scheduler.is_ready(spec):
            async with self._scheduler.lease(spec) as loaded:
                yield loaded
        else:
            async with self._open_vocabulary(spec) as vocabulary:
                yield vocabulary

    def _count(self, spec: ModelSpec, fitted: inputs.Fitted, outcome: Outcome) -> None:
        self._metrics.of_model(spec.name).answered(
            inputs=len(fitted.sequences),
            tokens=sum(map(len, fitted.sequences)),
            truncated=len(fitted.truncated),
            reused=outcome.reused,
            queue=outcome.queue,
        )


async def _finish(vectors: Vectors, request: EmbedRequest, model: ResolvedModel) -> _Finished:
    if request.per_token:
        return _Finished(vectors=vectors, quantized={})
    if vectors.size <= QUICK_NUMBERS:
        return _finish_now(vectors, request, model)
    return await asyncio.to_thread(_finish_now, vectors, request, model)


def _finish_now(vectors: Vectors, request: EmbedRequest, model: ResolvedModel) -> _Finished:
    normalize = _normalizes(request.normalize, model)
    vectors = finish(vectors, dimensions=request.dimensions, normalize=normalize)
    if not isinstance(request.normalize, Normalize):
        vectors = scale_to_p_norm(vectors, request.normalize)
    dtypes = {output.dtype for output in request.outputs} - {DType.FLOAT}
    int8_range = model.parameters.int8_range
    quantized = {dtype: quantize(vectors, dtype, int8_range) for dtype in dtypes}
    return _Finished(vectors=vectors, quantized=quantized)


def _normalizes(normalize: Normalize | int, model: ResolvedModel) -> bool:
    if normalize is Normalize.LEGACY:
        return model.normalizes_legacy
    return normalize is Normalize.L2


def _timings(outcome: Outcome, *, start: float, loaded: float, tokenize: float) -> Timings:
    return Timings(
        load=loaded - start,
        tokenize=tokenize,
        queue=outcome.queue,
        compute=outcome.compute,
        total=time.perf_counter() - start,
        reused=sum(outcome.reused.values()),
    )


def _served_by(spec: ModelSpec, info: ModelInfo) -> ServedBy:
    return ServedBy(digest=spec.digest, engine=info.engine, backend=info.backend)


def _nothing(total: float) -> EmbedResult:
    return EmbedResult(
        vectors=np.empty((0, 0), np.float32), tokens=[], timings=Timings(total=total)
    )
