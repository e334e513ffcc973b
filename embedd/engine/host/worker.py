"""The server's handle on one worker process, whatever its messages are."""

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import msgspec
import numpy.typing as npt

from embedd.engine.host import child, heartbeat
from embedd.engine.host.child import Child
from embedd.engine.host.connection import Frames
from embedd.engine.host.errors import SelfTestError, StuckError, WorkerDiedError
from embedd.engine.host.heartbeat import Activity, Heartbeat
from embedd.engine.ipc.messages import Failed, Fault, Ping, Pong, Progress
from embedd.errors import (
    EmbeddError,
    EngineError,
    InsufficientMemoryError,
    LoadTimeoutError,
    ModelLoadError,
)
from embedd.exhaustion import check_descriptors
from embedd.metrics import DeathReason

DESCRIPTORS: Final = 16  # that the start of a process takes for a moment

_Message = TypeVar("_Message", bound=msgspec.Struct)
_Answer = TypeVar("_Answer", bound=msgspec.Struct)


class Worker(Generic[_Message]):
    """A worker process from its start to its end.

    Every waiting call is answered or fails with `WorkerDiedError`, whatever happens to the
    process: one that ends fails its calls, and one that answers no pings is ended.

    Args:
        parse: Returns the message in the header of a frame.

    Attributes:
        module: What the process runs.
        death: How the process ended, or None.
    """

    module: ClassVar[str]

    def __init__(self, parse: Callable[[memoryview], _Message]) -> None:
        self.death: WorkerDiedError | None = None
        self._parse = parse
        self._child: Child
        self._frames: Frames[_Message]
        self._ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[tuple[_Message, bytes]]] = {}
        self._take_progress: Callable[[float], None] | None = None
        self._reading: asyncio.Task[None]
        self._heartbeat = Heartbeat()
        self._activity: Activity
        self._checked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._verdict: WorkerDiedError | None = None  # why `_end` was called
        self._answered: asyncio.Event | None = None  # of a retired worker: no call waits

    async def launch(self, environment: Mapping[str, str], files: Sequence[int] = ()) -> None:
        """Start the process, with one end of a socket pair and *files* as its descriptors.

        Raises:
            OSError: The system has no descriptor left.
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process left.
        """
        # Half a start would leave descriptors behind: uvloop closes not all of its own.
        check_descriptors(DESCRIPTORS)
        ours, theirs = socket.socketpair()
        with theirs:
            await self.connect(ours)
            try:
                descriptors = [theirs.fileno(), *files]
                started = await Child.start(self.module, descriptors, environment)
            except BaseException:
                self._frames.close()
                raise
        self.watch(started)

    async def connect(self, sock: socket.socket) -> None:
        """Talk through this end of a socket pair, whose other end the process has."""
        _, self._frames = await asyncio.get_running_loop().create_unix_connection(
            lambda: Frames(self._receive, self._parse), sock=sock
        )

    def watch(self, process: Child) -> None:
        """Fail every waiting call when *process*, which has the other end, ends."""
        self._child = process
        self._activity = Activity(process.pid)
        self._reading = asyncio.create_task(self._await_end())
        loop = asyncio.get_running_loop()
        self._checked = loop.time()
        self._timer = loop.call_later(heartbeat.INTERVAL, self._check)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for some seconds."""
        return self.death is None and self._heartbeat.is_silent

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._child.kill()

    async def retire(self) -> None:
        """Refuse calls from now on, and end the process once those that wait are answered."""
        self._answered = asyncio.Event()
        if self._calls and self.death is None:
            await self._answered.wait()
        await self.close()

    async def close(self) -> None:
        """End the process and wait until it is gone."""
        self._frames.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(child.GRACE):
                await asyncio.shield(self._reading)
                return
        self._child.kill()
        await asyncio.shield(self._reading)

    async def _load(
        self,
        kind: type[_Answer],
        make_message: Callable[[int], msgspec.Struct],
        *,
        name: str,
        timeout: float | None,
        report: Callable[[float], None],
    ) -> tuple[_Answer, bytes]:
        """Return the answer of this *kind* to a load.

        Raises:
            LoadTimeoutError: No progress for *timeout* seconds; None is unlimited.
            EmbeddError: As `_call`.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout) as deadline:

                def take_progress(share: float) -> None:
                    if timeout is not None and not deadline.expired():
                        deadline.reschedule(loop.time() + timeout)
                    report(share)

                self._take_progress = take_progress
                return await self._call(kind, make_message)
        except TimeoutError:
            raise LoadTimeoutError(f'timed out loading model "{name}"') from None
        finally:
            self._take_progress = None

    async def _call(
        self,
        kind: type[_Answer],
        make_message: Callable[[int], msgspec.Struct],
        array: npt.NDArray[Any] | None = None,
    ) -> tuple[_Answer, bytes]:
        """Return the worker's answer of this *kind* with its array.

        Raises:
            WorkerDiedError: The process ended.
            EmbeddError: It answered that the call failed, or with another kind.
        """
        if self.death is not None:
            raise WorkerDiedError(str(self.death), self.death.reason)
        if self._answered is not None:
            raise WorkerDiedError("the worker is being replaced", DeathReason.EXITED)
        id_ = next(self._ids)
        future: asyncio.Future[tuple[_Message, bytes]] = asyncio.get_running_loop().create_future()
        self._calls[id_] = future
        try:
            await self._frames.send(make_message(id_), array)
            answer, payload = await future
            if not isinstance(answer, kind):
                raise self._to_error(id_, answer)
        finally:
            self._calls.pop(id_, None)
            if self._answered is not None and not self._calls:
                self._answered.set()
        return answer, payload

    def _receive(self, message: _Message, array: bytes) -> None:
        match message:
            case Pong():
                pass  # `Frames.heard` says that something came
            case Progress():
                if self._take_progress is not None:
                    self._take_progress(message.share)
            case _:
                self._take_answer(message, array)

    def _take_answer(self, message: _Message, array: bytes) -> None:
        # A caller that was cancelled has no future.
        future = self._calls.get(cast("Any", message).id)
        if future is not None and not future.done():
            future.set_result((message, array))

    def _to_error(self, id_: int, answer: msgspec.Struct) -> EmbeddError:
        """Return the error for the call *id_*, which expected another kind than *answer*."""
        del id_
        return to_error(answer)

    def _check(self) -> None:
        """Ask for a sign of life, and end a process that gives none."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        seconds, self._checked = min(now - self._checked, heartbeat.LONGEST), now
        idle = self._activity.is_idle(seconds)
        reason = self._heartbeat.check(
            answered=self._frames.heard, idle=idle, loading=self._take_progress is not None
        )
        self._frames.heard = False
        if reason is not None:
            self._end(reason, "it did not answer")
        elif not self._frames.lost.done():
            self._frames.write(Ping())
            self._check_calls(seconds, idle=idle)
        self._timer = loop.call_later(heartbeat.INTERVAL, self._check)

    def _check_calls(self, seconds: float, *, idle: bool) -> None:
        """Look at the waiting calls, *seconds* after the last time."""

    def _end(self, reason: DeathReason, cause: str) -> None:
        """End the process, whose *cause* of death would otherwise be the signal alone."""
        if self._verdict is None:
            if reason is DeathReason.STOPPED:
                cause += " and used no processor"
            message = f"the worker process ended with SIGKILL: {cause}"
            self._verdict = WorkerDiedError(message, reason)
            self._child.kill()

    async def _await_end(self) -> None:
        await self._frames.lost
        death = await self._child.wait()
        self.death = self._verdict or death
        if self._timer is not None:
            self._timer.cancel()
        self._fail_calls(self.death)

    def _fail_calls(self, death: WorkerDiedError) -> None:
        for future in self._calls.values():
            if not future.done():
                future.set_exception(WorkerDiedError(str(death), death.reason))


def to_error(answer: msgspec.Struct) -> EmbeddError:
    """Return the error for a call that got this *answer* and expected another kind."""
    if not isinstance(answer, Failed):
        return EngineError(f"the worker answered with {type(answer).__name__}")
    match answer.fault:
        case Fault.STOPPED:
            return StuckError(answer.message)
        case Fault.MODEL:
            return ModelLoadError(answer.message)
        case Fault.SELF_TEST:
            return SelfTestError(answer.message)
        case Fault.MEMORY:
            return InsufficientMemoryError(answer.message)
        case Fault.INPUT:
            return EngineError(answer.message, index=answer.index)
