"""The state folder: what was measured on this machine, in small versioned JSON files."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

# Files of another format are ignored, and replaced by the next measurement. Raise it when values
# get another meaning: 2 because backends have new names.
FORMAT = 2


class StateFolder:
    """Values by kind and key; losing any of them costs time, never a result.

    So nothing here raises: a file that is missing, damaged or of another format is read as
    None, and a value that cannot be written is not kept.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, kind: str, key: str) -> Mapping[str, object] | None:
        """Return what was written under *key*, or None."""
        try:
            content = json.loads(self._path(kind, key).read_text("utf-8"))
        except (OSError, ValueError, RecursionError):  # the last: brackets in brackets
            return None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            return None
        value = content.get("value")
        return value if content.get("key") == key and isinstance(value, dict) else None

    def write(self, kind: str, key: str, value: Mapping[str, object]) -> None:
        """Replace the value under *key* by *value*, which JSON can express."""
        path = self._path(kind, key)
        content = {"format": FORMAT, "key": key, "value": value}
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two servers may share the folder: readers see one file or the other, whole.
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(content, file, indent=1)
            Path(temporary).replace(path)

    def _path(self, kind: str, key: str) -> Path:
        return self._root / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
