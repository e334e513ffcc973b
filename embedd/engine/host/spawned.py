"""A worker process that is started before its server has imported what it talks to it with."""

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedd.engine.ipc.board import Board, open_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnedWorker:
    """A process, our end of its socket pair, and its board: what `WorkerProcess.adopt` needs."""

    process: subprocess.Popen[bytes]
    sock: socket.socket
    board: Board


def spawn_worker(module: str, engine: str, environment: Mapping[str, str]) -> SpawnedWorker:
    """Start ``python -m module``, which imports *engine* while it waits for its first message.

    Raises:
        OSError: The program does not exist, or the system has no process or descriptor left.
    """
    ours, theirs = socket.socketpair()
    with theirs, open_memory() as file:
        board = Board.create(file)
        descriptors = [theirs.fileno(), file.fileno()]
        try:
            process = subprocess.Popen(
                make_command(module, [*map(str, descriptors), engine]),
                pass_fds=descriptors,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except BaseException:
            ours.close()
            board.close()
            raise
    return SpawnedWorker(process=process, sock=ours, board=board)


def make_command(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs *module* in a new interpreter.

    It is never a fork: threads and locks do not survive one.
    """
    # -P: the user's folder must not provide modules.
    return [sys.executable, "-P", "-m", module, *arguments]
