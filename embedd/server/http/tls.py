"""TLS: the certificate and key of the server."""

import logging
import ssl
from pathlib import Path

from embedd.errors import ConfigError

log = logging.getLogger(__name__)


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


class Certificate:
    """The certificate of a server, which can be replaced while the server runs.

    Args:
        certificate: As `open_tls` takes it.
        key: As `open_tls` takes it.

    Attributes:
        context: For the listening sockets; each handshake gets the certificate read last.

    Raises:
        ConfigError: As `open_tls` does.
    """

    def __init__(self, certificate: Path, key: Path | None) -> None:
        self._files = (certificate, key)
        self._newest = open_tls(certificate, key)
        # Not `load_cert_chain` on this one: it keeps the old certificate beside a new one whose
        # key is of another type, and has replaced half of the pair when the other half is wrong.
        self.context = open_tls(certificate, key)
        self.context.sni_callback = self._present_newest

    def _present_newest(
        self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        connection.context = self._newest  # also called for clients that name no host

    def reload(self) -> None:
        """Read the files again; on an error log a warning and keep the previous certificate."""
        facts = {"path": self._files[0]}
        try:
            self._newest = open_tls(*self._files)
        except ConfigError as error:
            log.warning(
                "certificate not read, the previous one stays in use",
                extra={**facts, "reason": str(error)},
            )
        else:
            log.info("certificate read again", extra=facts)
