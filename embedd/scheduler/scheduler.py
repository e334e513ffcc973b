"""The scheduler: it leases models to requests, and loads and unloads them for that.

Every decision is synchronous and runs between two awaits, so that nothing changes between a
check and its effect. A load belongs to the scheduler, not to the request that asked first:
that client may leave while others still wait.
"""

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import overload

from embedd.engine.image_spec import ImageSpec
from embedd.engine.serving.image_model import ServedImageModel
from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelSpec
from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
    OverloadedError,
    ShuttingDownError,
)
from embedd.metrics import LoadFailure, Metrics, Overload, Unload
from embedd.scheduler.eviction import choose_victims
from embedd.scheduler.expiry import Clock, Expiry
from embedd.scheduler.memory import estimate_image_bytes
from embedd.scheduler.records import AnyModel, AnySpec, ModelStatus, Resident, Wanted

log = logging.getLogger(__name__)

# The first class that an error is an instance of counts.
FAILURES = (
    (InsufficientMemoryError, LoadFailure.MEMORY),
    (ModelLoadError, LoadFailure.MODEL),
    (LoadTimeoutError, LoadFailure.TIMEOUT),
    (Exception, LoadFailure.INTERNAL),
)


async def _refuse_image(spec: ImageSpec) -> ServedImageModel:
    raise ModelLoadError(f'model "{spec.name}" makes images, which this server does not')


class _Lease(AbstractAsyncContextManager[AnyModel]):
    """A block in which a model is not unloaded: a class, because each request has one.

    Args:
        take: Returns the model if it is ready, else a request that waits for it.
        wait: Waits until such a request is granted.
    """

    __slots__ = ("_cancelled", "_release", "_resident", "_take", "_wait")

    def __init__(
        self,
        take: Callable[[], Resident | Wanted],
        wait: Callable[[Wanted], Awaitable[Resident]],
        release: Callable[[Resident], None],
        cancelled: Callable[[], None],
    ) -> None:
        self._take = take
        self._wait = wait
        self._release = release
        self._cancelled = cancelled
        self._resident: Resident

    async def __aenter__(self) -> AnyModel:
        taken = self._take()
        if isinstance(taken, Wanted):
            try:
                taken = await self._wait(taken)
            except asyncio.CancelledError:
                self._cancelled()
                raise
        self._resident = taken
        return taken.model

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._release(self._resident)
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._cancelled()


class Scheduler:
    """Decide which models are in memory.

    Args:
        load: Loads a model; may take long, and raise.
        load_image: The same for image models.
        estimate: Returns the bytes that a model will take.
        memory: Budget in bytes for all models together.
        max_models: Most models in memory at a time.
        max_queue: Most requests that wait for models to be loaded.
        keep_alive: Seconds that an idle model stays loaded, unless a request says otherwise.
        clock: None for the event loop's.
    """

    def __init__(
        self,
        *,
        load: Callable[[ModelSpec], Awaitable[ServedModel]],
        estimate: Callable[[ModelSpec], int],
        memory: int,
        max_models: int,
        max_queue: int,
        keep_alive: float,
        metrics: Metrics,
        load_image: Callable[[ImageSpec], Awaitable[ServedImageModel]] = _refuse_image,
        clock: Clock | None = None,
    ) -> None:
        self._load_embedder = load
        self._load_image = load_image
        self._estimate_embedder = estimate
        self._memory = memory
        self._max_models = max_models
        self._max_queue = max_queue
        self._keep_alive = keep_alive
        self._metrics = metrics
        self._clock = clock
        self._residents: dict[Hashable, Resident] = {}
        self._wanted: dict[Hashable, Wanted] = {}  # in order of arrival
        self._closed = False

    @overload
    def lease(
        self, spec: ModelSpec, keep_alive: float | None = None, *, deadline: float | None = None
    ) -> AbstractAsyncContextManager[ServedModel]: ...

    @overload
    def lease(
        self, spec: ImageSpec, keep_alive: float | None = None, *, deadline: float | None = None
    ) -> AbstractAsyncContextManager[ServedImageModel]: ...

    def lease(
        self, spec: AnySpec, keep_alive: float | None = None, *, deadline: float | None = None
    ) -> AbstractAsyncContextManager[AnyModel]:
        """Load the model if it is not, and keep it loaded until the block ends.

        A task that is cancelled here, waiting or in the block, counts as a client that left, or
        as late if its deadline has passed.

        Args:
            deadline: When the task is cancelled, by ``time.perf_counter``; None is never.
            keep_alive: Seconds to stay loaded afterwards, ``math.inf`` for ever; None
                keeps the model's present value.

        Raises:
            OverloadedError: Too many requests wait for models to load.
            ModelLoadError: It cannot be loaded.
            ShuttingDownError: `close` was called.
        """
        cancelled = functools.partial(self._count_cancelled, spec.name, deadline)
        take = functools.partial(self._take, spec, keep_alive)
        return _Lease(take, self._wait, self._release, cancelled)

    def _count_cancelled(self, model: str, deadline: float | None) -> None:
        metrics = self._metrics.of_model(model)
        is_late = deadline is not None and time.perf_counter() >= deadline
        (metrics.late if is_late else metrics.cancelled).inc()

    async def unload(self, spec: AnySpec) -> None:
        """Unload the model when its requests have ended; an idle one before this returns."""
        if (wanted := self._wanted.get(spec.key)) is not None:
            wanted.keep_alive = 0.0
        resident = self._residents.get(spec.key)
        if resident is None:
            return
        resident.expiry.keep_alive = 0.0
        if not resident.users:
            self._retire(resident, Unload.ASKED)
        if resident.unloading is not None:
            await asyncio.shield(resident.unloading)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def is_ready(self, spec: AnySpec) -> bool:
        """Return whether a lease taken now would not wait for a load."""
        one = self._residents.get(spec.key)
        return one is not None and one.leaving is None and one.model.unhealthy_reason is None

    def statuses(self) -> list[ModelStatus]:
        """Return the status of every model in memory, then of those being loaded."""
        clock = self._now()
        loaded = [one.status(clock) for one in self._residents.values()]
        loading = [
            ModelStatus(spec=one.spec, size=one.size, expires_in=one.keep_alive)
            for one in self._wanted.values()
            if one.loading
        ]
        return loaded + loading

    @property
    def room(self) -> int:
        """Bytes of the budget that no model in memory or being loaded takes."""
        return -self._shortage(0)[1]

    @property
    def load_waiters(self) -> Mapping[str, int]:
        """Requests that wait for a load, by the name of the model."""
        waiters: Counter[str] = Counter()
        for wanted in self._wanted.values():
            waiters[wanted.spec.name] += wanted.waiters
        return waiters

    async def close(self) -> None:
        """Unload all models; requests that wait, and later ones, fail."""
        self._closed = True
        tasks = []
        for wanted in list(self._wanted.values()):
            if wanted.task is not None:
                wanted.task.cancel()
                tasks.append(wanted.task)
            self._fail(wanted, ShuttingDownError())
        for resident in list(self._residents.values()):
            resident.expiry.stop()
            resident.leaving = resident.leaving or Unload.SHUTDOWN
            tasks.append(self._start_unloading(resident))
        if tasks:
            await asyncio.wait(tasks)

    def _take(self, spec: AnySpec, keep_alive: float | None) -> Resident | Wanted:
        """Return the model with one more user, or a request for it that has one more waiter."""
        if self._closed:
            raise ShuttingDownError
        resident = self._residents.get(spec.key)
        if resident is not None and resident.model.unhealthy_reason is not None:
            self._retire(resident, Unload.BROKEN)
        if resident is None or resident.leaving is not None:
            return self._want(spec, keep_alive)
        resident.expiry.hold()
        resident.users += 1
        if keep_alive is not None:
            resident.expiry.keep_alive = keep_alive
        return resident

    def _want(self, spec: AnySpec, keep_alive: float | None) -> Wanted:
        """Add a request to those that wait for the model."""
        size = self._estimate(spec)
        if size > self._memory:
            self._metrics.of_model(spec.name).load_failures[LoadFailure.MEMORY].inc()
            raise InsufficientMemoryError(
                f'model "{spec.name}" needs about {size} bytes, the budget is {self._memory} '
                "(EMBEDD_MEMORY): raise it or use a smaller quantisation"
            )
        wanted = self._wanted.get(spec.key)
        if self._count_waiting_with(spec, wanted, size) > self._max_queue:
            self._metrics.of_model(spec.name).overloads[Overload.LOADS].inc()
            raise OverloadedError(f"{self._max_queue} requests already wait for models to load")
        if wanted is None:
            wanted = self._wanted[spec.key] = Wanted(
                spec=spec,
                size=size,
                keep_alive=self._keep_alive,
                ready=asyncio.get_running_loop().create_future(),
            )
        if keep_alive is not None:
            wanted.keep_alive = keep_alive
        wanted.waiters += 1
        self._advance()
        return wanted

    def _count_waiting_with(self, spec: AnySpec, wanted: Wanted | None, size: int) -> int:
        """Return how many requests would be queued if one more came for *spec*.

        One request for each running load is not counted; while no load is running, nor is the
        first in line, which is about to load.
        """
        all_wanted = self._wanted.values()
        loads = sum(1 for one in all_wanted if one.loading and one.waiters)
        if wanted is None:
            loads += not any(map(self._blocks, all_wanted)) and self._has_room(spec, size)
        else:
            loads += wanted.loading and not wanted.waiters
        return sum(one.waiters for one in all_wanted) + 1 - max(loads, 1)

    async def _wait(self, wanted: Wanted) -> Resident:
        try:
            return await asyncio.shield(wanted.ready)
        except asyncio.CancelledError:
            self._leave(wanted)
            raise

    def _leave(self, wanted: Wanted) -> None:
        """Remove a client that left. A load that has begun goes on: others may want the model."""
        if wanted.ready.done() and wanted.ready.exception() is None:
            self._release(wanted.ready.result())
            return
        wanted.waiters -= 1
        if not wanted.waiters and wanted.task is None:
            self._wanted.pop(wanted.spec.key, None)
            self._advance()

    def _release(self, resident: Resident) -> None:
        resident.users -= 1
        if resident.users:
            return
        if resident.leaving is not None:
            self._start_unloading(resident)
        elif resident.expiry.keep_alive <= 0:
            self._retire(resident, Unload.ASKED)
        else:
            expire = functools.partial(self._retire, resident, Unload.EXPIRED)
            resident.expiry.start(self._now(), expire)
            if self._wanted:
                self._advance()

    def _advance(self) -> None:
        """Start the loads that have room, and make room for the first that has none."""
        for wanted in filter(self._blocks, self._wanted.values()):
            if not self._has_room(wanted.spec, wanted.size):
                self._make_room(wanted)
                # First come, first served: no later load overtakes one that waits for memory.
                return
            wanted.task = asyncio.create_task(self._load(wanted))

    def _blocks(self, wanted: Wanted) -> bool:
        """Return whether later loads queue behind this one.

        They do if it waits for memory, not for its own previous instance to unload.
        """
        return not wanted.loading and wanted.spec.key not in self._residents

    def _has_room(self, spec: AnySpec, size: int) -> bool:
        return spec.key not in self._residents and max(self._shortage(size)) <= 0

    def _make_room(self, wanted: Wanted) -> None:
        staying = [one for one in self._residents.values() if one.leaving is None]
        leaving = [one for one in self._residents.values() if one.leaving is not None]
        places, size = self._shortage(wanted.size)
        victims = choose_victims(
            staying,
            places=places - len(leaving),
            size=size - sum(one.size for one in leaving),
        )
        for victim in victims:
            log.info("model evicted", extra={"model": victim.spec.name})
            self._retire(victim, Unload.EVICTED)

    def _shortage(self, size: int) -> tuple[int, int]:
        """Return how many models and bytes are too many for another model of *size* bytes.

        Nothing need be unloaded if both are 0 or less.
        """
        loading = [one for one in self._wanted.values() if one.loading]
        used = sum(one.size for one in self._residents.values()) + sum(one.size for one in loading)
        places = len(self._residents) + len(loading) + 1 - self._max_models
        return places, used + size - self._memory

    def _retire(self, resident: Resident, reason: Unload) -> None:
        """Grant no new leases; unload now, or when the last lease ends."""
        if resident.leaving is not None:
            return
        resident.expiry.stop()
        resident.leaving = reason
        if not resident.users:
            self._start_unloading(resident)

    def _start_unloading(self, resident: Resident) -> asyncio.Task[None]:
        if resident.unloading is None:
            resident.unloading = asyncio.create_task(self._unload(resident))
        return resident.unloading

    async def _unload(self, resident: Resident) -> None:
        try:
            await resident.model.close()
        except Exception:
            # It must not take up memory in the books for ever.
            log.exception("model failed to close", extra={"model": resident.spec.name})
        del self._residents[resident.spec.key]
        self._count_unload(resident)
        self._advance()

    async def _load(self, wanted: Wanted) -> None:
        try:
            try:
                model = await self._load_model(wanted.spec)
            except InsufficientMemoryError:
                if not await self._unload_idle():
                    raise
                model = await self._load_model(wanted.spec)
        except EmbeddError as error:
            log.warning(
                "model failed to load", extra={"model": wanted.spec.name, "reason": str(error)}
            )
            self._count_failure(wanted, error)
            self._fail(wanted, error)
        except Exception as error:
            log.exception("model failed to load", extra={"model": wanted.spec.name})
            self._count_failure(wanted, error)
            self._fail(wanted, EmbeddError("internal error"))
        else:
            self._settle(wanted, model)
        self._advance()

    async def _load_model(self, spec: AnySpec) -> AnyModel:
        if isinstance(spec, ImageSpec):
            return await self._load_image(spec)
        return await self._load_embedder(spec)

    def _estimate(self, spec: AnySpec) -> int:
        if isinstance(spec, ImageSpec):
            return estimate_image_bytes(spec)
        return self._estimate_embedder(spec)

    async def _unload_idle(self) -> bool:
        idle = [one for one in self._residents.values() if not one.users]
        for resident in idle:
            self._retire(resident, Unload.EVICTED)
        if idle:
            await asyncio.wait([self._start_unloading(one) for one in idle])
        return bool(idle)

    def _settle(self, wanted: Wanted, model: AnyModel) -> None:
        # Every waiter becomes a user here, before any of them runs, so that nothing evicts the
        # model between its load and its first request.
        resident = Resident(
            spec=wanted.spec,
            model=model,
            size=wanted.size,
            expiry=Expiry(wanted.keep_alive),
            users=wanted.waiters + 1,
        )
        del self._wanted[wanted.spec.key]
        self._residents[wanted.spec.key] = resident
        wanted.ready.set_result(resident)
        self._release(resident)

    def _fail(self, wanted: Wanted, error: EmbeddError) -> None:
        self._wanted.pop(wanted.spec.key, None)
        if not wanted.ready.done():
            wanted.ready.set_exception(error)
            wanted.ready.exception()  # marked as seen: all clients may have left

    def _count_unload(self, resident: Resident) -> None:
        name = resident.spec.name
        reason = resident.leaving
        # Whatever ended it: a model that could not be restarted counts as broken.
        if reason is None or resident.model.unhealthy_reason is not None:
            reason = Unload.BROKEN
        self._metrics.of_model(name).unloads[reason].inc()
        log.info("model unloaded", extra={"model": name, "reason": reason})

    def _count_failure(self, wanted: Wanted, error: Exception) -> None:
        reason = next(why for kind, why in FAILURES if isinstance(error, kind))
        self._metrics.of_model(wanted.spec.name).load_failures[reason].inc()

    def _now(self) -> Clock:
        return self._clock if self._clock is not None else asyncio.get_running_loop()
