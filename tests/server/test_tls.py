"""TLS: one's own certificate, from the server's option to the client's trust.

``localhost.pem`` and ``renewed.pem``, whose key is of another type, were made for these tests
and open nothing.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from embedd.client import Client
from embedd.errors import ConfigError, ServiceError, UnavailableError
from embedd.server.http.tls import Certificate, open_tls

BOTH = Path(__file__).parent / "localhost.pem"
RENEWED = Path(__file__).parent / "renewed.pem"
PEM = BOTH.read_text()
SPLIT = PEM.index("-----BEGIN PRIVATE KEY")


def certificate_of(pem: Path) -> str:
    return pem.read_text().partition("-----BEGIN PRIVATE KEY")[0]


MISMATCHED = certificate_of(RENEWED) + PEM[SPLIT:]


@asynccontextmanager
async def serving(
    tmp_path: Path, *options: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """The installed command; its process and its URL."""
    command = [sys.executable, "-m", "embedd", "serve", "--host", "127.0.0.1:0", *options]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("EMBEDD_")},
        "EMBEDD_MODELS": str(tmp_path / "models"),
        "EMBEDD_STATE": str(tmp_path / "state"),
    }
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, stderr=asyncio.subprocess.STDOUT, stdout=pipe
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if found := re.search(rb"address=(\S+)", line):
                yield process, found[1].decode()
                break
    finally:
        process.terminate()
        await process.communicate()


async def test_a_server_with_a_certificate_serves_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, "--tls-cert", str(BOTH)) as (_, url):
        assert url.startswith("https://127.0.0.1:")
        async with Client(url) as client:
            with pytest.raises(ServiceError, match="SSL_CERT_FILE"):
                await client.is_up()
        async with Client(url.replace("https", "http")) as client:
            with pytest.raises(UnavailableError):
                await client.version()
        monkeypatch.setenv("SSL_CERT_FILE", str(BOTH))
        async with Client(url) as client:
            assert await client.is_up()
            assert await client.tags() == []


def test_certificate_and_key_may_be_two_files(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert", tmp_path / "key"
    cert.write_text(PEM[:SPLIT])
    key.write_text(PEM[SPLIT:])
    context = open_tls(cert, key)
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    with pytest.raises(
        ConfigError, match=re.escape(f"cannot use the certificate and key in {cert}:")
    ):
        open_tls(cert, None)


@pytest.mark.parametrize("text", [None, "", "junk", PEM[:SPLIT]])
def test_a_key_that_cannot_be_used_is_an_error_that_names_the_files(
    tmp_path: Path, text: str | None
) -> None:
    key = tmp_path / "key"
    if text is not None:
        key.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"in {BOTH} and {key}: ")):
        open_tls(BOTH, key)


def present(context: ssl.SSLContext) -> str:
    """Return the certificate that a client without a host name is shown."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(down, up)
    server = context.wrap_bio(up, down, server_side=True)
    for side in (client, server) * 2:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    shown = client.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def test_a_renewed_certificate_is_presented_once_it_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "pem"
    path.write_text(PEM)
    certificate = Certificate(path, None)
    path.write_text(RENEWED.read_text())
    assert present(certificate.context) == certificate_of(BOTH)
    certificate.reload()
    assert present(certificate.context) == certificate_of(RENEWED)


@pytest.mark.parametrize("broken", [None, "junk", PEM[:SPLIT], MISMATCHED])
def test_a_renewed_certificate_that_cannot_be_used_leaves_the_previous_one(
    broken: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "pem"
    path.write_text(PEM)
    certificate = Certificate(path, None)
    path.unlink()
    if broken is not None:
        path.write_text(broken)
    with caplog.at_level(logging.WARNING):
        certificate.reload()
    assert present(certificate.context) == certificate_of(BOTH)
    [record] = caplog.records
    assert record.message == "certificate not read, the previous one stays in use"
    assert str(path) in record.__dict__["reason"]


async def test_sighup_reads_certificate_and_keys_again(tmp_path: Path) -> None:
    pem, keys = tmp_path / "pem", tmp_path / "keys"
    pem.write_text(PEM)
    keys.write_text("old")
    options = ("--tls-cert", str(pem), "--api-key-file", str(keys))
    async with serving(tmp_path, *options) as (process, url):
        host, _, port = url.removeprefix("https://").partition(":")
        address = (host, int(port))
        assert await asyncio.to_thread(ssl.get_server_certificate, address) == certificate_of(BOTH)
        pem.write_text(RENEWED.read_text())
        keys.write_text("new,newer")
        process.send_signal(signal.SIGHUP)
        assert process.stdout is not None
        assert b"page=" in await process.stdout.readline()
        lines = [await process.stdout.readline() for _ in range(2)]
        assert b"API keys read again" in lines[0]
        assert b"keys=2" in lines[0]
        assert b"certificate read again" in lines[1]
        shown = await asyncio.to_thread(ssl.get_server_certificate, address)
        assert shown == certificate_of(RENEWED)
