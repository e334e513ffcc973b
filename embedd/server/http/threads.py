"""Threads of their own for calls that may take long.

The threads that requests share are few: where waiters for the store's lock or writers on a slow
disk took them, no other request was answered.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from aiohttp import web

from embedd.errors import OverloadedError

T = TypeVar("T")

MAX_WAITING: Final = 64  # calls


class Threads:
    """Runs at most *size* calls at a time; more wait for their turn.

    The threads are daemons: the process can end while one hangs.

    Args:
        what: Is calls in messages.
        waiting: Calls that may wait.
        wait: Seconds that they may wait.
    """

    def __init__(self, what: str, *, size: int, waiting: int, wait: float) -> None:
        self._what = what
        self._size = size
        self._most_waiting = waiting
        self._wait = wait
        self._waiting = 0
        self._free = asyncio.Semaphore(size)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what *function* returns; when cancelled, do not wait for it.

        Raises:
            OverloadedError: Too many calls wait, or one waited too long.
        """
        return await (await self.start(lambda: function(*arguments)))

    async def start(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Start *function* when it is its turn; return the future of its result.

        Raises:
            OverloadedError: Too many calls wait, or one waited too long.
        """
        await self._take_turn()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        try:
            threading.Thread(
                target=self._work, args=(function, done), name=self._what, daemon=True
            ).start()
        except BaseException:
            self._free.release()
            raise
        return done

    async def _take_turn(self) -> None:
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise self._overloaded()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait):
                await self._free.acquire()
        except TimeoutError:
            raise self._overloaded() from None
        finally:
            self._waiting -= 1

    def _work(self, function: Callable[[], T], done: "asyncio.Future[T]") -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = function()
        except BaseException as error:
            failure = error
        # A loop that is closed has no caller left.
        with contextlib.suppress(RuntimeError):
            done.get_loop().call_soon_threadsafe(self._settle, done, result, failure)
        # The traceback of a failure has this frame: a cycle would keep all that the call held.
        del function, done, result, failure

    def _settle(
        self, done: "asyncio.Future[T]", result: T | None, failure: BaseException | None
    ) -> None:
        self._free.release()
        if done.done():  # its caller was cancelled
            return
        if failure is None:
            done.set_result(result)  # type: ignore[arg-type]  # a T where nothing failed
        else:
            done.set_exception(failure)

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(f"{self._size} {self._what} are running: try again later")


class Pools:
    """The threads of one server.

    Attributes:
        jobs: Pulls and creates, which may take hours; none waits unseen.
        uploads: Writes of uploaded files, and their hashing.
        changes: Changes of the store, which wait for its lock.
    """

    def __init__(self) -> None:
        self.jobs = Threads("pulls and creates", size=16, waiting=0, wait=60.0)
        self.uploads = Threads("uploads", size=4, waiting=MAX_WAITING, wait=60.0)
        self.changes = Threads("changes of the store", size=4, waiting=MAX_WAITING, wait=10.0)


POOLS = web.AppKey("pools", Pools)
