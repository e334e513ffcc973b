"""The Hugging Face hub, through `huggingface_hub`: metadata, small files, ranges, downloads.

The library brings the token, ``HF_ENDPOINT``, offline mode, proxies and its HTTP session. Its
own downloads go to its cache, so files are streamed from the session here: they resume, and
their bytes are hashed and counted on their way into the store.
"""

import importlib.util
import logging
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, hf_raise_for_status
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # in its __all__

from embedd.errors import PullError
from embedd.store.partial import Partial
from embedd.store.remote import NOT_FOUND, RemoteBlob, RemoteFile, Repository

MAX_FILES: Final = 20_000
SOCKS: Final = ("socks5", "socks5h")
RETRIES: Final = 3
TRANSFER_RETRIES: Final = 5  # in a row without progress: half a minute
LONGEST_PAUSE: Final = 60.0
_TIMEOUT: Final = 10.0
# A small chunk loses little with a connection, and on a slow one a pull that was cancelled
# is noticed soon.
_CHUNK: Final = 256 << 10
_GATED: Final = "accept its terms on its page, and set HF_TOKEN"
_SHA256: Final = re.compile("[0-9a-f]{64}")

_Value = TypeVar("_Value")


class _ServerError(Exception):
    """The hub failed in a way that may pass; *pause* is the wait it asks for, in seconds."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Hub:
    """A client of the hub. All calls block and raise `PullError`.

    Args:
        endpoint: URL of the hub; None is the one that the environment names.
        pause: Waits a number of seconds before another attempt.
    """

    def __init__(
        self, endpoint: str | None = None, *, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._endpoint = endpoint
        self._pause = pause
        self._api = huggingface_hub.HfApi(endpoint=endpoint)
        # Warnings would be printed into the progress bars; the last error is raised anyway.
        huggingface_hub.logging.set_verbosity(logging.ERROR)

    def probe(self) -> str:
        """Return the hub's address if anything answers there.

        Raises:
            PullError: Nothing does, offline mode is on, or a proxy cannot be used.
        """
        url = self._endpoint or constants.ENDPOINT
        try:
            with _translated():
                if constants.HF_HUB_OFFLINE:
                    raise OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
                huggingface_hub.get_session().head(url, timeout=_TIMEOUT)
        except _ServerError as error:
            raise PullError(f"{url} cannot be reached: {error.__cause__ or error}") from error
        return url

    def look_up(self, repository: str, revision: str | None = None) -> Repository:
        """The repository at *revision*; None is its main branch."""
        info = self._retry(
            lambda: self._api.model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
        )
        if not info.sha:
            raise PullError(f"pull model manifest: {repository} has no commit: try again later")
        card = info.card_data
        license_name = card.get("license_name") or card.get("license") if card else None
        return Repository(
            name=repository,
            commit=info.sha,
            files=tuple(
                RemoteFile(path=file.rfilename, size=file.size)
                for file in (info.siblings or [])[:MAX_FILES]
            ),
            license=license_name if isinstance(license_name, str) else "",
        )

    def locate(self, repository: Repository, path: str) -> RemoteBlob:
        """Size and digest of the file *path*."""
        url = self._url(repository.name, repository.commit, path)
        found = self._retry(lambda: get_hf_file_metadata(url, endpoint=self._endpoint))
        if found.size is None or not _SHA256.fullmatch(found.etag or ""):
            raise PullError(
                f"pull model manifest: {path} of {repository.name} is not kept with a sha256 "
                "at its source: nothing could be verified"
            )
        return RemoteBlob(
            repository=repository.name,
            commit=repository.commit,
            path=path,
            size=found.size,
            digest=f"sha256:{found.etag}",
        )

    def read(self, repository: Repository, path: str, limit: int) -> bytes:
        """The first *limit* bytes of a small file."""
        return self._read(self._url(repository.name, repository.commit, path), 0, limit)

    def read_range(self, blob: RemoteBlob, start: int, size: int) -> bytes:
        """Up to *size* bytes from *start* on."""
        return self._read(self._url(blob.repository, blob.commit, blob.path), start, size)

    def stream(self, blob: RemoteBlob, partial: Partial) -> None:
        """Append to *partial* the bytes of *blob* that it does not have yet."""
        url = self._url(blob.repository, blob.commit, blob.path)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT

        def transfer() -> None:
            with _open_range(url, partial.done, timeout=timeout) as (start, chunks):
                if start < partial.done:
                    partial.restart()
                for chunk in chunks:
                    partial.write(chunk)
                    if partial.done > blob.size:
                        break  # not the file that was located; its digest will differ
            if partial.done < blob.size:
                raise _ServerError(_unreachable(f"{blob.path} ended at byte {partial.done}"))

        self._retry(transfer, progress=lambda: partial.done)

    def _url(self, repository: str, commit: str, path: str) -> str:
        return hf_hub_url(repository, path, revision=commit, endpoint=self._endpoint)

    def _read(self, url: str, start: int, size: int) -> bytes:
        return self._retry(lambda: _read_range(url, start, size))

    def _retry(
        self, call: Callable[[], _Value], progress: Callable[[], int] | None = None
    ) -> _Value:
        """The result of *call*, tried again while the hub cannot be reached or fails.

        Attempts that made *progress* do not count.
        """
        failures, limit = 0, TRANSFER_RETRIES if progress else RETRIES
        while True:
            before = progress() if progress else 0
            try:
                with _translated():
                    return call()
            except _ServerError as error:
                failures = 1 if progress and progress() > before else failures + 1
                if failures > limit:
                    raise PullError(str(error)) from error
                pause = max(2.0 ** (failures - 1), error.pause)
            self._pause(min(pause, LONGEST_PAUSE))


def _read_range(url: str, start: int, size: int) -> bytes:
    with _open_range(url, start, start + size) as (begin, chunks):
        data = bytearray()
        for chunk in chunks:
            data += chunk
            if len(data) >= start - begin + size:
                break
        return bytes(data[start - begin :][:size])


@contextmanager
def _open_range(
    url: str, start: int, end: int | None = None, *, timeout: float = _TIMEOUT
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Where the answer begins, and its bytes: at *start*, at 0 if the server has no ranges."""
    headers = build_hf_headers()
    headers["Accept-Encoding"] = "identity"  # a compressed answer would have other ranges
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    session = huggingface_hub.get_session()
    with session.stream("GET", url, headers=headers, timeout=timeout) as response:
        if response.status_code == 416 and end is not None:  # the file ends before *start*
            yield start, iter(())
            return
        hf_raise_for_status(response)
        yield start if response.status_code == 206 else 0, response.iter_bytes(_CHUNK)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn errors of the library into `PullError`, or `_ServerError` where a retry may help."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PullError(
            "max retries exceeded: offline mode is on: unset HF_HUB_OFFLINE to pull"
        ) from error
    except GatedRepoError as error:
        raise PullError(_refused(error, _GATED)) from error
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        raise PullError(NOT_FOUND) from error
    except HFValidationError as error:
        raise PullError(NOT_FOUND) from error
    except HfHubHTTPError as error:
        raise _translate_status(error) from error
    except (ImportError, ValueError) as error:
        # The HTTP session is made at the first call: a proxy is refused there.
        if refusal := _describe_proxy():
            raise PullError(refusal) from error
        raise
    except (httpx2.HTTPError, OSError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise _ServerError(_unreachable(f"{constants.ENDPOINT}: {cause}")) from error


def _describe_proxy() -> str | None:
    """Which variable names a proxy that cannot be used, and why; None if none does."""
    for name, url in urllib.request.getproxies_environment().items():
        scheme = url.partition("://")[0].lower()
        variable = f"{name.upper()}_PROXY"
        if scheme in SOCKS and importlib.util.find_spec("socksio") is None:
            return (
                f"{variable} names a SOCKS proxy, for which a package is missing: run "
                "`pip install 'embedd-server[socks]'`, or name an http:// proxy"
            )
        is_used = name in {"http", "https", "all"} and "://" in url
        if is_used and scheme not in {*SOCKS, "http", "https"}:
            return (
                f"{variable} cannot be used: its proxy has to begin with http://, https://, "
                "socks5:// or socks5h://"
            )
    return None


def _unreachable(cause: str) -> str:
    return (
        f"max retries exceeded: {cause}: check the network, HF_ENDPOINT and proxies, "
        "then pull again: the download resumes"
    )


def _translate_status(error: HfHubHTTPError) -> Exception:
    status = error.response.status_code
    if status in {401, 403}:
        return PullError(_refused(error, "it is private, or HF_TOKEN is wrong"))
    if status == 404:
        return PullError(NOT_FOUND)
    if status in {408, 429} or status >= 500:
        asked = error.response.headers.get("Retry-After", "")
        pause = float(asked) if asked.isdecimal() else 0.0
        return _ServerError(_refused(error, "try again later"), pause)
    return PullError(_refused(error, "see the source's page"))


def _refused(error: HfHubHTTPError, advice: str) -> str:
    response = error.response
    reason = error.server_message or response.headers.get("X-Error-Message")
    reason = reason or response.reason_phrase
    return f"pull model manifest: {response.status_code}: {' '.join(reason.split())}: {advice}"
