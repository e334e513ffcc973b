"""A loaded model: its worker, its queue and its deduplication behind one interface."""

import functools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from msgspec.structs import replace

from embedd.cache import VectorCache, make_fingerprint
from embedd.engine.backends import LLAMA_BACKENDS, Backend
from embedd.engine.host.errors import StuckError, WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.host.supervisor import Supervisor
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.dedup import Deduplicator, Source
from embedd.engine.serving.local_tokenizer import LocalTokenizer
from embedd.engine.serving.queue import AT_ONCE, BatchQueue, limit_interruptions
from embedd.engine.settings import ONE_REPLICA, Tuning
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tokenizer_place import TokenizerPlace, TokenizerVerdict
from embedd.metrics import ModelMetrics
from embedd.types import (
    ComputedBy,
    EmbedResult,
    Located,
    Pooling,
    Priority,
    Schedule,
    ServedBy,
    TokenIds,
    TokenPiece,
)

# Limits of the texts in one message to the tokenizer, so that a short request does not wait until
# ten thousand texts of another one are tokenized.
CHUNK_CHARACTERS = 256 * 1024
CHUNK_TEXTS = 256
MAX_DEATHS_OF_A_CALL = 2  # worker deaths after which a tokenizer call fails

_Answer = TypeVar("_Answer")


class ServedModel:
    """Tokenize and embed for any number of requests at a time; made by `load`."""

    def __init__(
        self, spec: ModelSpec, supervisor: Supervisor, queue: BatchQueue, dedup: Deduplicator
    ) -> None:
        self._spec = spec
        self._supervisor = supervisor
        self._queue = queue
        self._dedup = dedup
        self._tokenizer: LocalTokenizer | None = None
        self._sources: dict[tuple[str, str, Pooling], Source] = {}

    @classmethod
    async def load(
        cls,
        spec: ModelSpec,
        *,
        start: Callable[[], Awaitable[WorkerProcess]],
        cores: CoreBudget,
        cache: VectorCache,
        metrics: ModelMetrics,
        tuning: Tuning = ONE_REPLICA,
        crosscheck: bool = False,
        tokenizer: TokenizerPlace | None = TokenizerPlace.LLAMA,
        max_wait: float,
        load_timeout: float | None = None,
        backends: Sequence[Backend] = LLAMA_BACKENDS,
    ) -> "ServedModel":
        """Start a worker for *spec*.

        Args:
            tokenizer: Where its texts become ids; None if the worker is to find that out.
                `use_tokenizer` has to follow if it is `TokenizerPlace.SERVER`.

        Raises:
            ModelLoadError: It cannot be loaded.
            LoadTimeoutError: No progress for *load_timeout* seconds.
        """
        supervisor = Supervisor(
            spec,
            start=start,
            metrics=metrics,
            threads=cores.total,
            tuning=tuning,
            crosscheck=crosscheck,
            tokenizer=tokenizer,
            load_timeout=load_timeout,
            backends=backends,
        )
        try:
            await supervisor.load()
        except BaseException:
            await supervisor.close()
            raise
        queue = BatchQueue(supervisor, cores=cores, metrics=metrics, max_wait=max_wait)
        return cls(spec, supervisor, queue, Deduplicator(cache))

    @property
    def info(self) -> ModelInfo:
        """Facts of the loaded model."""
        return self._supervisor.info

    @property
    def pid(self) -> int:
        """Process id of the present worker."""
        return self._supervisor.worker.pid

    @property
    def unhealthy_reason(self) -> str | None:
        """Why this model can no longer compute, or None."""
        return self._supervisor.unhealthy_reason

    @property
    def silence(self) -> str | None:
        """Why it answers nothing at the moment, or None: its worker is replaced, or recovers."""
        return self._supervisor.silence

    @property
    def refusals(self) -> Mapping[str, str]:
        """Engine → why it cannot compute this model."""
        return self._supervisor.fallbacks.refusals

    @property
    def tokenizer_verdict(self) -> TokenizerVerdict:
        """What loading the model showed of its own tokenizer."""
        return self._supervisor.tokenizer_refusal or self._supervisor.worker.tokenizer

    def use_tokenizer(self, tokenizer: LocalTokenizer) -> None:
        """Tokenize in this process from now on; *tokenizer* is closed with the model."""
        self._tokenizer = tokenizer

    def use_llama_tokenizer(self) -> None:
        """Tokenize with llama.cpp, in the worker, from now on."""
        self._supervisor.use_llama_tokenizer()

    @property
    def waiting_tokens(self) -> int:
        """Tokens that wait for a batch."""
        return self._queue.waiting_tokens

    @property
    def waiting_requests(self) -> int:
        """Requests that have such tokens."""
        return self._queue.waiting_requests

    @property
    def cores(self) -> int:
        """Cores that it may use now."""
        return self._supervisor.cores

    @property
    def is_calibrated(self) -> bool:
        """Whether its settings were measured on this machine."""
        return self._supervisor.is_calibrated

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Return the ids of each text, not truncated; see `Tokenizer.tokenize`.

        Raises:
            EngineError: The worker died on it twice, or it took too long.
            WorkerUnavailableError: Workers were ended from outside again and again.
        """
        if self._tokenizer is not None:
            return await self._tokenizer.tokenize(
                texts, add_special=add_special, parse_special=parse_special
            )
        ids: list[TokenIds] = []
        for chunk in _chunks(texts):
            ids += await self._tokenize(chunk, add_special=add_special, parse_special=parse_special)
        return ids

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        """Return the ids of each text and their places in it; see `Tokenizer.locate`.

        Raises:
            EngineError: The worker died on it twice, or it took too long.
            WorkerUnavailableError: Workers were ended from outside again and again.
        """
        if self._tokenizer is not None:
            return await self._tokenizer.locate(texts, parse_special=parse_special)
        located: list[Located] = []
        for chunk in _chunks(texts):
            located += await self._locate(chunk, parse_special=parse_special)
        return located

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """Return the text of each sequence; see `Tokenizer.detokenize`.

        Raises:
            EngineError: An id is outside the vocabulary, or the worker died on it twice.
        """
        if self._tokenizer is not None:
            return await self._tokenizer.detokenize(sequences, special=special)
        return await self._ask(lambda worker: worker.detokenize(sequences, special=special))

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """Return what each token stands for.

        Raises:
            EngineError: An id is outside the vocabulary, or the worker died on it twice.
        """
        if self._tokenizer is not None:
            return await self._tokenizer.token_pieces(ids)
        return await self._ask(lambda worker: worker.token_pieces(ids))

    async def embed(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        store: bool = True,
        schedule: Schedule = AT_ONCE,
    ) -> EmbedResult:
        """Return the vectors of *sequences*; see `BatchQueue.embed`.

        Args:
            store: Whether vectors may come from and go to the cache.
        """
        kind = pooling or self.info.pooling
        if not store or not sequences or kind is Pooling.NONE:
            result = await self._queue.embed(sequences, pooling, schedule)
        else:
            result = await self._dedup.embed(
                sequences,
                self._find_source(kind),
                lambda missing: self._queue.embed(missing, pooling, schedule),
                yields=schedule.priority is Priority.BULK,
            )
        if not result.computed_by:
            return result
        computed_by = tuple(dict.fromkeys(result.computed_by))
        served_by = describe(self._spec.digest, computed_by, self.info.tokenizer)
        return replace(result, served_by=served_by)

    async def close(self) -> None:
        """End the worker; requests that wait fail with `ShuttingDownError`."""
        await self._queue.close()
        await self._supervisor.close()
        if self._tokenizer is not None:
            self._tokenizer.close()

    def _find_source(self, kind: Pooling) -> Source:
        info = self.info
        key = (info.engine, info.backend, kind)
        source = self._sources.get(key)
        if source is None:
            source = self._sources[key] = Source(
                present=ComputedBy(info.engine, info.backend),
                fingerprint=lambda by: make_fingerprint(self._spec.digest, *by, kind),
            )
        return source

    async def _tokenize(
        self, texts: Sequence[str], *, add_special: bool, parse_special: bool
    ) -> list[TokenIds]:
        return await self._ask(
            lambda worker: worker.tokenize(
                texts, add_special=add_special, parse_special=parse_special
            )
        )

    async def _locate(self, texts: Sequence[str], *, parse_special: bool) -> list[Located]:
        return await self._ask(lambda worker: worker.locate(texts, parse_special=parse_special))

    async def _ask(self, ask: Callable[[WorkerProcess], Awaitable[_Answer]]) -> _Answer:
        deaths = interruptions = 0
        while True:
            worker = self._supervisor.worker
            try:
                return await ask(worker)
            except StuckError as error:
                if not error.is_external:
                    raise
                interruptions += 1
                limit_interruptions(interruptions, error)
            except WorkerDiedError as error:
                interruptions += error.is_external
                deaths += not error.is_external
                # It may have died of a batch computed at the same time: once more on the next one,
                # unless it was ended because of this call.
                if deaths == MAX_DEATHS_OF_A_CALL or error.is_stuck_in_call:
                    raise
                limit_interruptions(interruptions, error)
                await self._supervisor.revive(worker)


@functools.lru_cache(64)
def describe(digest: str, computed_by: tuple[ComputedBy, ...], tokenizer: str) -> ServedBy:
    """Return what computed vectors of the model with this *digest*, as one record."""
    return ServedBy(
        digest=digest,
        engine="+".join(dict.fromkeys(one.engine for one in computed_by)),
        backend="+".join(one.backend for one in computed_by),
        tokenizer=tokenizer,
    )


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    start = characters = 0
    for index, text in enumerate(texts):
        full = index - start == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS
        if full and index > start:
            yield texts[start:index]
            start, characters = index, 0
        characters += len(text)
    if start < len(texts):
        yield texts[start:]
