"""The Python of README and docs runs against a server, whose workers compute quickly."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.documents import BLOCKS, Block
from tests.system.serving import open_fake_server

ADDRESS = "localhost:11434"
# Runs a program that may await outside of functions, as notebooks do.
RUN = """
import ast, asyncio, sys
running = eval(compile(sys.stdin.read(), "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
if running is not None:
    asyncio.run(running)
"""
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.reason]


async def run_block(code: str, address: str) -> tuple[int | None, str]:
    """Return the exit status of a program, and its errors; its server is at *address*."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        RUN,
        env={**os.environ, "OLLAMA_HOST": address},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await process.communicate(code.replace(ADDRESS, address).encode())
    return process.returncode, errors.decode()


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
async def test_a_python_block_runs(
    block: Block, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_fake_server(tmp_path, ["all-minilm"], monkeypatch) as server:
        assert await run_block(block.code, server.url.removeprefix("http://")) == (0, "")


async def test_a_python_block_that_is_wrong_fails() -> None:
    status, errors = await run_block("async with nothing: pass", ADDRESS)
    assert status == 1
    assert "NameError" in errors
