"""A SOCKS5 proxy on loopback (RFC 1928, CONNECT without authentication) that notes its targets."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer


class SocksProxy(ThreadingTCPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.targets: set[str] = set()

    @property
    def url(self) -> str:
        return f"socks5h://127.0.0.1:{self.server_address[1]}"


@contextmanager
def open_socks_proxy() -> Iterator[SocksProxy]:
    with SocksProxy() as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        yield proxy
        proxy.shutdown()


class _Handler(StreamRequestHandler):
    server: SocksProxy

    def handle(self) -> None:
        _version, methods = self.rfile.read(2)
        self.rfile.read(methods)
        self.wfile.write(b"\x05\x00")
        _version, _command, _reserved, kind = self.rfile.read(4)
        size = {1: 4, 4: 16}.get(kind) or self.rfile.read(1)[0]
        address = self.rfile.read(size)
        host = socket.inet_ntoa(address) if kind == 1 else address.decode()
        (port,) = struct.unpack(">H", self.rfile.read(2))
        self.server.targets.add(f"{host}:{port}")
        with socket.create_connection((host, port)) as target:
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
            back.start()
            _copy(self.connection, target)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
