"""Contenders of the benchmark: servers and libraries, each in processes of its own."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import orjson
import psutil

from benchmarks.alone import list_backends
from benchmarks.libraries import HEADER, NUM_CTX, Job, Matrix

START = 60.0  # seconds

Embed = Callable[[Sequence[str]], Awaitable[bytes | Matrix]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """``embed`` is timed and returns a raw answer; ``parse`` reads it, outside the clock."""

    name: str
    embed: Embed
    parse: Callable[[bytes | Matrix], Matrix]
    pid: int
    url: str = ""

    def resident_bytes(self) -> int:
        """Return the resident bytes now, children included."""
        process = psutil.Process(self.pid)
        family = [process, *process.children(recursive=True)]
        return sum(one.memory_info().rss for one in family)


@asynccontextmanager
async def open_embedd(
    gguf: Path, cores: int, engine: str, *, state: Path | None = None, cache: int = 0
) -> AsyncIterator[Contender]:
    """Run ``embedd serve`` on a store of its own, calibrated for *engine*.

    Args:
        state: Folder for measurements; None is a temporary one.
        cache: Bytes of vectors that it caches.
    """
    with tempfile.TemporaryDirectory() as folder:
        port = find_free_port()
        environment = {
            **os.environ,
            "EMBEDD_MODELS": f"{folder}/models",
            "EMBEDD_STATE": str(state or f"{folder}/state"),
            "EMBEDD_THREADS": str(cores),
            "EMBEDD_CACHE_BYTES": str(cache),
            "EMBEDD_ENGINE": engine,
        }
        command = [sys.executable, "-m", "embedd"]
        subprocess.run(
            [*command, "create", "bench", "--from", str(gguf)],
            env=environment,
            check=True,
            capture_output=True,
        )
        subprocess.run([*command, "tune", "bench"], env=environment, check=True)
        serve = [*command, "serve", "--port", str(port)]
        url = f"http://127.0.0.1:{port}"
        async with open_process(serve, url, environment) as pid, _session() as session:

            async def embed(texts: Sequence[str]) -> bytes:
                body = {"model": "bench", "input": texts, "options": {"num_ctx": NUM_CTX}}
                return await _post(session, f"{url}/api/embed", body)

            backend = list_backends(engine)[0].name
            yield Contender(
                name=f"embedd, {backend}", embed=embed, parse=_parse_ollama, pid=pid, url=url
            )


@asynccontextmanager
async def open_llama_server(binary: Path, gguf: Path, cores: int) -> AsyncIterator[Contender]:
    """Run llama.cpp's own server with the settings that are best for embeddings."""
    port = find_free_port()
    command = [str(binary), "-m", str(gguf), "--embeddings", "--port", str(port)]
    command += ["-np", "8", "-ub", str(NUM_CTX), "-b", str(NUM_CTX * 8), "-c", str(NUM_CTX * 8)]
    command += ["-fa", "on", "-t", str(cores), "-tb", str(cores), "--no-webui"]
    url = f"http://127.0.0.1:{port}"
    environment = dict(os.environ)
    async with (
        open_process(command, f"{url}/health", environment) as pid,
        _session() as session,
    ):

        async def embed(texts: Sequence[str]) -> bytes:
            body = {"model": "bench", "input": texts}
            return await _post(session, f"{url}/v1/embeddings", body)

        yield Contender(name="llama-server", embed=embed, parse=_parse_openai, pid=pid, url=url)


@asynccontextmanager
async def open_in_process(
    name: str, job: Job, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Contender]:
    """Run a library in a process of its own: one request after the other, over a pipe.

    Args:
        environment: Of the process; None is that of this one.
    """
    arguments = [job.model, job.gguf, str(job.cores), str(job.folder), job.checkpoint]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-m", "benchmarks.libraries", name, *arguments],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment,
    )
    requests, answers = process.stdin, process.stdout
    if requests is None or answers is None:
        raise RuntimeError("no pipes were made")
    lock = asyncio.Lock()

    async def embed(texts: Sequence[str]) -> Matrix:
        async with lock:
            requests.write(orjson.dumps(texts) + b"\n")
            rows, columns = HEADER.unpack(await answers.readexactly(HEADER.size))
            data = await answers.readexactly(4 * rows * columns)
        return np.frombuffer(data, np.float32).reshape(rows, columns)

    await embed(["ready?"])
    yield Contender(name=name, embed=embed, parse=_as_is, pid=process.pid)
    requests.close()
    await process.wait()


@asynccontextmanager
async def open_process(
    command: Sequence[str], url: str, environment: dict[str, str], *, status: int = 200
) -> AsyncIterator[int]:
    """Run a server until the block ends; yield its process id once *url* is answered.

    Args:
        status: Of that answer.
    """
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        await _wait_until_up(url, process, status)
        yield process.pid
    finally:
        process.terminate()
        process.wait(START)


async def _wait_until_up(url: str, process: subprocess.Popen[bytes], status: int) -> None:
    deadline = time.monotonic() + START
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as reply:
                    if reply.status == status:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not answer")


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # Servers close connections that were idle while other contenders were measured.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=1),
        timeout=aiohttp.ClientTimeout(total=600),
    )


async def _post(session: aiohttp.ClientSession, url: str, body: object) -> bytes:
    async with session.post(url, data=orjson.dumps(body)) as reply:
        data = await reply.read()
        if reply.status != 200:
            raise RuntimeError(data[:500])
        return data


def _parse_ollama(data: bytes | Matrix) -> Matrix:
    return np.array(json.loads(bytes(data))["embeddings"], np.float32)


def _parse_openai(data: bytes | Matrix) -> Matrix:
    items = sorted(json.loads(bytes(data))["data"], key=lambda item: int(item["index"]))
    return np.array([item["embedding"] for item in items], np.float32)


def _as_is(data: bytes | Matrix) -> Matrix:
    return np.asarray(data, np.float32)


def find_free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port
