"""The end of a server: what its requests see of it."""

import asyncio

from aiohttp import web


class Shutdown:
    """Whether the server is shutting down, and the requests that are being answered meanwhile."""

    def __init__(self) -> None:
        self._has_begun = False
        self._running: set[asyncio.Task[object]] = set()
        self._stopped: set[asyncio.Task[object]] = set()

    @property
    def has_begun(self) -> bool:
        """Whether jobs that can resume later must end, and connections close after an answer."""
        return self._has_begun

    def begin(self) -> None:
        """Begin the shutdown; requests go on."""
        self._has_begun = True

    def enter(self) -> "asyncio.Task[object] | None":
        """Let `stop_requests` cancel the current task until `leave` is called with it.

        None if it can already, within another request.
        """
        task = asyncio.current_task()
        if task is None or task in self._running:
            return None
        self._running.add(task)
        return task

    def leave(self, task: "asyncio.Task[object] | None") -> None:
        """End what `enter` began, whose result is *task*."""
        if task is not None:
            self._running.discard(task)

    def stop_requests(self) -> None:
        """Cancel all requests that are being answered."""
        for task in self._running:
            self._stopped.add(task)
            task.cancel()

    def has_stopped_this(self) -> bool:
        """Whether `stop_requests` cancelled the current task, which is then no longer cancelled."""
        task = asyncio.current_task()
        if task is None or task not in self._stopped:
            return False
        self._stopped.discard(task)
        task.uncancel()
        return True


SHUTDOWN = web.AppKey("shutdown", Shutdown)
