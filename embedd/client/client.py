"""`Client`: the typed, asynchronous client of an embedd or Ollama server."""

import asyncio
import math
import ssl
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Self, TypeVar

import aiohttp
import msgspec
import numpy as np
from msgspec import UNSET

from embedd import ollama_api as api
from embedd.client.replies import check, count_cut, decode, is_ours, split_lines
from embedd.config import Address, parse_host
from embedd.errors import (
    EmbeddError,
    InvalidInputError,
    OverloadedError,
    PullError,
    ServiceError,
    UnavailableError,
)
from embedd.types import Arrays, Priority

T = TypeVar("T")
NO_SERVER = "could not connect to embedd server at {}, run 'embedd serve' to start it"

# Types of vectors that the server makes; others are made of float32 here.
_QUANTIZED: Mapping[str, str] = {"int8": "i1", "ubinary": "u1"}
_DTYPES = ("float32", "float16", *_QUANTIZED)
# Connecting has a limit; an answer has none, for computing and pulling take any time.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0)


class _Fault(msgspec.Struct):
    message: str


class _HealthReply(msgspec.Struct):
    error: _Fault


IDENTITY_SECONDS = 10.0  # for an answer that needs no work
_IDENTITY = 1 << 16  # bytes of an answer in which a server is recognised


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What answers at an address.

    Args:
        name: ``embedd``, ``Ollama`` (or another server with its API), or "" for anything else.
        version: Its own version; "" if it does not say.
    """

    name: str = ""
    version: str = ""

    @property
    def is_embedd(self) -> bool:
        """Whether it is embedd, of any version."""
        return self.name == "embedd"

    def __str__(self) -> str:
        return f"{self.name} {self.version}".rstrip() or "another program"


class Client:
    """A session with one server, over TCP, TLS or a Unix socket; use it with ``async with``.

    Every method but `is_up` raises `UnavailableError` if no server answers or the connection
    breaks, the error of the status, with the server's text, if the server answers with one,
    and `ServiceError` if the answer cannot be decoded.

    Args:
        key: API key.
        admin_key: Sent instead of *key* where models are managed; None is *key*.
    """

    def __init__(
        self, address: Address | str, *, key: str | None = None, admin_key: str | None = None
    ) -> None:
        if isinstance(address, str):
            address = parse_host(address)
        self._address = address.to_client()
        self._key = key
        self._admin_key = admin_key or key
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        socket = self._address.socket
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(socket)) if socket else self._connect_tcp(),
            timeout=_TIMEOUT,
            # On this machine, compressing takes longer than sending.
            headers={"Accept-Encoding": "identity"} if self._address.is_local else None,
            trust_env=not self._address.is_local,  # a proxy cannot reach this machine's loopback
        )
        return self

    def _connect_tcp(self) -> aiohttp.TCPConnector:
        if self._address.scheme == "http":
            return aiohttp.TCPConnector()
        # The machine's certificates, or those of SSL_CERT_FILE: read now, not at import.
        return aiohttp.TCPConnector(ssl=ssl.create_default_context())

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def is_up(self) -> bool:
        """Whether a server answers."""
        try:
            async with self._exchange("HEAD", "/"):
                return True
        except UnavailableError:
            return False

    async def identify(self) -> Identity:
        """Return what answers; no key is sent, because it may be anything.

        Raises:
            UnavailableError: Nothing does, or what does is not an HTTP server.
        """
        try:
            async with (
                asyncio.timeout(IDENTITY_SECONDS),
                self._exchange("GET", "/api/version", has_key=False) as response,
            ):
                named = response.headers.get("Server", "")
                body = await response.content.read(_IDENTITY)
        except TimeoutError:
            raise UnavailableError(
                f"{self._address.url} takes connections but sends no answer: is it another program?"
            ) from None
        try:
            reply = msgspec.json.decode(body, type=api.VersionReply)
        except msgspec.MsgspecError:
            return Identity()
        if reply.embedd is not UNSET:
            return Identity(name="embedd", version=reply.embedd)
        is_earlier = named.startswith("embedd/")  # one that had a single version
        return Identity(name="embedd" if is_earlier else "Ollama", version=reply.version)

    async def check_health(self, *, ready: bool = False) -> None:
        """Return if the server is healthy, or with *ready* if it should get requests.

        Raises:
            OverloadedError: It is not; with its reason.
        """
        async with self._exchange("GET", "/ready" if ready else "/health") as response:
            if response.status == 503:
                raise OverloadedError(decode(await response.read(), _HealthReply).error.message)
            await check(response, "")

    async def version(self) -> str:
        """The version of Ollama whose API the server speaks."""
        return (await self._request("GET", "/api/version", api.VersionReply)).version

    async def tags(self) -> list[api.StoredModel]:
        """Models in the server's store, newest first."""
        return (await self._request("GET", "/api/tags", api.TagsReply)).models

    async def ps(self) -> list[api.RunningModel]:
        """Models in the server's memory, furthest expiry first."""
        return (await self._request("GET", "/api/ps", api.PsReply)).models

    async def embed(
        self,
        model: str,
        inputs: str | Sequence[str],
        *,
        truncate: bool | str | None = None,
        chunk: api.ChunkField = None,
        dimensions: int | None = None,
        keep_alive: float | None = None,
        input_type: str | None = None,
        store: bool = True,
    ) -> api.EmbedReply:
        """Return a vector for each input, in order, or for each of its chunks.

        Args:
            inputs: Texts, or a single one.
            chunk: ``tokens``, ``overlap`` and ``pool`` as in the body of ``/api/embed``; None
                embeds inputs as wholes.
            keep_alive: Seconds, ``math.inf`` for ever.
            store: Whether vectors may come from the server's cache and go to it.
        """
        texts = _to_list(inputs)
        body = api.EmbedBody(
            model=model,
            input=texts,
            truncate=truncate,
            chunk=chunk,
            dimensions=dimensions,
            keep_alive=-1.0 if keep_alive == math.inf else keep_alive,
            input_type=input_type,
        )
        headers = {} if store else {"Cache-Control": "no-store"}
        reply = await self._request(
            "POST", "/api/embed", api.EmbedReply, body, model=model, headers=headers
        )
        expected = len(texts)
        if chunk is not None:
            if reply.chunks is UNSET:
                raise ServiceError("the server ignores the field chunk: it needs a newer embedd")
            expected = expected if chunk.get("pool") else len(reply.chunks)
        if len(reply.embeddings) != expected:
            raise ServiceError(f"{len(reply.embeddings)} vectors came for {expected} inputs")
        return reply

    async def embed_as_openai(self, model: str, inputs: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each input, in order, from any server with OpenAI's route."""
        # Both services take these fields, and send lists of numbers by default.
        body = api.EmbedBody(model=model, input=_to_list(inputs))
        reply = await self._request(
            "POST", "/v1/embeddings", api.OpenAIEmbedReply, body, model=model
        )
        return [item.embedding for item in sorted(reply.data, key=lambda item: item.index)]

    async def embed_arrays(
        self,
        model: str,
        inputs: str | Sequence[str],
        *,
        truncate: bool | str | None = None,
        chunk: api.ChunkField = None,
        dimensions: int | None = None,
        dtype: str = "float32",
        input_type: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
        store: bool = True,
    ) -> Arrays:
        """Return the vectors of *inputs*, or of their chunks, as one array, quicker than `embed`.

        They cross the wire as base64. A server takes as many inputs at a time as its setting
        ``EMBEDD_MAX_INPUTS`` says; `embed_many` has no such limit.

        Args:
            inputs: Texts, or a single one.
            dtype: ``float32``, ``float16`` (rounded here), ``int8`` or ``ubinary``.
            priority: ``bulk`` yields to all other requests.

        Raises:
            InvalidInputError: *dtype* is another one.
        """
        if dtype not in _DTYPES:
            raise InvalidInputError(f"dtype is {dtype!r}: it must be one of {', '.join(_DTYPES)}")
        texts = _to_list(inputs)
        body = api.ArraysBody(
            model=model,
            input=texts,
            encoding_format="base64",
            truncate=truncate,
            chunk=chunk,
            dimensions=dimensions,
            input_type=input_type,
            output_dtype=dtype if dtype in _QUANTIZED else None,
        )
        headers = {"X-Embedd-Priority": priority.value}
        if not store:
            headers["Cache-Control"] = "no-store"
        async with self._exchange("POST", "/v1/embeddings", body, headers) as response:
            await check(response, model)
            reply = decode(await response.read(), api.ArraysReply)
            cut, served_by = (
                response.headers.get(name, "") for name in ("X-Embedd-Truncated", "X-Embedd-Model")
            )
        chunks = None if chunk is None or chunk.get("pool") else reply.chunks
        expected = len(texts) if chunks is None else len(chunks)
        if len(reply.data) != expected:
            raise ServiceError(f"{len(reply.data)} vectors came for {expected} inputs")
        data = b"".join(one.embedding for one in sorted(reply.data, key=lambda one: one.index))
        numbers = np.frombuffer(data, _QUANTIZED.get(dtype, "<f4"))
        vectors = numbers.reshape(expected, len(numbers) // max(1, expected))
        return Arrays(
            vectors=vectors.astype(np.float16) if dtype == "float16" else vectors,
            tokens=reply.usage.prompt_tokens,
            cut=count_cut(cut),
            chunks=chunks,
            served_by=served_by,
        )

    async def post_as_it_is(self, path: str, body: bytes) -> tuple[int, str, bytes]:
        """Send *body*, which is JSON, behind all others: status, id of the request, and answer.

        Raises:
            OverloadedError: The server takes the request later.
        """
        headers = {"X-Embedd-Priority": "bulk", "Cache-Control": "no-store"}
        headers["Content-Type"] = "application/json"
        async with self._exchange("POST", path, body, headers) as response:
            if response.status in {401, 403, 429, 503} or not is_ours(response):
                await check(response, "")
            request_id = response.headers.get("X-Request-Id", "")
            return response.status, request_id, await response.read()

    async def embed_many(
        self,
        model: str,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        batch: int = 500,
        concurrency: int = 2,
        dimensions: int | None = None,
        dtype: str = "float32",
        input_type: str | None = None,
        priority: Priority = Priority.BULK,
    ) -> AsyncGenerator[Arrays, None]:
        """Yield the vectors of any number of *texts* in order, *batch* texts at a time.

        At most *concurrency* requests are on their way, and no more texts are taken meanwhile.
        A server that is busy is asked again when it says so.
        """

        async def embed_batch(inputs: Sequence[str]) -> Arrays:
            while True:
                try:
                    return await self.embed_arrays(
                        model,
                        inputs,
                        dimensions=dimensions,
                        dtype=dtype,
                        input_type=input_type,
                        priority=priority,
                    )
                except OverloadedError as error:
                    await asyncio.sleep(error.retry_after)

        tasks: deque[asyncio.Task[Arrays]] = deque()
        try:
            async for inputs in _take_batches(texts, batch):
                tasks.append(asyncio.create_task(embed_batch(inputs)))
                if len(tasks) == concurrency:
                    yield await tasks.popleft()
            while tasks:
                yield await tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def paint(self, body: api.GenerateBody) -> AsyncGenerator[api.GenerateReply, None]:
        """Make the server paint a picture, and yield its progress up to the line with it.

        Closing the generator ends the picture.

        Raises:
            ServiceError: The server reports a failure, or ends the answer early.
        """
        async with self._exchange("POST", "/api/generate", body) as response:
            await check(response, body.model or "")
            error, is_done = None, False
            # To the end, after which the server knows that its answer has arrived.
            async for text in split_lines(response):
                line = decode(text, api.GenerateReply)
                if isinstance(line.error, str):
                    error = ServiceError(line.error)
                elif not is_done:
                    yield line
                    is_done = line.done
        if error is not None or not is_done:
            raise error or ServiceError("the server ended the picture without a result")

    async def unload(self, model: str) -> None:
        """Unload *model* as soon as its running requests end."""
        body = api.GenerateBody(model=model, keep_alive=0.0)
        await self._request("POST", "/api/generate", api.GenerateReply, body, model=model)

    async def show(self, name: str, *, verbose: bool = False) -> api.ShowReply:
        """Return the details of a model; with *verbose* also the arrays of its metadata."""
        body = api.ShowBody(model=name, verbose=verbose or None)
        return await self._request("POST", "/api/show", api.ShowReply, body, model=name)

    async def copy(self, source: str, destination: str) -> None:
        """Give the model *source* the second name *destination*."""
        body = api.CopyBody(source=source, destination=destination)
        async with self._exchange("POST", "/api/copy", body) as response:
            await check(response, source)

    async def delete(self, name: str) -> None:
        """Delete *name* from the server's store."""
        body = api.DeleteBody(model=name)
        async with self._exchange("DELETE", "/api/delete", body) as response:
            await check(response, name)

    async def has_blob(self, digest: str) -> bool:
        """Whether the server has the blob *digest*."""
        async with self._exchange("HEAD", f"/api/blobs/{digest}") as response:
            return response.status == 200

    async def add_blob(self, digest: str, pieces: AsyncIterable[bytes]) -> None:
        """Upload the blob *digest*, for `create`."""
        async with self._exchange("POST", f"/api/blobs/{digest}", pieces) as response:
            await check(response, digest)

    async def pull(
        self, name: str, *, insecure: bool = False
    ) -> AsyncGenerator[api.ProgressLine, None]:
        """Make the server pull *name*, and yield its progress up to the line ``success``.

        Raises:
            PullError: The server reports a failure, or ends the answer early.
        """
        body = api.PullBody(model=name, insecure=insecure or None)
        async with aclosing(self._follow("/api/pull", body, name, PullError)) as lines:
            async for line in lines:
                yield line

    async def create(self, body: api.CreateBody) -> AsyncGenerator[api.ProgressLine, None]:
        """Make the server create a model, and yield its progress up to the line ``success``.

        Raises:
            ServiceError: The server reports a failure, or ends the answer early.
        """
        async with aclosing(
            self._follow("/api/create", body, body.model or "", ServiceError)
        ) as lines:
            async for line in lines:
                yield line

    async def _follow(
        self, path: str, body: msgspec.Struct, model: str, failure: type[EmbeddError]
    ) -> AsyncGenerator[api.ProgressLine, None]:
        async with self._exchange("POST", path, body) as response:
            await check(response, model)
            error, is_done = None, False
            # To the end, after which the server knows that its answer has arrived.
            async for text in response.content:
                line = decode(text, api.ProgressLine)
                if line.error is not None:
                    error = failure(line.error)
                elif not is_done:
                    yield line
                    is_done = line.status == "success"
        if error is not None or not is_done:
            what = path.rpartition("/")[2]
            raise error or failure(f"the server ended the {what} without a result")

    async def _request(
        self,
        method: str,
        path: str,
        reply: type[T],
        body: msgspec.Struct | None = None,
        *,
        model: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> T:
        async with self._exchange(method, path, body, headers) as response:
            await check(response, model)
            return decode(await response.read(), reply)

    @asynccontextmanager
    async def _exchange(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | bytes | AsyncIterable[bytes] | None = None,
        more_headers: Mapping[str, str] | None = None,
        *,
        has_key: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        base = "http://localhost" if self._address.socket else self._address.url
        is_json = isinstance(body, msgspec.Struct)
        data = msgspec.json.encode(body) if is_json else body
        headers = {"Content-Type": "application/json"} if is_json else {}
        key = self._admin_key if path.startswith(api.MANAGEMENT_PATHS) else self._key
        if key is not None and has_key:
            headers["Authorization"] = f"Bearer {key}"
        headers.update(more_headers or {})
        try:
            ask = self._session.request(method, base + path, data=data, headers=headers)
            async with ask as response:
                yield response
        except aiohttp.ClientSSLError as error:
            is_plain = "WRONG_VERSION_NUMBER" in str(error)  # OpenSSL's words for no TLS
            hint = "try http://" if is_plain else "a certificate of your own: set SSL_CERT_FILE"
            text = f"no safe connection to {self._address.url}: {error} ({hint})"
            raise ServiceError(text) from error
        except (aiohttp.ClientConnectorError, TimeoutError) as error:
            raise UnavailableError(NO_SERVER.format(self._address.url)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(f"lost {self._address.url}: {error or 'no answer'}") from error


def _to_list(texts: str | Iterable[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


async def _iterate(texts: str | Iterable[str] | AsyncIterable[str]) -> AsyncIterator[str]:
    if isinstance(texts, str):
        yield texts
    elif isinstance(texts, AsyncIterable):
        async for text in texts:
            yield text
    else:
        for text in texts:
            yield text


async def _take_batches(
    texts: Iterable[str] | AsyncIterable[str], size: int
) -> AsyncIterator[list[str]]:
    batch: list[str] = []
    async for text in _iterate(texts):
        batch.append(text)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
