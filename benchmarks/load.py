"""Load by `wrk`, which is written in C: a client in Python takes the cores that it measures."""

import asyncio
import contextlib
import json
import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

from benchmarks.texts import WORDS

WORDS_OF_A_TEXT = (5, 9)  # least and most, and two numbers
# Each body has another text, so that nothing can be answered from memory.
SCRIPT = """
local words = {%(words)s}
local count, seed = 0, %(seed)d
math.randomseed(seed)
request = function()
  local text = {}
  for place = 1, math.random(%(least)d, %(most)d) do text[place] = words[math.random(#words)] end
  count = count + 1
  text[#text + 1] = seed
  text[#text + 1] = count
  local body = '{"model":"bench","input":"' .. table.concat(text, " ") .. '"}'
  return wrk.format("POST", "%(path)s", {["Content-Type"] = "application/json"}, body)
end
done = function(summary, latency, requests)
  local errors = summary.errors
  local wrong = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  local form = '\\nRESULT {"requests":%%d,"seconds":%%f,"p50":%%f,"p99":%%f,"errors":%%d}\\n'
  io.write(string.format(form, summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6, wrong))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a run of wrk measured; times in seconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used so far: seconds of the processor, and how often it woke up."""

    seconds: float = 0.0
    wakes: int = 0

    def __add__(self, other: Self) -> "Usage":
        """Return the sum."""
        return Usage(seconds=self.seconds + other.seconds, wakes=self.wakes + other.wakes)

    def __sub__(self, other: Self) -> "Usage":
        """Return what was used since *other*."""
        return Usage(seconds=self.seconds - other.seconds, wakes=self.wakes - other.wakes)


def is_installed() -> bool:
    """Whether there is a `wrk` to run."""
    return shutil.which("wrk") is not None


def make_texts(seed: int, count: int) -> list[str]:
    """Return *count* texts of the kind that `SCRIPT` sends: of as many words and numbers."""
    pick = random.Random(seed)
    return [
        " ".join([*pick.choices(WORDS, k=pick.randint(*WORDS_OF_A_TEXT)), str(seed), str(number)])
        for number in range(1, count + 1)
    ]


def make_script(path: str, seed: int) -> str:
    """Return the program of wrk, which sends unique short texts to *path*."""
    words = ",".join(f'"{word}"' for word in WORDS)
    least, most = WORDS_OF_A_TEXT
    return SCRIPT % {"words": words, "seed": seed, "path": path, "least": least, "most": most}


async def run_wrk(
    url: str, path: str, *, clients: int, seconds: int, seed: int, folder: Path
) -> Load:
    """Send requests from *clients* connections for so many seconds.

    Raises:
        RuntimeError: Requests failed.
    """
    script = folder / "texts.lua"
    script.write_text(make_script(path, seed))
    process = await asyncio.create_subprocess_exec(
        # A request may be slow without being lost: wrk's own limit is 2 s.
        *[
            "wrk",
            "-t1",
            f"-c{clients}",
            f"-d{seconds}s",
            "--timeout",
            "30s",
            "-s",
            str(script),
            url,
        ],
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    load = parse_result(output.decode())
    if load.errors or not load.requests:
        raise RuntimeError(f"{load.errors} of {load.requests} requests to {url}{path} failed")
    return load


def parse_result(output: str) -> Load:
    """Return what `SCRIPT` has printed.

    Raises:
        RuntimeError: It printed nothing: wrk itself failed.
    """
    found = re.search(r"^RESULT (.+)$", output, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk failed: {output[-500:]}")
    return Load(**json.loads(found[1]))


def read_usage(pid: int) -> Usage:
    """Return what the threads of a process have used so far; those that have ended are not in it.

    Linux counts the nanoseconds of a thread in ``schedstat``: ``stat`` has hundredths of seconds.
    """
    total = Usage()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            nanoseconds = int((task / "schedstat").read_text().split()[0])
            status = (task / "status").read_text()
            wakes = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", status, re.MULTILINE)
            total += Usage(seconds=nanoseconds / 1e9, wakes=int(wakes[1]) if wakes else 0)
    return total


def read_usages(pid: int) -> Sequence[Usage]:
    """Return what the process itself has used, and what its children have used together."""
    children = psutil.Process(pid).children(recursive=True)
    return read_usage(pid), sum((read_usage(one.pid) for one in children), Usage())
