"""Compressed request bodies: supported encodings, and decompression bombs."""

import asyncio
import gzip
import hashlib
import io
import random
import sys
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.http.bodies import BodyLimits
from embedd.server.http.decompress import FREE_BYTES, MAX_PIECE, MAX_RATIO, _open_stream
from embedd.store.blobs import Incoming
from tests.server.serving import MIB, OpenServer, Served

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY = b'{"model":"tiny","input":"x"}'


def deflate_raw(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


COMPRESSED = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip, members": ("X-GZip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "deflate": ("deflate", zlib.compress),
    "deflate, raw": ("deflate", deflate_raw),
    "zstd": ("zstd", zstd.compress),
    "zstd, frames": ("ZSTD", lambda data: zstd.compress(data[:9]) + zstd.compress(data[9:])),
    "identity": (" identity ", bytes),
}


def bomb(encoding: str, mebibytes: int) -> bytes:
    compressor = zlib.compressobj(9, wbits=31) if encoding == "gzip" else zstd.ZstdCompressor()
    pieces = [compressor.compress(bytes(MIB)) for _ in range(mebibytes)]
    return b"".join([*pieces, compressor.flush()])


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSED.values(), ids=COMPRESSED)
async def test_a_compressed_body_is_a_body(encoding: str, compress: object, served: Served) -> None:
    assert callable(compress)
    headers = {"Content-Encoding": encoding}
    plain = await served.post("/api/embed", BODY)
    reply = await served.send("POST", "/api/embed", data=compress(BODY), headers=headers)
    assert (reply.status, reply.json["embeddings"]) == (200, plain.json["embeddings"])


@pytest.mark.parametrize(("encoding", "compress"), COMPRESSED.values(), ids=COMPRESSED)
@given(parts=st.lists(st.binary(max_size=40), max_size=4), cut=st.integers(1, 30))
def test_however_a_body_is_cut_it_decompresses_to_the_same(
    encoding: str, compress: object, parts: list[bytes], cut: int
) -> None:
    assert callable(compress)
    data = b"".join(parts) * 9
    stream = _open_stream(encoding)
    if stream is None:
        return
    compressed = compress(data)
    out = [
        piece
        for start in range(0, len(compressed), cut)
        for piece in stream.decompress(compressed[start : start + cut])
    ]
    stream.check_end()
    assert b"".join(out) == data


def test_pieces_are_small_however_much_comes_out() -> None:
    for encoding in ("gzip", "zstd"):
        stream = _open_stream(encoding)
        assert stream is not None
        sizes = [len(piece) for piece in stream.decompress(bomb(encoding, 5))]
        assert (sum(sizes), max(sizes)) == (5 * MIB, MAX_PIECE)


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("br", BODY),
        ("gzip, zstd", BODY),
        ("gzip", b"junk"),
        ("gzip", gzip.compress(BODY, mtime=0)[:-8]),
        ("gzip", gzip.compress(BODY, mtime=0) + b"junk"),
        ("deflate", b"\x78junk"),
        ("zstd", b"junk"),
        ("zstd", zstd.compress(BODY)[:-3]),
        ("zstd", zstd.compress(BODY, options={zstd.CompressionParameter.window_log: 27})[:4] * 9),
    ],
)
async def test_what_cannot_be_decompressed_is_the_callers_error(
    encoding: str, data: bytes, served: Served
) -> None:
    headers = {"Content-Encoding": encoding}
    reply = await served.send("POST", "/api/embed", data=data, headers=headers)
    assert reply.status == 400
    assert reply.json["error"].startswith("cannot read the request body: ")


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_refused_at_once_with_little_memory(
    encoding: str, open_server: OpenServer
) -> None:
    data = await asyncio.to_thread(bomb, encoding, 600)
    served: Served = await open_server(bodies=BodyLimits(max_body=4 * MIB, max_in_flight=8 * MIB))
    tracemalloc.start()
    started = time.process_time()
    for path in ("/api/embed", "/v1/embeddings", "/v2/embed"):
        headers = {"Content-Encoding": encoding}
        reply = await served.send("POST", path, data=data, headers=headers)
        assert reply.status == 413
    cpu, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MIB
    assert cpu < 1.0  # three times all of it would take longer
    assert served.loads.names == []


async def test_an_upload_is_decompressed_before_it_is_hashed(served: Served) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(BODY).hexdigest()}"
    headers = {"Content-Encoding": "zstd"}
    data = zstd.compress(BODY)
    assert (await served.send("POST", path, data=data, headers=headers)).status == 201


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_an_upload_that_becomes_far_larger_is_refused_before_it_fills_the_disk(
    encoding: str, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    monkeypatch.setattr(Incoming, "write", lambda _, data: written.append(len(data)))
    data = await asyncio.to_thread(bomb, encoding, 600)
    reply = await served.send(
        "POST", f"/api/blobs/sha256:{'0' * 64}", data=data, headers={"Content-Encoding": encoding}
    )
    assert reply.status == 413
    assert reply.json["error"].startswith("compressed file too large: ")
    assert sum(written) <= max(MAX_RATIO * len(data), FREE_BYTES)


async def test_an_upload_may_be_compressed_well(served: Served) -> None:
    content = bytes(FREE_BYTES) + random.Random(0).randbytes(MIB)
    path = f"/api/blobs/sha256:{hashlib.sha256(content).hexdigest()}"
    headers = {"Content-Encoding": "gzip"}
    data = io.BytesIO(gzip.compress(content, 1))
    assert (await served.send("POST", path, data=data, headers=headers)).status == 201
