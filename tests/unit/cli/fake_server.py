"""A loopback server that speaks enough of Ollama's API for the client and the commands.

It has a set of models and remembers what it was asked; `refusals` are answered instead.
"""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeAlias

from aiohttp import web

Json: TypeAlias = dict[str, Any]
RUNNING: Json = {
    "name": "all-minilm:latest",
    "model": "all-minilm:latest",
    "size": 58195968,
    "digest": "1b226e2802db" + "0" * 52,
    "details": {"family": "bert", "families": ["bert"]},
    "expires_at": "2318-01-01T00:00:00Z",
    "size_vram": 0,
    "context_length": 256,
    "engine": "openvino",
    "backend": "openvino-bf16",
    "tokenizer": "model",
}
STORED: Json = {
    "name": "all-minilm:latest",
    "model": "all-minilm:latest",
    "modified_at": "2020-08-21T08:06:48.639712123-07:00",
    "size": 45960996,
    "digest": "1b226e2802db" + "0" * 52,
    "details": {"families": None},
    "capabilities": ["embedding"],
}

SHOWN: Json = {
    "modelfile": "FROM x\n",
    "template": "{{ .Prompt }}",
    "details": {"family": "bert", "parameter_size": "22.57M", "quantization_level": "F16"},
    "model_info": {"general.architecture": "bert", "bert.context_length": 512},
    "capabilities": ["embedding"],
    "modified_at": "2020-08-21T08:06:48.639712123-07:00",
}


def pack_vector(text: str) -> bytes:
    """The numbers that the server sends as base64."""
    return struct.pack("<3f", len(text), zlib.crc32(text.encode()) % 1000, 0.5)


@dataclass
class FakeServer:
    """Vectors are [length of the text, place in the request, 0.1]."""

    backend: str = "1b226e2802db;engine=fake;backend=llama;tokenizer=model"
    models: set[str] = field(default_factory=lambda: {"all-minilm"})
    version: str = "0.0.1"
    shown_backend: str = ""  # as `show` names it
    is_embedd: bool = True  # else it answers as Ollama does
    pull_lines: tuple[Json, ...] = ({"status": "pulling manifest"}, {"status": "success"})
    capabilities: tuple[str, ...] = ("embedding",)
    picture: bytes = b"a picture"
    paint_lines: tuple[Json, ...] = (
        {"done": False, "completed": 1, "total": 2},
        {"done": False, "completed": 2, "total": 2},
    )
    refusals: dict[str, web.Response] = field(default_factory=dict)
    asked: list[tuple[str, str, Json]] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)  # of the last request to each path
    blobs: dict[str, bytes] = field(default_factory=dict)
    url: str = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:  # noqa: PLR0911 - a table
        data = await request.read()
        is_blob = request.path.startswith("/api/blobs/")
        body: Json = {"bytes": len(data)} if is_blob else json.loads(data or b"{}")
        self.keys[request.path] = request.headers.get("Authorization", "")
        self.asked.append((request.method, request.path, body))
        refusal = self.refusals.get(request.path)
        if refusal is not None:  # each is sent once, and several may be under way
            return web.Response(status=refusal.status, body=refusal.body, headers=refusal.headers)
        fixed = {
            "/api/version": {"version": "0.33.0", "embedd": self.version}
            if self.is_embedd
            else {"version": self.version},
            "/api/tags": {"models": [STORED]},
            "/api/ps": {"models": [RUNNING]},
        }
        if request.path == "/":
            return web.Response(text="Ollama is running")
        if request.path in fixed:
            return web.json_response(fixed[request.path])
        if is_blob:
            return self._blob(request, data)
        if request.path in {"/api/pull", "/api/create"}:
            return await self._pull(request, body["model"])
        if request.path == "/api/generate" and body.get("prompt"):
            return await self._paint(request)
        if request.path == "/api/copy":
            body = {"model": body["source"]}
        return self._about_a_model(request.path, body)

    def _about_a_model(self, path: str, body: Json) -> web.Response:  # noqa: PLR0911 - a table
        name = body.get("model", "")
        if name not in self.models:
            text = f'model "{name}" not found, try pulling it first'
            return web.json_response({"error": text}, status=404)
        match path:
            case "/api/embed":
                vectors = [[len(text), place, 0.1] for place, text in enumerate(body["input"])]
                cut = [
                    {"index": place, "tokens": len(text), "kept": 9}
                    for place, text in enumerate(body["input"])
                    if len(text) > 9
                ]
                reply = {"model": name, "embeddings": vectors, "prompt_eval_count": 3}
                return web.json_response(reply | ({"truncated": cut} if cut else {}))
            case "/v1/embeddings" if body.get("encoding_format") == "base64":
                return self._arrays(body)
            case "/v1/embeddings":
                rows = [
                    {"index": place, "embedding": [len(text), place, 0.1]}
                    for place, text in enumerate(body["input"])
                ]
                return web.json_response({"data": rows[::-1]})
            case "/api/generate":
                return web.json_response(
                    {"model": name, "created_at": "2026-08-21T15:06:48Z", "done_reason": "unload"}
                )
            case "/api/show":
                computed = (
                    {"backend": self.shown_backend, "tokenizer": "model"}
                    if self.shown_backend
                    else {}
                )
                shown = {**SHOWN, "capabilities": self.capabilities, **computed}
                return web.json_response(shown)
            case "/api/copy":
                return web.Response()
            case "/api/delete":
                self.models.remove(name)
                return web.Response()
        return web.Response(status=404, text="404 page not found")

    def _arrays(self, body: Json) -> web.Response:
        """Vectors that depend on their texts alone; a text "bad" is one at fault."""
        texts = body["input"]
        if "bad" in texts:
            fault: Json = {"message": "a bad text", "type": "invalid_request_error", "param": None}
            fault |= {"code": None, "index": texts.index("bad"), "tokens": 9, "limit": 8}
            return web.json_response({"error": fault}, status=400)
        rows = [
            {"index": place, "embedding": base64.b64encode(pack_vector(text)).decode()}
            for place, text in enumerate(texts)
        ]
        tokens = sum(map(len, texts))
        headers = {"X-Embedd-Model": self.backend}
        if cut := sum(len(text) > 100 for text in texts):
            headers["X-Embedd-Truncated"] = f"count={cut}; more"
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"data": rows[::-1], "usage": usage}, headers=headers)

    def _blob(self, request: web.Request, data: bytes) -> web.Response:
        digest = request.path.rpartition("/")[2]
        if request.method == "HEAD":
            return web.Response(status=200 if digest in self.blobs else 404)
        self.blobs[digest] = data
        return web.Response(status=201)

    async def _paint(self, request: web.Request) -> web.StreamResponse:
        """Lines of progress, and the picture in the last one, in pieces of any size."""
        image = base64.b64encode(self.picture).decode()
        last = {"done": True, "done_reason": "stop", "image": image, "total_duration": 1500000000}
        lines = self.paint_lines
        if self.picture and "error" not in (lines or ({},))[-1]:
            lines = (*lines, last)
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(data), 50_000):
            await response.write(data[start : start + 50_000])
        return response

    async def _pull(self, request: web.Request, name: str) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in self.pull_lines:
            await response.write(json.dumps(line).encode() + b"\n")
        self.models.add(name)
        return response

    @asynccontextmanager
    async def listening(self, socket: Path | None = None) -> AsyncIterator["FakeServer"]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.UnixSite(runner, str(socket)) if socket else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"unix:{socket}" if socket else "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()


@contextmanager
def in_background(server: FakeServer) -> Iterator[FakeServer]:
    """The server in a thread of its own, for commands that run an event loop themselves."""
    ready, done = Event(), Event()

    async def serve() -> None:
        async with server.listening():
            ready.set()
            await asyncio.to_thread(done.wait)
            await _answer_all(server.url)

    thread = Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield server
    finally:
        done.set()
        thread.join()


async def _answer_all(url: str) -> None:
    """Return when the server at *url* knows all connections that were made to it, to end them."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await reader.read()
    writer.close()
    await writer.wait_closed()
