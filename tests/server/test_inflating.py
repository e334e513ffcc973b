"""Compressed bodies: what is understood, and bombs."""

import asyncio
import gzip
import hashlib
import sys
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.server.http.bodies import BodyLimits
from embedd.server.http.decompress import PIECE, _choose
from tests.server.serving import MIB, OpenServer, Served

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BODY = b'{"model":"tiny","input":"x"}'


def deflate_raw(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKED = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip, members": ("X-GZip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    "deflate": ("deflate", zlib.compress),
    "deflate, raw": ("deflate", deflate_raw),
    "zstd": ("zstd", zstd.compress),
    "zstd, frames": ("ZSTD", lambda data: zstd.compress(data[:9]) + zstd.compress(data[9:])),
    "identity": (" identity ", bytes),
}


def bomb(encoding: str, mebibytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31) if encoding == "gzip" else zstd.ZstdCompressor()
    pieces = [packer.compress(bytes(MIB)) for _ in range(mebibytes)]
    return b"".join([*pieces, packer.flush()])


@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED)
async def test_a_packed_body_is_a_body(encoding: str, pack: object, served: Served) -> None:
    assert callable(pack)
    headers = {"Content-Encoding": encoding}
    plain = await served.post("/api/embed", BODY)
    reply = await served.send("POST", "/api/embed", data=pack(BODY), headers=headers)
    assert (reply.status, reply.json["embeddings"]) == (200, plain.json["embeddings"])


@pytest.mark.parametrize(("encoding", "pack"), PACKED.values(), ids=PACKED)
@given(parts=st.lists(st.binary(max_size=40), max_size=4), cut=st.integers(1, 30))
def test_however_a_body_is_cut_it_unpacks_to_the_same(
    encoding: str, pack: object, parts: list[bytes], cut: int
) -> None:
    assert callable(pack)
    data = b"".join(parts) * 9
    unpack = _choose(encoding)
    if unpack is None:
        return
    packed = pack(data)
    out = [
        piece
        for start in range(0, len(packed), cut)
        for piece in unpack.feed(packed[start : start + cut])
    ]
    unpack.end()
    assert b"".join(out) == data


def test_pieces_are_small_however_much_comes_out() -> None:
    for encoding in ("gzip", "zstd"):
        unpack = _choose(encoding)
        assert unpack is not None
        sizes = [len(piece) for piece in unpack.feed(bomb(encoding, 5))]
        assert (sum(sizes), max(sizes)) == (5 * MIB, PIECE)


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
async def test_what_cannot_be_unpacked_is_the_callers_error(
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
    served: Served = await open_server(bodies=BodyLimits(one=4 * MIB, all_=8 * MIB))
    tracemalloc.start()
    started = time.process_time()
    for path in ("/api/embed", "/v1/embeddings", "/v2/embed"):
        headers = {"Content-Encoding": encoding}
        reply = await served.send("POST", path, data=data, headers=headers)
        assert reply.status == 413
    cpu, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * MIB
    assert cpu < 1.0  # unpacking it all takes longer, thrice
    assert served.loads.names == []


async def test_an_upload_is_unpacked_before_it_is_hashed(served: Served) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(BODY).hexdigest()}"
    headers = {"Content-Encoding": "zstd"}
    data = zstd.compress(BODY)
    assert (await served.send("POST", path, data=data, headers=headers)).status == 201
