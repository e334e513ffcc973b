"""What is asked of a node before it gets work: the same embedd, and the same files."""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import embedd
from embedd.bulk.folder import JobFolder
from embedd.bulk.remote import Target
from embedd.bulk.stores import is_remote
from embedd.errors import EmbeddError


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A file that every node must see, and one input of each folder.

    Args:
        root: The folder of the job, the same path or URI on all nodes.
        name: The file, in *root*.
        content: What it has.
        inputs: Paths, with their bytes.
        version: embedd's, of the command.
    """

    root: Target
    name: str
    content: str
    inputs: tuple[tuple[str, int], ...]
    version: str = embedd.__version__


@contextmanager
def open_probe(folder: JobFolder, inputs: Iterable[str]) -> Iterator[Probe]:
    """Write the file that nodes look for; it is removed at the end of the block."""
    content = secrets.token_hex(16)
    # Where this process is killed, the next one that locks the shard removes it.
    name = f".tmp-{folder.shard}-probe-{content[:8]}"
    # Stores are the same from everywhere.
    samples = {str(Path(path).parent): path for path in inputs if not is_remote(path)}
    folder.replace(name, content.encode())
    try:
        yield Probe(
            root=folder.root,
            name=name,
            content=content,
            inputs=tuple((path, Path(path).stat().st_size) for path in samples.values()),
        )
    finally:
        folder.remove(name)


def find_fault(probe: Probe) -> str:
    """Return what this machine lacks for the job; empty if it can do it."""
    if embedd.__version__ != probe.version:
        return f"has embedd {embedd.__version__}, and the command {probe.version}: install the same"
    try:
        content = (probe.root / probe.name).read_bytes().decode()
    except OSError:
        content = ""
    except EmbeddError as error:  # of a store
        return str(error)
    if content != probe.content:
        return (
            f"does not see the files that this machine writes to {probe.root}: the output must be "
            "in a folder that all nodes share, at the same path (NFS, or another shared file "
            "system)"
        )
    for path, size in probe.inputs:
        if not os.access(path, os.R_OK) or Path(path).stat().st_size != size:
            return (
                f"does not see the input {path} of {size} bytes: inputs must be in a folder that "
                "all nodes share, at the same path"
            )
    return _find_write_fault(probe)


def _find_write_fault(probe: Probe) -> str:
    own = probe.root / f"{probe.name}-{secrets.token_hex(4)}"
    try:
        own.write_bytes(probe.content.encode())
        own.unlink()
    except OSError as error:
        return f"cannot write to {probe.root}: {error.strerror}"
    except EmbeddError as error:
        return str(error)
    return ""
