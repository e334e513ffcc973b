"""`RemotePath`: a file of an object store, or of HDFS, that is written once it is whole.

A stream that pyarrow opens there is committed when it is closed, also after an error, and nothing
can give it up. So a file is made on this machine, and uploaded in one call when it is complete.
"""

import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from embedd.bulk.folder import FULL, naming
from embedd.bulk.stores import Place, is_remote, open_place, without_query
from embedd.errors import InvalidInputError, UnavailableError

# Seconds between attempts; pyarrow's own for S3 come first, and take some 6 s each time.
DELAYS: Final = (1.0, 2.0, 4.0, 8.0, 16.0)
# What no later attempt changes; names of files are in these messages too.
_REFUSED: Final = re.compile(
    r"AWS Error (ACCESS_DENIED|NO_SUCH_BUCKET|\w*(ACCESS_KEY|SIGNATURE|TOKEN|CLIENT|EXPIRED)\w*) "
    r"|HTTP status 40[0134]"
    r"|Status\((PERMISSION_DENIED|UNAUTHENTICATED|NOT_FOUND|INVALID_ARGUMENT)"
    r"|Azure Error: \[(Auth|InvalidAuth|ContainerNotFound|AccountIsDisabled)"
)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or a folder of a store, with the part of `Path` that outputs need.

    Args:
        uri: With the options of the store, if it has any.
        patient: Whether to try again for a while when the store does not answer.
    """

    uri: str
    patient: bool = True

    def __str__(self) -> str:
        """Return the URI without the options of the store."""
        return without_query(self.uri).rstrip("/")

    def __truediv__(self, name: str) -> "RemotePath":
        """Return the path of *name* in this folder."""
        return self._become(f"{self}/{name}" if name else str(self))

    @property
    def name(self) -> str:
        """The last part."""
        return str(self).rpartition("/")[2]

    def with_name(self, name: str) -> "RemotePath":
        """Return the path of *name* beside this one."""
        return self._become(f"{str(self).rpartition('/')[0]}/{name}")

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Return the path with another ending."""
        return self.with_name(Path(self.name).with_suffix(suffix).name)

    def absolute(self) -> "RemotePath":
        """Return this path: it is the same from everywhere."""
        return self

    def exists(self) -> bool:
        """Whether it is a file."""
        return self.size() is not None

    def size(self) -> int | None:
        """Return the bytes of the file, None if it does not exist."""
        place = self._open()
        [info] = self._ask("read", lambda: place.system.get_file_info([place.path]))
        return int(info.size) if info.is_file else None

    def list(self) -> dict[str, int]:
        """Return the names of the files in this folder with their bytes."""
        from pyarrow import fs  # noqa: PLC0415 - needs an extra

        place = self._open()
        selector = fs.FileSelector(place.path, allow_not_found=True)
        found = self._ask("listed", lambda: place.system.get_file_info(selector))
        return {info.base_name: int(info.size) for info in found if info.is_file}

    def read_bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
            FileNotFoundError: It does not exist.
        """
        place = self._open()

        def read() -> bytes:
            with place.system.open_input_stream(place.path) as file:
                data: bytes = file.read()
            return data

        return self._ask("read", read)

    def write_bytes(self, data: bytes) -> None:
        """Put *data* into the file, which may be there."""
        self._put(data, len(data))

    def fill(self, write: Callable[[Path], object]) -> None:
        """Let *write* fill a file of this machine, and upload it once it is complete."""
        import pyarrow as pa  # noqa: PLC0415 - needs an extra

        with tempfile.TemporaryDirectory(prefix="embedd-") as folder:
            path = Path(folder) / self.name
            with naming(path):
                write(path)
            if size := path.stat().st_size:
                with pa.memory_map(str(path)) as file:
                    self._put(file.read_buffer(), size)
            else:
                self._put(b"", 0)

    def download(self, path: Path) -> None:
        """Copy the file to the new file *path* of this machine."""
        place = self._open()

        def copy() -> None:
            with place.system.open_input_file(place.path) as file:
                file.download(str(path))

        with naming(path):
            self._ask("read", copy)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the file."""
        place = self._open()
        try:
            self._ask("deleted", lambda: place.system.delete_file(place.path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove_folder(self) -> None:
        """Delete all that is in this folder, which may be missing."""
        place = self._open()
        with suppress(FileNotFoundError):
            self._ask("deleted", lambda: place.system.delete_dir(place.path))

    def _put(self, data: Any, size: int) -> None:
        place = self._open()

        def put() -> None:
            stream = place.system.open_output_stream(place.path)
            # All at once: whatever fails here is an upload, which the store does not commit then.
            stream.write(data)
            stream.close()
            [info] = place.system.get_file_info([place.path])
            if not info.is_file or info.size != size:
                raise OSError(f"the store has {info.size or 0} bytes of {size}")

        try:
            self._ask("written", put)
        except FileNotFoundError as error:
            raise self._refuse("written", error) from error

    def _ask(self, verb: str, action: Callable[[], T]) -> T:
        """Do *action*, again where the store does not answer."""
        for delay in (*(DELAYS if self.patient else ()), None):
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if error.errno in FULL:  # this machine's disk
                    raise
                if isinstance(error, PermissionError) or _REFUSED.search(str(error)):
                    raise self._refuse(verb, error) from error
                if delay is None:
                    raise UnavailableError(
                        f"{self} cannot be {verb}, the store does not answer: {_first(error)}; "
                        "run the same command again when it does"
                    ) from error
            time.sleep(delay)
        raise AssertionError  # the last attempt returns or raises

    def _refuse(self, verb: str, error: OSError) -> InvalidInputError:
        return InvalidInputError(
            f"{self} cannot be {verb}: {_first(error)}. Check that the bucket exists, and that the "
            "keys of the store's tools (AWS_ACCESS_KEY_ID …) may read, list, write and delete there"
        )

    def _become(self, plain: str) -> "RemotePath":
        return replace(self, uri=plain + self.uri[len(without_query(self.uri)) :])

    def _open(self) -> Place:
        # Small files of S3 become one request; files are opened when they are complete.
        is_s3 = self.uri.startswith("s3://")
        joint = "&" if "?" in self.uri else "?"
        return open_place(f"{self.uri}{joint}allow_delayed_open=true" if is_s3 else self.uri)


# An output: of this machine, or of a store.
Target: TypeAlias = Path | RemotePath


def make_target(name: str) -> Target:
    """Return the path or URI *name* as an output."""
    return RemotePath(name) if is_remote(name) else Path(name)


def _first(error: OSError) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
