"""The machine: its processor, and the cores and memory that this process may use of it."""

import contextlib
import math
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this process may use: whole *cores*, bytes of *memory*."""

    cores: int
    memory: int


def read_limits(
    cgroups: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> Limits:
    """Return the lowest limits set by the affinity mask, the cgroups (1 or 2) and the machine."""
    folders = list(_cgroup_folders(cgroups, membership))
    quotas = [q for folder in folders for q in (_cpu_quota(folder),) if q is not None]
    sizes = [
        size
        for folder in folders
        for name in ("memory.max", "memory.limit_in_bytes")
        for size in _read_numbers(folder / name)
    ]
    # A fraction of a core is left unused: threads that share a core stall each other at barriers.
    return Limits(
        cores=max(1, math.floor(min([_affinity(), *quotas]))),
        memory=min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *sizes]),
    )


@cache
def read_cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the first CPU's features, such as ``avx512_bf16``; none if the file is missing."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, "").split())


def describe_processor() -> str:
    """Return the model name of the processor, as far as the system names it."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), processor)
    return processor


def _affinity() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _cgroup_folders(root: Path, membership: Path) -> list[Path]:
    """Return the existing folders that may limit this process: its own and those above it.

    In a container the path may be the host's and not exist here; then the container's own
    limits are at the root.
    """
    folders: dict[Path, None] = {}
    lines = membership.read_text().splitlines() if membership.exists() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for base in [root / name for name in controllers.split(",")]:
            own = base / path.strip("/")
            folders |= dict.fromkeys([own, *(p for p in own.parents if p.is_relative_to(base))])
    return [folder for folder in folders if folder.is_dir()]


def _cpu_quota(folder: Path) -> float | None:
    """Return the cores that a cgroup may use at a time, or None if it sets no limit."""
    numbers = _read_numbers(folder / "cpu.max") or [
        *_read_numbers(folder / "cpu.cfs_quota_us"),
        *_read_numbers(folder / "cpu.cfs_period_us"),
    ]
    match numbers:
        case [quota, period] if quota > 0 and period > 0:
            return quota / period
        case _:
            return None


def _read_numbers(path: Path) -> list[int]:
    """Return the whole numbers in a kernel file without "max" and -1; empty if it is missing."""
    try:
        return [int(word) for word in path.read_text().split() if word.isdecimal()]
    except OSError:
        return []
