"""A model that is ready to serve: its worker, its queue, its tokenizer."""

from collections.abc import Awaitable, Callable, Iterator, Sequence

from embedd.engine.base import CPU_LADDER, ModelInfo, ModelSpec, Rung
from embedd.engine.process import WorkerDiedError
from embedd.engine.queue import BatchQueue, Outcome
from embedd.engine.supervisor import Supervisor, Worker
from embedd.types import Pooling, TokenIds

# Texts travel to the tokenizer in frames of at most so many characters, so that a short
# request does not wait until ten thousand texts of another are tokenized.
CHUNK_CHARACTERS = 256 * 1024
CHUNK_TEXTS = 256


class ServedModel:
    """Tokenizes and embeds for any number of requests at a time. Made by `load`."""

    def __init__(self, supervisor: Supervisor, queue: BatchQueue) -> None:
        self._supervisor = supervisor
        self._queue = queue

    @classmethod
    async def load(
        cls,
        spec: ModelSpec,
        *,
        start: Callable[[], Awaitable[Worker]],
        threads: int,
        max_waiting_tokens: int,
        load_timeout: float | None = None,
        ladder: Sequence[Rung] = CPU_LADDER,
    ) -> "ServedModel":
        """Start a worker for *spec*.

        Raises:
            ModelLoadError: It cannot be loaded.
            LoadTimeoutError: No progress for *load_timeout* seconds.
        """
        supervisor = Supervisor(
            spec, start=start, threads=threads, load_timeout=load_timeout, ladder=ladder
        )
        try:
            await supervisor.load()
        except BaseException:
            await supervisor.close()
            raise
        return cls(supervisor, BatchQueue(supervisor, max_waiting_tokens=max_waiting_tokens))

    @property
    def info(self) -> ModelInfo:
        """Facts of the loaded model."""
        return self._supervisor.info

    @property
    def pid(self) -> int:
        """Process id of the present worker."""
        return self._supervisor.worker.pid

    @property
    def broken(self) -> str | None:
        """Why this model can compute no more, or None."""
        return self._supervisor.broken

    async def tokenize(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text, special tokens included, never cut.

        Raises:
            EngineError: The worker died on it twice.
        """
        ids: list[TokenIds] = []
        for chunk in _chunks(texts):
            ids += await self._tokenize_chunk(chunk)
        return ids

    async def embed(self, sequences: Sequence[TokenIds], pooling: Pooling | None = None) -> Outcome:
        """See `BatchQueue.embed`."""
        return await self._queue.embed(sequences, pooling)

    async def close(self) -> None:
        """End the worker; what waits fails."""
        await self._queue.close()
        await self._supervisor.close()

    async def _tokenize_chunk(self, texts: Sequence[str]) -> list[TokenIds]:
        worker = self._supervisor.worker
        try:
            return await worker.tokenize(texts)
        except WorkerDiedError:
            # It may have died of a batch that computed beside: once more on the next.
            await self._supervisor.revive(worker)
            return await self._supervisor.worker.tokenize(texts)


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
