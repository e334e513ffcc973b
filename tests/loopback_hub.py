"""A hub of models on a loopback port that speaks the protocol of the Hugging Face hub.

Model info, tree, resolve (HEAD and GET) with a redirect to a second host for large files,
ranges, ETags, tokens, gates, and faults that a test plans. What was served is counted.
"""

import hashlib
import json
import threading
import urllib.parse
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "1" * 40
PIECE = 64 << 10


@dataclass
class Repo:
    """A repository: its files, and who may read it.

    Args:
        small: Names of files that are kept in git itself, without a sha256.
        token: Token that a reader must send; None means public.
        gated: Whether its terms must be accepted: its info is public, its files are refused.
    """

    files: dict[str, bytes]
    commit: str = COMMIT
    license: str = ""
    small: set[str] = field(default_factory=set)
    token: str | None = None
    gated: bool = False

    def is_large(self, path: str) -> bool:
        return path.endswith(".gguf") and path not in self.small


@dataclass
class Fault:
    """What happens to the next request whose path has *match* in it.

    Args:
        status: Answer with this instead.
        cut: Close the connection after so many bytes of the body.
        hold: Send so many bytes of the body, then wait for `Hub.release`.
        ignore_range: Send the whole file though a part was asked for.
        data: Send these bytes instead of the file's.
        times: How often.
    """

    match: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: int | None = None
    ignore_range: bool = False
    data: bytes | None = None
    times: int = 1


@dataclass(frozen=True)
class Seen:
    """A request that came in."""

    method: str
    path: str
    range: str | None
    token: str | None


class LoopbackHub:
    """The hub: plan its repositories and faults, then see what was asked and served."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.served = 0  # bytes of large files that left
        self.holding = threading.Event()
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._servers = [_start(self), _start(self)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        """Where large files lie: another origin, which must see no token."""
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def add(self, name: str, files: dict[str, bytes], **others: Any) -> Repo:
        self.repos[name] = Repo(files, **others)
        return self.repos[name]

    def requests(self, match: str) -> list[Seen]:
        return [seen for seen in self.seen if match in seen.path]

    def note(self, seen: Seen) -> Fault:
        with self._lock:
            self.seen.append(seen)
            for fault in self.faults:
                if fault.match in f"{seen.method} {seen.path}" and fault.times:
                    fault.times -= 1
                    return fault
        return Fault("")

    def count(self, size: int) -> None:
        with self._lock:
            self.served += size

    def close(self) -> None:
        self.release.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def open_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub()
    try:
        yield hub
    finally:
        hub.close()


def digest_of(data: bytes) -> str:
    return f"sha256:{_sha256(data)}"


@lru_cache
def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _start(hub: LoopbackHub) -> ThreadingHTTPServer:
    handler = type("Bound", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base says
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        token = self.headers.get("Authorization")
        seen = Seen(self.command, path, self.headers.get("Range"), token)
        fault = self.hub.note(seen)
        if fault.status:
            self._send(fault.status, fault.headers)
        elif path.startswith("/storage/"):
            self._send_stored(path.removeprefix("/storage/"), fault)
        elif path.startswith("/api/models/"):
            self._send_info(path.removeprefix("/api/models/"))
        else:
            self._resolve(path.lstrip("/"), fault)

    def _send_info(self, path: str) -> None:
        owner, name, *rest = path.split("/")
        repo = self._find(f"{owner}/{name}")
        if repo is None:
            return
        if rest[:1] == ["revision"] and not self._is_revision(repo, rest[1]):
            return
        files = [_describe(repo, file) for file in repo.files]
        body: object = {
            "id": f"{owner}/{name}", "sha": repo.commit, "siblings": files,
            "gated": "auto" if repo.gated else False,
            "cardData": {"license": repo.license} if repo.license else {},
        }  # fmt: skip
        if rest[:1] == ["tree"]:
            body = [{"type": "file", "path": file["rfilename"], **file} for file in files]
        headers = {"Content-Type": "application/json"}
        self._send(HTTPStatus.OK, headers, json.dumps(body).encode())

    def _resolve(self, path: str, fault: Fault) -> None:
        owner, name, word, revision, *rest = [*path.split("/"), "", "", "", ""]
        repo = self._find(f"{owner}/{name}") if word == "resolve" else None
        if repo is None or not self._is_revision(repo, revision):
            return
        file = "/".join(rest).rstrip("/")
        if repo.gated:
            self._refuse(HTTPStatus.FORBIDDEN, "GatedRepo", "Access is restricted")
        elif file not in repo.files:
            self._refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        elif repo.is_large(file):
            data = repo.files[file]
            sha256 = _sha256(data)
            headers = {
                "X-Repo-Commit": repo.commit, "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)), "ETag": '"something-else"',
                "Location": f"{self.hub.storage_url}/storage/{owner}/{name}/{file}",
            }  # fmt: skip
            self._send(HTTPStatus.FOUND, headers)
        else:
            etag = hashlib.sha1(repo.files[file], usedforsecurity=False).hexdigest()
            headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{etag}"'}
            self._send_file(repo.files[file], fault, headers)

    def _send_stored(self, path: str, fault: Fault) -> None:
        owner, name, *rest = path.split("/")
        data = self.hub.repos[f"{owner}/{name}"].files["/".join(rest)]
        self._send_file(data, fault, {"Accept-Ranges": "bytes"}, counted=True)

    def _send_file(
        self, data: bytes, fault: Fault, headers: dict[str, str], *, counted: bool = False
    ) -> None:
        data = data if fault.data is None else fault.data
        wanted = None if fault.ignore_range else self.headers.get("Range")
        status = HTTPStatus.OK
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(data)), len(data) - 1)
            if start >= len(data):
                self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            status = HTTPStatus.PARTIAL_CONTENT
            headers = headers | {"Content-Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        self._send_head(status, headers, len(data))
        if self.command == "GET":
            self._send_body(data, fault, counted=counted)

    def _send_body(self, data: bytes, fault: Fault, *, counted: bool) -> None:
        for start in range(0, len(data), PIECE):
            if fault.cut is not None and start >= fault.cut:
                self.close_connection = True
                return
            if fault.hold is not None and start >= fault.hold:
                self.hub.holding.set()
                self.hub.release.wait(30)
            piece = data[start : start + PIECE]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            if counted:
                self.hub.count(len(piece))

    def _find(self, name: str) -> Repo | None:
        repo = self.hub.repos.get(name)
        sent = self.headers.get("Authorization")
        if repo is not None and repo.token is not None and sent != f"Bearer {repo.token}":
            if sent is not None:
                message = "Invalid credentials in Authorization header"
                self._refuse(HTTPStatus.UNAUTHORIZED, "", message)
                return None
            repo = None
        if repo is None:
            self._refuse(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Repository not found")
        return repo

    def _is_revision(self, repo: Repo, revision: str) -> bool:
        known = revision in {"main", repo.commit}
        if not known:
            self._refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", "Invalid rev id")
        return known

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message}
        self._send(status, headers | ({"X-Error-Code": code} if code else {}))

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._send_head(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_head(self, status: int, headers: dict[str, str], size: int) -> None:
        self.send_response(status)
        for key, value in (headers | {"Content-Length": str(size)}).items():
            self.send_header(key, value)
        self.end_headers()


def _describe(repo: Repo, path: str) -> dict[str, Any]:
    data = repo.files[path]
    described: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": "0" * 40}
    if repo.is_large(path):
        sha256 = _sha256(data)
        described["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 134}
    return described
