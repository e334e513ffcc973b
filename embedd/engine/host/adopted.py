"""A process that the event loop did not start."""

import asyncio
import contextlib
import subprocess
import threading
from typing import Self


class AdoptedProcess:
    """What `Child` needs of a process, for one that was started by `subprocess`.

    Attributes:
        returncode: Exit status, None while the process runs.
    """

    def __init__(self, process: subprocess.Popen[bytes], stderr: asyncio.StreamReader) -> None:
        self.pid = process.pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        # The loop of uvloop is notified of the ends of its own processes only.
        threading.Thread(target=self._await_end, args=[process], daemon=True).start()

    @classmethod
    async def adopt(cls, process: subprocess.Popen[bytes]) -> Self:
        """Read the standard error of *process*, a pipe, and wait for its end from now on."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), process.stderr
        )
        return cls(process, reader)

    async def wait(self) -> int | None:
        """Return the exit status once the process has ended."""
        await self._ended.wait()
        return self.returncode

    def _await_end(self, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._end, status)

    def _end(self, status: int) -> None:
        self.returncode = status
        self._ended.set()
