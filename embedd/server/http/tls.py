"""The certificate that the server shows."""

import ssl
from pathlib import Path

from embedd.errors import ConfigError


def open_tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """What a server needs to speak TLS.

    Args:
        certificate: PEM, followed by those that signed it.
        key: PEM without a password; None is in the file of the certificate.

    Raises:
        ConfigError: One cannot be read, or they do not belong together.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # A password would be asked for on the terminal; an empty one is refused instead.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        files = f"{certificate} and {key}" if key else str(certificate)
        raise ConfigError(f"cannot use the certificate and key in {files}: {error}") from error
    return context
