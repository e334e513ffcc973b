"""A server in a process of its own, as a user starts it; what it takes; and its end."""

import asyncio
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.needs import INHERITED

START = 60.0  # seconds that a start or an end may take on a busy machine
MIB = 1 << 20
Limits = Mapping[int, int]  # of `resource.setrlimit`, the soft ones


@dataclass(slots=True)
class Home:
    """The folders of servers, which are started one after the other.

    Args:
        outside: Variables of other programs.
        inside: Settings of all servers, without their prefix.
    """

    folder: Path
    outside: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)
    started: int = field(default=0)
    module: str = "embedd"  # that is the command

    @property
    def models(self) -> Path:
        """Folder of the store."""
        return self.folder / "models"

    def environment(self, **settings: str) -> dict[str, str]:
        """Return variables for embedd: nothing of this machine's own, and *settings*."""
        outside = {name: value for name, value in os.environ.items() if "EMBEDD_" not in name}
        values = {
            "HOST": "127.0.0.1:0",
            "MODELS": str(self.models),
            "STATE": str(self.folder / "state"),
            # What is answered was computed.
            "CACHE_BYTES": "0",
            **self.inside,
            **settings,
        }
        return (
            outside
            | INHERITED
            | self.outside
            | {f"EMBEDD_{name}": value for name, value in values.items()}
        )

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run an embedd command and return how it ended."""
        return subprocess.run(
            [sys.executable, "-m", self.module, *command],
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *, limits: Limits | None = None, **settings: str) -> "Server":
        """Start a server and wait until it listens.

        Args:
            limits: Of resources, for it and its workers.
        """
        log = self.folder / f"log{self.started}"
        self.started += 1

        def limit() -> None:
            for kind, value in (limits or {}).items():
                resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))

        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", self.module, "serve"],
                env=self.environment(**settings),
                stdout=output,
                stderr=output,
                preexec_fn=limit,  # noqa: PLW1509 - no other thread holds a lock that it needs
            )
        server = Server(process, log)
        try:
            wait_until(lambda: server.has_ended or server.address is not None)
            assert server.address is not None, server.log
        except BaseException:
            process.kill()
            process.wait()
            raise
        server.port = int(server.address.rpartition(":")[2])
        return server

    @contextmanager
    def open(self, *, limits: Limits | None = None, **settings: str) -> Iterator["Server"]:
        """Run a server until the block ends; it ends in order and has had no bug."""
        server = self.start(limits=limits, **settings)
        try:
            yield server
            if not server.has_ended:
                assert server.stop() == 0, server.log
            assert "Traceback" not in server.log, server.log
        finally:
            server.kill()


@dataclass(slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    path: Path
    port: int = 0

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it has written."""
        return self.path.read_text()

    @property
    def address(self) -> str | None:
        """Where it listens; None if it does not yet."""
        found = re.search(r"address=(http://\S+)", self.log)
        return found and found[1]

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.process.poll() is not None

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that have a model, or load one."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return []
        return [child for child in children if _is_worker(child)]

    @property
    def peak(self) -> float:
        """Most memory that it has had since `forget_peak`, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found, status
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        """Let `peak` begin with what it has now."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def kill_workers(self) -> int:
        """Kill all workers from outside; return how many."""
        killed = 0
        for worker in self.workers:
            try:
                worker.kill()
                killed += 1
            except psutil.NoSuchProcess:
                pass
        return killed

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(START)

    async def wait(self) -> int:
        """Return the exit status of a server that was asked to stop."""
        async with asyncio.timeout(START):
            while not self.has_ended:
                await asyncio.sleep(0.02)
        return self.process.wait()

    def kill(self) -> None:
        """End it at once, if it runs."""
        if not self.has_ended:
            self.process.kill()
        self.process.wait()


def wait_until(condition: Callable[[], bool], limit: float = START) -> None:
    """Wait until *condition* holds; fail after *limit* seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def repeat(rounds: int, kills: Sequence[int]) -> Iterator[int]:
    """Yield so many numbers, and up to nine more until one of *kills*, which grows, is not 0.

    What is to be killed may have ended a moment before.
    """
    for number in range(rounds + 9):
        if number >= rounds and any(kills):
            return
        yield number


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "embedd.engine.worker" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A file system in memory on *folder*; the test is skipped where that is not allowed."""
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
