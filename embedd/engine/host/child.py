"""A child process that has a socket: started, its last words kept, its end described."""

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Self

from embedd.engine.host.adopted import AdoptedProcess
from embedd.engine.host.errors import WorkerDiedError, to_start_error
from embedd.engine.host.exit_status import count_oom_kills, describe_exit
from embedd.engine.host.spawned import make_command

KEPT_STDERR = 8192  # bytes: a failed assertion is at the end
GRACE = 2.0  # seconds between the end of the socket and SIGKILL


class Child:
    """A process that runs a module of embedd in an interpreter of its own.

    Made by `start` or `adopt`.
    """

    def __init__(self, process: asyncio.subprocess.Process | AdoptedProcess) -> None:
        self._process = process
        self._oom_kills = count_oom_kills()
        self._stderr = b""
        self._reading = asyncio.create_task(self._keep_stderr())

    @classmethod
    async def start(
        cls, module: str, descriptors: Sequence[int], environment: Mapping[str, str]
    ) -> Self:
        """Start ``python -m module <descriptors>``, a new interpreter that has these files open.

        Raises:
            ModelLoadError: The program does not exist.
            WorkerUnavailableError: The system has no process or descriptor left.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *make_command(module, [*map(str, descriptors)]),
                pass_fds=descriptors,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise to_start_error(error) from error
        return cls(process)

    @classmethod
    async def adopt(cls, process: subprocess.Popen[bytes]) -> Self:
        """Take over a process that was started before there was an event loop."""
        return cls(await AdoptedProcess.adopt(process))

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def kill(self) -> None:
        """End the process at once; no effect if it has ended."""
        # Not `Process.kill`: that asks for the exit status, which asyncio's thread then misses.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def wait(self) -> WorkerDiedError:
        """Return how the process ended, whose socket has; kill it if it goes on."""
        try:
            async with asyncio.timeout(GRACE):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        await self._reading
        kills = count_oom_kills() - self._oom_kills
        code = self._process.returncode or 0
        return WorkerDiedError(*describe_exit(code, self._stderr, oom_kills=kills))

    async def _keep_stderr(self) -> None:
        stderr = self._process.stderr
        while stderr is not None and (chunk := await stderr.read(4096)):
            self._stderr = (self._stderr + chunk)[-KEPT_STDERR:]
