"""TLS: one's own certificate, from the server's option to the client's trust.

``localhost.pem`` was made for these tests and opens nothing.
"""

import asyncio
import os
import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from embedd.client import Client
from embedd.errors import ConfigError, ServiceError, UnavailableError
from embedd.server.http.tls import open_tls

BOTH = Path(__file__).parent / "localhost.pem"
PEM = BOTH.read_text()
SPLIT = PEM.index("-----BEGIN PRIVATE KEY")


@asynccontextmanager
async def serving(tmp_path: Path, *options: str) -> AsyncIterator[str]:
    """The installed command; its URL."""
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
                yield found[1].decode()
                break
    finally:
        process.terminate()
        await process.communicate()


async def test_a_server_with_a_certificate_serves_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, "--tls-cert", str(BOTH)) as url:
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
