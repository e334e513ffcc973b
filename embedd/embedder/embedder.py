"""The embedder: texts in, vectors, scores or tokens out."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np

from embedd.embedder import inputs
from embedd.embedder.apart import apart
from embedd.embedder.chunking import Chunker
from embedd.embedder.ranking import rank, to_scores
from embedd.embedder.truncation_log import TruncationLog
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.errors import (
    EngineError,
    NotARerankerError,
    TooLargeError,
    UnsupportedError,
    WrongModelError,
)
from embedd.metrics import Metrics
from embedd.options import Options, parse_options
from embedd.resolve import AnyModel, ResolvedModel, Resolver
from embedd.scheduler.memory import measure_bytes
from embedd.scheduler.records import AnySpec, ModelStatus, Vocabulary
from embedd.scheduler.scheduler import Scheduler
from embedd.types import (
    ClientIds,
    DType,
    EmbedRequest,
    EmbedResult,
    Input,
    Normalize,
    Pooling,
    Quantized,
    RerankRequest,
    RerankResult,
    Result,
    RowNumbers,
    Schedule,
    Timings,
    TokenIds,
    Tokenized,
    TokenizeRequest,
    Truncated,
    Vectors,
)
from embedd.vectors import finish, quantize, scale_to_p_norm

OpenVocabulary = Callable[[ModelSpec], AbstractAsyncContextManager[Vocabulary]]

MAX_ANSWER = 1 << 30
# Characters of the texts of a request whose answer is their tokens: 200 MB where each is a token.
MAX_TOKENIZED = 1 << 24
MAX_DETOKENIZED = 1 << 20  # ids of a request whose answer is their text: 100 MB of long tokens
BYTES_PER_NUMBER = 4  # of a vector, as float32
BYTES_PER_TOKEN = 12  # an id and a place, or an id and a pointer to what it stands for
QUICK_NUMBERS = 1 << 17  # numbers that are normalised in about 1 ms: more go to a thread

AnyResult = TypeVar("AnyResult", bound=Result)
# Makes the result of what was computed: built once, when all of it is known. The aliases have
# names because annotations of nested functions are evaluated for every request.
MakeResult: TypeAlias = Callable[[Sequence[Truncated], Timings], AnyResult]
MakeEmbedResult: TypeAlias = MakeResult[EmbedResult]
MakeRerankResult: TypeAlias = MakeResult[RerankResult]


# Called with the bytes that a request will hold until it is answered; raises to refuse it.
Claim: TypeAlias = Callable[[int], None]


def _ignore(_: int) -> None:
    """Hold any number of bytes."""


class Embedder:
    """Embeds, reranks and tokenizes for the server and for bulk jobs.

    Args:
        open_vocabulary: Opens the tokenizer of a model without loading its weights.
        context_length: Limit of every input in tokens where neither the request nor the
            model has one; 0 is the length that the model was trained for.
        max_answer: Bytes of the vectors of one answer, as float32.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        scheduler: Scheduler,
        open_vocabulary: OpenVocabulary,
        metrics: Metrics,
        context_length: int,
        max_answer: int = MAX_ANSWER,
    ) -> None:
        self._resolver = resolver
        self._open_vocabulary = open_vocabulary
        self._scheduler = scheduler
        self._metrics = metrics
        self._context_length = context_length
        self._max_answer = max_answer
        self._truncations = TruncationLog()

    async def embed(
        self, request: EmbedRequest, *, arrived: float | None = None, claim: Claim = _ignore
    ) -> EmbedResult:
        """Return a vector for every input, or raise for all of them.

        All checks that do not need the model are made before it is loaded. A request
        without inputs loads the model and returns an empty result.

        Args:
            arrived: When the request came, by ``time.perf_counter``; None is now.
            claim: Called with the bytes of the vectors, before they are computed; may refuse them.

        Raises:
            ModelNotFoundError: The model is not in the store.
            UnsupportedError: The model cannot embed.
            TooLargeError: The answer would have too many bytes.
            InvalidInputError: An option, a token id or an input is not valid.
            InputTooLongError: An input is longer than the limit and may not be cut.
            UnavailableError: The queue is full, or loading takes too long.
            ServiceError: The model cannot be loaded, or computing failed.
        """
        start = time.perf_counter() if arrived is None else arrived
        model = await self._find(request.model)
        if not model.supports_embedding:
            raise WrongModelError(
                "this model does not support embeddings", is_reranker=model.is_reranker
            )
        options = parse_options(request.options)
        warnings = inputs.check_dimensions(request, model) + inputs.check_prompt(request)
        prefix = inputs.choose_prefix(request.prompt, model)
        await _check_ids(request, model)
        # Before the model is loaded.
        self._check_answer(_count_inputs(request), model.spec.width, claim)
        limit = self.limit(model, options)
        limit = min(limit, request.max_tokens or limit)
        chunker = None
        if request.chunk is not None:
            chunker = Chunker(request.chunk, request, prefix=prefix, limit=limit)

        async def tokenize(loaded: ServedModel) -> inputs.Fitted:
            if chunker is not None:
                fitted = await chunker.tokenize(loaded)
            else:
                fitted = await _fit(loaded, request, prefix, limit)
            self._check_answer(_count_vectors(request, fitted[0]), model.spec.width, claim)
            return fitted

        async def finish_result(computed: EmbedResult, _: ModelInfo) -> MakeEmbedResult:
            vectors, quantized = await _finish(computed, request, model, chunker)
            return lambda truncated, timings: EmbedResult(
                vectors=vectors,
                rows=None if chunker is not None and chunker.pools else computed.rows,
                chunks=() if chunker is None else chunker.chunks,
                quantized=quantized,
                int8_range=model.parameters.int8_range,
                warnings=warnings,
                tokens=computed.tokens,
                truncated=truncated,
                timings=timings,
                reused=computed.reused,
                served_by=computed.served_by,
            )

        spec = model.spec_for(options)
        if not request.inputs:
            return await self._load(spec, request.keep_alive, start)
        try:
            return await self._compute(
                spec,
                start=start,
                keep_alive=request.keep_alive,
                tokenize=tokenize,
                pooling=Pooling.NONE if request.per_token else None,
                store=request.store,
                schedule=request.schedule,
                finish=finish_result,
            )
        except EngineError as error:
            if chunker is None:
                raise
            raise chunker.name_input(error) from None  # the error names a chunk

    async def rerank(self, request: RerankRequest, *, arrived: float | None = None) -> RerankResult:
        """Return the documents in the order of their scores, or raise for all of them.

        Args:
            arrived: When the request came, by ``time.perf_counter``; None is now.

        Raises:
            EmbeddError: As `embed`; `NotARerankerError` if the model cannot score pairs.
        """
        start = time.perf_counter() if arrived is None else arrived
        model = await self._find(request.model)
        if not model.is_reranker:
            raise NotARerankerError
        limit = self.limit(model)

        async def tokenize(loaded: ServedModel) -> inputs.Fitted:
            if loaded.info.pair_template is None:
                raise UnsupportedError("the model's rerank template is not one that embedd knows")
            return await inputs.tokenize_pairs(
                loaded,
                request.query,
                request.documents,
                template=loaded.info.pair_template,
                limit=min(limit, request.max_tokens or limit),
                max_tokens_per_doc=request.max_tokens_per_doc,
                truncate=request.truncate,
            )

        async def finish_result(computed: EmbedResult, info: ModelInfo) -> MakeRerankResult:
            numbers = computed.vectors
            scores = to_scores(
                numbers if computed.rows is None else numbers[computed.rows],
                info.labels,
                architecture=model.facts.architecture,
                raw=request.raw_scores,
            )
            return lambda truncated, timings: RerankResult(
                ranked=rank(scores, request.top_n),
                tokens=computed.tokens,
                truncated=truncated,
                timings=timings,
                reused=computed.reused,
                served_by=computed.served_by,
            )

        return await self._compute(
            model.spec_for(Options()),
            start=start,
            tokenize=tokenize,
            store=request.store,
            schedule=request.schedule,
            finish=finish_result,
        )

    async def tokenize(
        self, request: TokenizeRequest, *, claim: Claim = _ignore
    ) -> list[Tokenized]:
        """Return the tokens of each input, without loading the model.

        Args:
            claim: Called with the bytes of the tokens; may refuse them.

        Raises:
            ModelNotFoundError: The model is not in the store.
            TooLargeError: The texts are too long together.
            InvalidInputError: A token id or a prompt's name is not valid.
            ServiceError: The vocabulary cannot be read.
        """
        model = await self._find(request.model)
        prefix = inputs.choose_prefix(request.prompt, model)
        _check_length(request.inputs)
        await apart(request.inputs, inputs.check_ids, request.inputs, model.spec.vocabulary)
        async with self._vocabulary(model.spec) as vocabulary:
            if request.with_offsets:
                located = await inputs.locate(vocabulary, request, prefix=prefix)
                claim(BYTES_PER_TOKEN * sum(len(one.ids) for one in located))
                return located
            rows = await inputs.tokenize(
                vocabulary,
                request.inputs,
                prefix=prefix,
                add_special=request.add_special,
                parse_special=request.parse_special,
            )
            claim(BYTES_PER_TOKEN * sum(map(len, rows)))
            if not request.with_pieces:
                return [Tokenized(ids=ids, prefix=prefix) for ids in rows]
            pieces = iter(await vocabulary.token_pieces(np.concatenate(rows)) if rows else ())
            return [
                Tokenized(ids=ids, pieces=list(islice(pieces, len(ids))), prefix=prefix)
                for ids in rows
            ]

    async def detokenize(
        self, name: str, sequences: Sequence[ClientIds], *, special: bool, claim: Claim = _ignore
    ) -> list[str]:
        """Return the text of each of *sequences*.

        Args:
            special: Include the names of special tokens.
            claim: Called with the bytes of the texts; may refuse them.

        Raises:
            TooLargeError: There are too many ids.
            ModelNotFoundError: The model is not in the store.
            InvalidTokenIdError: An id is outside the model's vocabulary.
            ServiceError: The vocabulary cannot be read.
        """
        model = await self._find(name)
        _check_count(sequences)
        await apart(sequences, inputs.check_ids, sequences, model.spec.vocabulary)
        async with self._vocabulary(model.spec) as vocabulary:
            ids = [one.astype(np.int32) for one in sequences]
            texts = await vocabulary.detokenize(ids, special=special)
        claim(sum(map(len, texts)))
        return await apart(sequences, _decode, texts)

    def find(self, name: str) -> ResolvedModel:
        """Return the stored model *name*; reads its header, if that is not in memory.

        Raises:
            ModelNotFoundError: The model is not in the store.
        """
        return self._resolver.resolve(name)

    def find_any(self, name: str) -> AnyModel:
        """As `find`, whatever the model does."""
        return self._resolver.find(name)

    async def find_any_apart(self, name: str) -> AnyModel:
        """As `find_any`, for the event loop: files are read in a thread."""
        return await self._resolver.find_apart(name)

    async def _find(self, name: str) -> ResolvedModel:
        return await self._resolver.resolve_apart(name)

    def limit(self, model: ResolvedModel, options: Options | None = None) -> int:
        """Tokens that an input of *model* may have, special tokens included."""
        return model.limit(options or Options(), self._context_length)

    async def unload(self, name: str) -> None:
        """Unload the model once its requests have ended; it need not be loaded.

        Raises:
            ModelNotFoundError: The model is not in the store.
        """
        await self.unload_spec(await self.find_spec(name))

    async def find_spec(self, name: str) -> ModelSpec:
        """What is in memory of the model *name*, if it is loaded.

        Raises:
            ModelNotFoundError: The model is not in the store.
        """
        return (await self._find(name)).spec

    async def unload_spec(self, spec: AnySpec) -> None:
        """Unload what was loaded as *spec*, whose name may not exist any more."""
        await self._scheduler.unload(spec)

    def is_loaded(self, model: ResolvedModel) -> bool:
        """Whether a request for *model* would not wait for a load."""
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

    async def _compute(
        self,
        spec: ModelSpec,
        *,
        start: float,
        keep_alive: float | None = None,
        tokenize: Callable[[ServedModel], Awaitable[inputs.Fitted]],
        pooling: Pooling | None = None,
        store: bool,
        schedule: Schedule,
        finish: Callable[[EmbedResult, ModelInfo], Awaitable[MakeResult[AnyResult]]],
    ) -> AnyResult:
        """Lease the model, tokenize, compute, finish and count: the path of every request."""
        was_ready = self._scheduler.is_ready(spec)
        leasing = self._scheduler.lease(spec, keep_alive, deadline=schedule.deadline)
        async with leasing as loaded:
            loaded_at = time.perf_counter()
            sequences, truncated = await tokenize(loaded)
            tokenized_at = time.perf_counter()
            computed = await loaded.embed(sequences, pooling, store=store, schedule=schedule)
            make_result = await finish(computed, loaded.info)
            self._metrics.of_model(spec.name).answered(
                inputs=len(sequences),
                tokens=sum(computed.tokens),
                truncated=len(truncated),
                reused=computed.reused,
                queue=computed.timings.queue,
            )
            if truncated:
                self._truncations.note(spec.name, truncated)
            timings = Timings(
                load=0.0 if was_ready else loaded_at - start,
                tokenize=tokenized_at - loaded_at,
                queue=computed.timings.queue,
                compute=computed.timings.compute,
                total=time.perf_counter() - start,
            )
            return make_result(truncated, timings)

    def _check_answer(self, rows: int, width: int, claim: Claim) -> None:
        size = rows * width * BYTES_PER_NUMBER
        if size > self._max_answer:
            raise TooLargeError(
                f"the answer would have {rows} vectors of {width} numbers, {size} bytes; the limit "
                f"is {self._max_answer} (EMBEDD_MAX_ANSWER): send fewer inputs at a time",
                limit=self._max_answer,
            )
        claim(size)

    async def _load(self, spec: ModelSpec, keep_alive: float | None, start: float) -> EmbedResult:
        async with self._scheduler.lease(spec, keep_alive):
            timings = Timings(total=time.perf_counter() - start)
        return EmbedResult(vectors=np.empty((0, 0), np.float32), tokens=(), timings=timings)

    @asynccontextmanager
    async def _vocabulary(self, spec: ModelSpec) -> AsyncIterator[Vocabulary]:
        """The tokenizer of the model if it is loaded, else one opened without its weights."""
        if self._scheduler.is_ready(spec):
            async with self._scheduler.lease(spec) as loaded:
                yield loaded
        else:
            async with self._open_vocabulary(spec) as vocabulary:
                yield vocabulary


async def _check_ids(request: EmbedRequest, model: ResolvedModel) -> None:
    if not inputs.is_text_alone(request.inputs):  # as most are
        await apart(request.inputs, inputs.check_ids, request.inputs, model.spec.vocabulary)


async def _fit(
    loaded: ServedModel, request: EmbedRequest, prefix: str, limit: int
) -> inputs.Fitted:
    sequences = await inputs.tokenize(loaded, request.inputs, prefix=prefix)
    return await apart(
        request.inputs,
        inputs.fit,
        request.inputs,
        sequences,
        special=loaded.info.special_tokens,
        limit=limit,
        truncate=request.truncate,
    )


def _check_length(texts: Sequence[Input]) -> None:
    parts = (part for one in texts for part in (one if isinstance(one, tuple) else (one,)))
    characters = sum(len(part) for part in parts if isinstance(part, str))
    if characters > MAX_TOKENIZED:
        raise TooLargeError(
            f"the texts have {characters} characters together; the limit is {MAX_TOKENIZED} where "
            "their tokens are answered: send fewer texts at a time",
            limit=MAX_TOKENIZED,
        )


def _check_count(sequences: Sequence[ClientIds]) -> None:
    count = sum(map(len, sequences))
    if count > MAX_DETOKENIZED:
        raise TooLargeError(
            f"{count} token ids cannot be detokenized together, the limit is {MAX_DETOKENIZED}: "
            "send fewer at a time",
            limit=MAX_DETOKENIZED,
        )


def _decode(texts: Sequence[bytes]) -> list[str]:
    return [text.decode("utf-8", "replace") for text in texts]


def _count_inputs(request: EmbedRequest) -> int:
    """How many vectors the answer has at least."""
    return 0 if request.chunk is not None else len(request.inputs)


def _count_vectors(request: EmbedRequest, sequences: Sequence[TokenIds]) -> int:
    return sum(map(len, sequences)) if request.per_token else len(sequences)


async def _finish(
    computed: EmbedResult, request: EmbedRequest, model: ResolvedModel, chunker: Chunker | None
) -> tuple[Vectors, Mapping[DType, Quantized]]:
    if request.per_token:
        return computed.vectors, {}
    if computed.vectors.size <= QUICK_NUMBERS:
        return _finish_now(computed, request, model, chunker)
    return await asyncio.to_thread(_finish_now, computed, request, model, chunker)


def _finish_now(
    computed: EmbedResult, request: EmbedRequest, model: ResolvedModel, chunker: Chunker | None
) -> tuple[Vectors, Mapping[DType, Quantized]]:
    normalize = _normalizes(request.normalize, model)
    rows = computed.rows
    try:
        vectors = finish(computed.vectors, dimensions=request.dimensions, normalize=normalize)
    except EngineError as error:
        raise _name_input(error, rows) from None
    if chunker is not None and chunker.pools:
        pooled = chunker.pool(vectors if rows is None else vectors[rows])
        vectors = finish(pooled, dimensions=None, normalize=normalize)
    if not isinstance(request.normalize, Normalize):
        vectors = scale_to_p_norm(vectors, request.normalize)
    dtypes = {form.dtype for form in request.formats if form.dtype is not DType.FLOAT}
    int8_range = model.parameters.int8_range
    return vectors, {dtype: quantize(vectors, dtype, int8_range) for dtype in dtypes}


def _name_input(error: EngineError, rows: RowNumbers | None) -> EngineError:
    """Return *error* with the first input that has the vector where it has the vector's row."""
    if error.index is None or rows is None:
        return error
    index = int((rows == error.index).argmax())
    text = str(error).replace(f"(input {error.index})", f"(input {index})")
    return EngineError(text, index=index)


def _normalizes(normalize: Normalize | int, model: ResolvedModel) -> bool:
    if normalize is Normalize.LEGACY:
        return model.normalizes_legacy
    return normalize is Normalize.L2
