"""TLS: the certificate and key of the server."""

import ssl
from pathlib import Path

from embedd.errors import ConfigError


def open_tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the TLS context of a server.

    Args:
        certificate: PEM file of the certificate, followed by its chain.
        key: PEM file of the key, without a password; None: it is in *certificate*.

    Raises:
        ConfigError: A file cannot be read, or key and certificate do not match.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # Without a password OpenSSL would ask for one on the terminal; an empty one fails.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        files = f"{certificate} and {key}" if key else str(certificate)
        raise ConfigError(f"cannot use the certificate and key in {files}: {error}") from error
    return context
