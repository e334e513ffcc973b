"""The Hugging Face hub, through `huggingface_hub`: metadata, small files, ranges, bytes.

The library brings the token, ``HF_ENDPOINT``, offline mode and proxies. Of its download
functions only the HTTP primitive is used: it resumes, and writes where it is told to.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, TypeVar, cast

import httpx2
from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import get_session, hf_raise_for_status
from huggingface_hub.utils.logging import set_verbosity
from huggingface_hub.utils.tqdm import silent_tqdm

from embedd.errors import PullError
from embedd.store.remote import RemoteBlob, RemoteFile, Repository, Sink

NOT_FOUND: Final = "pull model manifest: file does not exist"
MAX_FILES: Final = 20_000
RETRIES: Final = 3
LONGEST_PAUSE: Final = 60.0
_TIMEOUT: Final = 10.0
_GATED: Final = "accept its terms on its page, and set HF_TOKEN"
_SHA256: Final = re.compile("[0-9a-f]{64}")

# The library collects 10 MiB before it writes: much would be lost with a connection, and
# minutes could pass on a slow one until a pull that nobody wants any more is noticed.
constants.DOWNLOAD_CHUNK_SIZE = 256 << 10
# Its warnings would be printed into the progress bars; the last error is raised anyway.
set_verbosity(logging.ERROR)

_Value = TypeVar("_Value")


class _ServerError(Exception):
    """The hub is out of order for the moment; *pause* is what it asks for, in seconds."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class Hub:
    """A hub at *endpoint*; None is the one that the environment names.

    Args:
        pause: Waits some seconds before another attempt.
    """

    def __init__(
        self, endpoint: str | None = None, *, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._endpoint = endpoint
        self._pause = pause
        self._api = HfApi(endpoint=endpoint)

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

    def stream(self, blob: RemoteBlob, sink: Sink) -> None:
        """Append to *sink* what it does not have yet."""
        url = self._url(blob.repository, blob.commit, blob.path)

        def transfer() -> None:
            http_get(
                url,
                cast("BinaryIO", sink),
                resume_size=sink.tell(),
                headers=build_hf_headers(),
                expected_size=blob.size,
                tqdm_class=silent_tqdm,
            )

        self._retry(transfer, progress=sink.tell)

    def _url(self, repository: str, commit: str, path: str) -> str:
        return hf_hub_url(repository, path, revision=commit, endpoint=self._endpoint)

    def _read(self, url: str, start: int, size: int) -> bytes:
        # A compressed answer would have other ranges.
        headers = build_hf_headers() | {
            "Range": f"bytes={start}-{start + size - 1}",
            "Accept-Encoding": "identity",
        }
        return self._retry(lambda: _read_range(url, headers, start, size))

    def _retry(
        self, call: Callable[[], _Value], progress: Callable[[], int] | None = None
    ) -> _Value:
        """The result of *call*, tried again while the hub is unreachable or out of order.

        Attempts that made *progress* do not count.
        """
        failures = 0
        while True:
            before = progress() if progress else 0
            try:
                with _translated():
                    return call()
            except _ServerError as error:
                failures = 1 if progress and progress() > before else failures + 1
                if failures > RETRIES:
                    raise PullError(str(error)) from error
                pause = max(2.0 ** (failures - 1), error.pause)
            self._pause(min(pause, LONGEST_PAUSE))


def _read_range(url: str, headers: dict[str, str], start: int, size: int) -> bytes:
    with get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT) as response:
        if response.status_code == 416:  # the file ends before
            return b""
        hf_raise_for_status(response)
        # A server that knows no ranges sends the file from its beginning.
        skip = 0 if response.status_code == 206 else start
        data = bytearray()
        for chunk in response.iter_bytes(64 << 10):
            data += chunk
            if len(data) >= skip + size:
                break
        return bytes(data[skip : skip + size])


@contextmanager
def _translated() -> Iterator[None]:
    """Let the errors of the library leave as the texts of the contract, or as worth a retry."""
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
    except (httpx2.HTTPError, OSError) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise _ServerError(
            f"max retries exceeded: {cause}: check the network, HF_ENDPOINT and proxies, "
            "then pull again, it goes on where it broke off"
        ) from error


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
