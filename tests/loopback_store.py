"""An object store on a loopback port that speaks as much of S3 as pyarrow uses.

Objects in one bucket: put (whole, or in parts), get with ranges, head, delete, list; and faults
that a test plans. What was asked is kept.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

BUCKET = "bucket"
MODIFIED = "Thu, 26 Nov 2026 10:00:00 GMT"


@dataclass
class Fault:
    """What happens to the next requests with *method* whose path ends in *match*.

    Args:
        status, code: Answer with this error instead.
        cut: Close the connection in the middle of the body, without an answer.
        truncate: Keep half of the body, and answer as if it were whole.
        times: How often.
    """

    method: str
    match: str
    status: int = 0
    code: str = ""
    cut: bool = False
    truncate: bool = False
    times: int = 1


@dataclass
class LoopbackStore:
    """The objects of the bucket by key, and what was asked: method and key."""

    port: int = 0
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    connections: set[socket.socket] = field(default_factory=set)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def uri(self, key: str) -> str:
        """The URI of *key*, as pyarrow takes it."""
        return f"s3://{BUCKET}/{key}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def names(self, folder: str = "") -> set[str]:
        """Keys below *folder*, without it; no markers of folders."""
        return {
            key.removeprefix(folder)
            for key in list(self.objects)
            if key.startswith(folder) and not key.endswith("/")
        }

    def puts(self, key: str) -> int:
        """How often *key* was put."""
        return self.asked.count(("PUT", key))

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and path.endswith(fault.match):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def open_store(port: int = 0) -> Iterator[LoopbackStore]:
    """A store with an empty bucket, until the end of the block."""
    store = LoopbackStore()

    class Handler(_Handler):
        def __init__(self, *args: Any) -> None:
            self.store = store
            super().__init__(*args)

        def setup(self) -> None:
            super().setup()
            with store.lock:
                store.connections.add(self.connection)
                if store.closed:
                    self.connection.shutdown(socket.SHUT_RD)

        def finish(self) -> None:
            with store.lock:
                store.connections.discard(self.connection)
            super().finish()

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = False  # their end is waited for
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients leave
    store.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        thread.join()
        with store.lock:  # pyarrow keeps its connections, and each has a thread here
            store.closed = True
            for connection in store.connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: LoopbackStore

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
        query = {k: v[0] for k, v in parse_qs(parts.query, keep_blank_values=True).items()}
        self.store.asked.append((self.command, key))
        fault = self.store.take_fault(self.command, key)
        if fault is not None and fault.cut:
            self.rfile.read(1000)
            self.close_connection = True
            return
        body = self._read_body()
        if fault is not None and fault.status:
            self._fail(fault.status, fault.code)
        elif bucket != BUCKET:
            self._fail(404, "NoSuchBucket")
        else:
            if fault is not None and fault.truncate:
                body = body[: len(body) // 2]
            with self.store.lock:
                getattr(self, f"_do_{self.command.lower()}")(key, query, body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle  # noqa: N815 - of the base class

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b"".join(self._read_chunks())
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            return b"".join(_split_chunks(data))
        return data

    def _read_chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, status: int, code: str) -> None:
        xml = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._answer(xml.encode(), status, Content_Type="application/xml")

    def _do_put(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads[query["uploadId"]][int(query["partNumber"])] = body
        else:
            self.store.objects[key] = body
        self._answer(ETag='"1"')

    def _do_post(self, key: str, query: dict[str, str], body: bytes) -> None:
        if "delete" in query:
            for name in re.findall(rb"<Key>(.*?)</Key>", body):
                self.store.objects.pop(unescape(name.decode()), None)
            self._answer(b"<DeleteResult></DeleteResult>")
        elif "uploads" in query:
            name = f"u{len(self.store.uploads)}"
            self.store.uploads[name] = {}
            xml = f"<UploadId>{name}</UploadId><Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
            self._answer(
                f"<InitiateMultipartUploadResult>{xml}</InitiateMultipartUploadResult>".encode()
            )
        else:
            pieces = self.store.uploads.pop(query["uploadId"])
            self.store.objects[key] = b"".join(pieces[number] for number in sorted(pieces))
            xml = f"<Key>{escape(key)}</Key><ETag>1</ETag>"
            self._answer(
                f"<CompleteMultipartUploadResult>{xml}</CompleteMultipartUploadResult>".encode()
            )

    def _do_delete(self, key: str, query: dict[str, str], _body: bytes) -> None:
        if "uploadId" in query:
            self.store.uploads.pop(query["uploadId"], None)
        else:
            self.store.objects.pop(key, None)
        self._answer(status=204)

    def _do_head(self, key: str, query: dict[str, str], body: bytes) -> None:
        self._do_get(key, query, body)

    def _do_get(self, key: str, query: dict[str, str], _body: bytes) -> None:
        if not key and self.command == "GET":
            self._list(query)
            return
        data = self.store.objects.get(key)
        if not key:
            self._answer()
        elif data is None:
            self._fail(404, "NoSuchKey")
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        facts = {"ETag": '"1"', "Last_Modified": MODIFIED, "Accept_Ranges": "bytes"}
        wanted = self.headers.get("Range")
        if wanted is None:
            self._answer(data, 200, **facts)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(data)), len(data) - 1)
        self._answer(
            data[start : end + 1],
            206,
            Content_Range=f"bytes {start}-{end}/{len(data)}",
            **facts,
        )

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        rows, folders = "", set()
        for key in sorted(self.store.objects):
            rest = key.removeprefix(prefix)
            if not key.startswith(prefix):
                continue
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.partition(delimiter)[0] + delimiter)
                continue
            size = len(self.store.objects[key])
            rows += (
                f"<Contents><Key>{quote(key, safe='/')}</Key><Size>{size}</Size>"
                "<LastModified>2026-11-26T10:00:00.000Z</LastModified></Contents>"
            )
        rows += "".join(
            f"<CommonPrefixes><Prefix>{quote(one, safe='/')}</Prefix></CommonPrefixes>"
            for one in sorted(folders)
        )
        head = f"<IsTruncated>false</IsTruncated><Prefix>{escape(prefix)}</Prefix>"
        encoding = "<EncodingType>url</EncodingType>"
        self._answer(
            f"<ListBucketResult>{head}{encoding}{rows}</ListBucketResult>".encode(),
            Content_Type="application/xml",
        )


def _split_chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a body in Amazon's own encoding: size in hex, chunk, …, trailers."""
    position = 0
    while True:
        line = data.index(b"\r\n", position)
        size = int(data[position:line].partition(b";")[0], 16)
        if not size:
            return
        yield data[line + 2 : line + 2 + size]
        position = line + 4 + size
