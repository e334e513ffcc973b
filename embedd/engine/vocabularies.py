"""Where each model is tokenized: in the server, in its worker, or by llama.cpp."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from embedd.choices import TokenizerChoice
from embedd.engine.backends import Backend
from embedd.engine.host.errors import WorkerDiedError
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.serving.local_tokenizer import LocalTokenizer, TokenizerCache
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelSpec
from embedd.engine.tokenizer_place import (
    LLAMA_TOKENIZER,
    TokenizerPlace,
    TokenizerVerdict,
    refuse,
)
from embedd.engine.tuning.store import TuningStore
from embedd.errors import ModelLoadError, WorkerUnavailableError

log = logging.getLogger(__name__)

PROCESSES = 2  # with a vocabulary and no weights, at a time


def find_verdict(store: TuningStore, spec: ModelSpec) -> TokenizerVerdict | None:
    """Return what is known of the tokenizer of *spec*, or None if it was never tried."""
    # A file without a digest is loaded once, to see whether it can be.
    if spec.tokenizer is TokenizerChoice.LLAMA or not spec.digest:
        return LLAMA_TOKENIZER
    return store.read_tokenizer(spec)


class Vocabularies:
    """Chooses and opens the tokenizers of models.

    Args:
        start: Starts a worker process that has loaded nothing yet.
        backend: Whose tokenizer is used where the model's own is not.
        store: Keeps what was found out of each file.
        load_timeout: Seconds that a load may make no progress; None is unlimited.
    """

    def __init__(
        self,
        *,
        start: Callable[[], Awaitable[WorkerProcess]],
        backend: Backend,
        store: TuningStore,
        load_timeout: float | None,
        cache: TokenizerCache | None = None,
    ) -> None:
        self._start = start
        self._backend = backend
        self._store = store
        self._load_timeout = load_timeout
        self._cache = TokenizerCache() if cache is None else cache
        self._processes = asyncio.Semaphore(PROCESSES)
        self._preparing: set[asyncio.Task[None]] = set()

    def choose_place(self, spec: ModelSpec) -> TokenizerPlace | None:
        """Return where *spec* is tokenized; None if a worker has to find that out."""
        verdict = find_verdict(self._store, spec)
        return None if verdict is None else verdict.place

    def prepare(self, spec: ModelSpec) -> None:
        """Build the tokenizer of *spec* if it is known to live in this process, for `attach`.

        Meanwhile its worker loads. One that nothing takes is forgotten like those of other models.
        """
        if self.choose_place(spec) is TokenizerPlace.SERVER:
            task = asyncio.create_task(self._build(spec))
            self._preparing.add(task)
            task.add_done_callback(self._preparing.discard)

    async def attach(self, spec: ModelSpec, model: ServedModel) -> None:
        """Give *model*, which was just loaded, its tokenizer if that lives in this process.

        What its worker found out is kept for later loads.
        """
        verdict = model.tokenizer_verdict
        self._learn(spec, verdict)
        if verdict.place is TokenizerPlace.SERVER:
            tokenizer = await self._open_here(spec)
            if tokenizer is None:
                model.use_llama_tokenizer()
            else:
                model.use_tokenizer(tokenizer)

    @asynccontextmanager
    async def open(self, spec: ModelSpec) -> AsyncIterator[LocalTokenizer | WorkerProcess]:
        """The tokenizer of *spec* without its weights.

        One that does not live in this process has a worker, which ends with the block.

        Raises:
            ModelLoadError: The file cannot be used.
            LoadTimeoutError: The load makes no progress.
            WorkerUnavailableError: Its worker was ended from outside.
        """
        place = self.choose_place(spec)
        async with AsyncExitStack() as stack:
            if place is TokenizerPlace.SERVER:
                local = await self._open_here(spec)
                if local is not None:
                    stack.callback(local.close)
                    yield local
                    return
                place = TokenizerPlace.LLAMA
            await stack.enter_async_context(self._processes)
            try:
                worker = await self._open_process(spec, place, stack)
                self._learn(spec, worker.tokenizer)
            except WorkerDiedError as death:
                if death.is_external:  # it says nothing of the tokenizer
                    raise WorkerUnavailableError(f"{death}: try again later") from death
                if place is TokenizerPlace.LLAMA:
                    raise
                worker = await self._open_process(spec, TokenizerPlace.LLAMA, stack)
                # It works without the model's own tokenizer: that ended the process.
                self._learn(spec, refuse(death))
            try:
                yield worker
            except WorkerDiedError as death:
                if death.is_external:
                    raise WorkerUnavailableError(f"{death}: try again later") from death
                raise

    def close(self) -> None:
        """Forget the tokenizers that nothing uses."""
        self._cache.close()

    async def _build(self, spec: ModelSpec) -> None:
        with contextlib.suppress(ModelLoadError):  # `attach` tries again, and says so
            (await self._cache.open(spec)).close()

    async def _open_here(self, spec: ModelSpec) -> LocalTokenizer | None:
        """The tokenizer in this process; None if it cannot be built, though a worker could."""
        try:
            return await self._cache.open(spec)
        except ModelLoadError as error:
            _log_refusal(spec, str(error))
            return None

    async def _open_process(
        self, spec: ModelSpec, place: TokenizerPlace | None, stack: AsyncExitStack
    ) -> WorkerProcess:
        """A worker with the tokenizer and no weights, which ends with *stack*."""
        worker = await self._start()
        stack.push_async_callback(worker.close)
        load = Load(spec=spec, backend=self._backend, vocabulary_only=True, tokenizer=place)
        await worker.load(load, timeout=self._load_timeout)
        return worker

    def _learn(self, spec: ModelSpec, verdict: TokenizerVerdict) -> None:
        """Keep what a worker found out of a file that was not known; log a refusal."""
        if find_verdict(self._store, spec) is None:
            self._store.write_tokenizer(spec, verdict)
        if verdict.reason:
            _log_refusal(spec, verdict.reason)


def _log_refusal(spec: ModelSpec, reason: str) -> None:
    log.warning("model is tokenized by llama.cpp", extra={"model": spec.name, "reason": reason})
