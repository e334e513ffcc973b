"""A server in a process of its own, started by the command that users start it with."""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MARK = "sk-secret-"  # keys of tests begin so
START = 60.0  # seconds


@contextmanager
def serving(embedd: Path, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Base URL of a server that *embedd* runs with *environment*, until the block ends.

    Args:
        embedd: The command.
        environment: All variables that it sees; ``EMBEDD_HOST`` should name port 0.
        log: File for its log, which says where it listens.
    """
    with log.open("w") as output:
        server = subprocess.Popen([embedd, "serve"], env=environment, stderr=output)
    try:
        deadline = time.monotonic() + START
        while not (found := re.search(r"address=(http://\S+)", log.read_text())):
            assert time.monotonic() < deadline, log.read_text()
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        yield found[1]
    finally:
        server.terminate()
        status = server.wait(START)
    assert status == 0, log.read_text()
    assert MARK not in log.read_text(), "a key was logged"
