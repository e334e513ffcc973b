"""The checks of ``embedd doctor``: each looks at one thing, and says what to do about it."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from embedd.cli.tables import format_size
from embedd.config import Settings, read_settings, worker_environment
from embedd.errors import ConfigError, EmbeddError, ServiceError, UnavailableError

if TYPE_CHECKING:
    from embedd.engine.spec import ModelSpec

# What the kernel calls a set of instructions → what llama.cpp calls it.
INSTRUCTIONS: Final[Mapping[str, str]] = {
    "avx": "AVX",
    "avx2": "AVX2",
    "f16c": "F16C",
    "fma": "FMA",
    "bmi2": "BMI2",
    "avx_vnni": "AVX_VNNI",
    "avx512f": "AVX512",
    "avx512vbmi": "AVX512_VBMI",
    "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16",
    "amx_int8": "AMX_INT8",
    "asimd": "NEON",
    "asimddp": "DOTPROD",
    "i8mm": "MATMUL_INT8",
    "sve": "SVE",
}
LEAST_MEMORY: Final = 1 << 30  # bytes; all-minilm needs 0.3 GB, bge-m3 1.5 GB
LEAST_DISK: Final = 2 << 30
MOST_NAMES: Final = 3  # of models in one line
GPU_DEVICES: Final = ("nvidia0", "kfd", "dri/renderD128")
REBUILD: Final = (
    "build it for this CPU: pip install --force-reinstall --no-binary llama-cpp-python "
    "llama-cpp-python==0.3.36"
)


class State(StrEnum):
    """The result of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was found; *remedy* says what to do, and is empty if all is well."""

    name: str
    state: State = State.OK
    found: str
    remedy: str = ""


def read_checked_settings() -> tuple[Settings | None, Check]:
    """Read the settings; None if one of them is refused."""
    warnings: list[str] = []
    try:
        settings = read_settings(warn=warnings.append)
    except ConfigError as error:
        found = "; ".join([str(error), *warnings])
        return None, Check(
            name="settings", state=State.FAIL, found=found, remedy="correct it; `embedd serve -h`"
        )
    if not warnings:
        return settings, Check(name="settings", found=f"server at {settings.host.url}")
    return settings, Check(
        name="settings",
        state=State.WARN,
        found="; ".join(warnings),
        remedy="correct or unset the variables; `embedd serve -h` lists all",
    )


def check_processor(settings: Settings) -> Check:
    """Compare the instructions of the CPU with those that llama.cpp was built for."""
    del settings
    from embedd.engine.installation import read_library_instructions
    from embedd.machine import describe_processor, read_cpu_features

    name = "processor"
    try:
        built = read_library_instructions(worker_environment())
    except EmbeddError as error:
        return Check(name=name, state=State.FAIL, found=str(error), remedy=REBUILD)
    has = {INSTRUCTIONS[one] for one in read_cpu_features() & INSTRUCTIONS.keys()}
    known = set(INSTRUCTIONS.values())
    if lacking := sorted((built & known) - has):
        found = f"llama.cpp uses {', '.join(lacking)}, which this CPU does not have"
        return Check(name=name, state=State.FAIL, found=found, remedy=REBUILD)
    if unused := sorted(has - built):
        found = f"llama.cpp was built without {', '.join(unused)} of this CPU: it is slower"
        return Check(name=name, state=State.WARN, found=found, remedy=REBUILD)
    sets = ", ".join(sorted(has)) or "no sets of instructions known"
    model = describe_processor().rpartition(":")[2].strip()
    return Check(name=name, found=f"{model}: {sets}")


def check_memory(settings: Settings) -> Check:
    """Look at the cores and the memory that embedd may use."""
    found = f"{format_size(settings.memory)} for models, {settings.threads} cores"
    if settings.memory >= LEAST_MEMORY:
        return Check(name="memory", found=found)
    return Check(
        name="memory",
        state=State.WARN,
        found=f"{found}: enough for small models only",
        remedy="raise the memory limit of the container or service, or EMBEDD_MEMORY",
    )


def check_openvino(settings: Settings) -> Check:
    """Look for OpenVINO, which computes encoders faster than llama.cpp."""
    from importlib.metadata import version

    from embedd.engine.installation import has_openvino

    if has_openvino():
        return Check(
            name="openvino", found=f"{version('openvino')}, precision {settings.precision}"
        )
    return Check(
        name="openvino",
        state=State.WARN,
        found="not installed: encoders are computed by llama.cpp, two to three times as slowly",
        remedy="pip install 'embedd-server[openvino]'",
    )


def check_gpu(settings: Settings, devices: Path = Path("/dev")) -> Check:
    """Compare the GPUs that the system shows with the build of llama.cpp."""
    from embedd.engine.installation import find_llama_libraries, has_gpu_build

    if has_gpu_build(find_llama_libraries()):
        layers = "all" if settings.gpu_layers is None else settings.gpu_layers
        return Check(name="gpu", found=f"llama.cpp is built for one, layers on it: {layers}")
    if not any((devices / name).exists() for name in GPU_DEVICES):
        return Check(name="gpu", found="none: models are computed by the CPU")
    return Check(
        name="gpu",
        state=State.WARN,
        found="there is one, but llama.cpp was built without support for it",
        remedy="build llama-cpp-python with CMAKE_ARGS=-DGGML_CUDA=on (or -DGGML_VULKAN=on)",
    )


def check_store(settings: Settings) -> Check:
    """Look at the folder of models: that it can be written, and what it holds."""
    from embedd.runtime import open_store

    name = "store"
    remedy = "choose a folder that this user may write with EMBEDD_MODELS, or correct its owner"
    try:
        store = open_store(settings)
        count = len(list(store.manifests.names()))
        own = "" if store.layout.is_own() or not count else ", not created by embedd: not pruned"
    except (OSError, EmbeddError) as error:
        found = f"{settings.models} cannot be used: {error}"
        return Check(name=name, state=State.FAIL, found=found, remedy=remedy)
    models = "1 model" if count == 1 else f"{count} models"
    try:
        _try_to_write(settings.models)
    except OSError as error:
        found = f"{settings.models} cannot be written: {error.strerror}"
        if not count:
            return Check(name=name, state=State.FAIL, found=found, remedy=remedy)
        found += f"; {models} can be used, and no other can be pulled"
        return Check(name=name, state=State.WARN, found=found, remedy=remedy)
    found = f"{settings.models} ({_why_there(settings)}), {models}{own}"
    others = _find_served_elsewhere(settings, {one.display for one in store.manifests.names()})
    if not others:
        return Check(name=name, found=found)
    return Check(
        name=name,
        state=State.WARN,
        found=f"{found}; the server at {settings.host.url} has another one, with {others}",
        remedy="nothing, if that is meant; else set EMBEDD_MODELS to the folder that its log names",
    )


def _why_there(settings: Settings) -> str:
    """Why this folder is the store."""
    with contextlib.suppress(ConfigError):  # this user has no home folder
        if settings.models == read_settings({}, warn=lambda _: None).models:
            return "in this user's HOME: EMBEDD_MODELS is not set"
    return "EMBEDD_MODELS"


def _find_served_elsewhere(settings: Settings, stored: set[str]) -> str:
    """Name the models that only the store of this machine's server has; "" if it is the same."""
    from embedd.cli.connection import is_listening, make_client

    async def ask() -> list[str]:
        async with make_client(settings.host) as client:
            is_embedd = (await client.identify()).is_embedd
            return [one.name for one in await client.tags()] if is_embedd else []

    if not settings.host.is_local or not is_listening(settings.host):
        return ""
    with contextlib.suppress(EmbeddError):  # it needs a key, or is something else
        return ", ".join(sorted({*asyncio.run(ask())} - stored)[:MOST_NAMES])
    return ""


def check_disk(settings: Settings) -> Check:
    """Look at the free space of the store's disk."""
    free = shutil.disk_usage(_nearest(settings.models)).free
    found = f"{format_size(free)} free at {settings.models}"
    if free >= LEAST_DISK:
        return Check(name="disk", found=found)
    return Check(
        name="disk",
        state=State.WARN,
        found=found,
        remedy="delete models (`embedd rm`), or `embedd verify --prune`",
    )


def check_state(settings: Settings) -> Check:
    """Look at the folder of measurements."""
    try:
        _try_to_write(settings.state)
    except OSError as error:
        return Check(
            name="state",
            state=State.WARN,
            found=f"{settings.state} cannot be written ({error}): models are measured every time",
            remedy="choose another folder with EMBEDD_STATE",
        )
    return Check(name="state", found=str(settings.state))


def check_port(settings: Settings) -> Check:
    """Look at what has the server's address: nothing, embedd, or another program."""
    from embedd.cli.connection import make_client
    from embedd.server.serve import bind, describe_listener

    name, address = "port", settings.host

    async def identify() -> str:
        async with make_client(address) as client:
            found = await client.identify()
            return str(found) if found.is_embedd else ""

    with contextlib.suppress(UnavailableError, ServiceError):
        if running := asyncio.run(identify()):
            return Check(name=name, found=f"{running} answers at {address.url}")
    if not address.is_local:
        return Check(
            name=name,
            state=State.FAIL,
            found=f"no embedd answers at {address.url}, which is another machine's",
            remedy="start it there, or correct EMBEDD_HOST",
        )
    try:
        for sock in bind(address):
            sock.close()
        if address.socket is not None:
            address.socket.unlink(missing_ok=True)
    except ConfigError as error:
        return Check(
            name=name,
            state=State.FAIL,
            found=str(error),
            remedy=f"stop {describe_listener(address)}, or choose another port with EMBEDD_HOST",
        )
    return Check(name=name, found=f"{address.url} is free")


def check_hub(settings: Settings) -> Check:
    """Ask the hub for anything at all."""
    del settings
    from embedd.runtime import open_hub

    try:
        return Check(name="hub", found=f"{open_hub().probe()} answers")
    except EmbeddError as error:
        return Check(
            name="hub",
            state=State.WARN,
            found=str(error),
            remedy="only pulling needs it: check HTTPS_PROXY, HF_ENDPOINT and the network",
        )


def check_model(settings: Settings) -> Check:
    """Load the smallest stored model, which tests its backends."""
    from embedd.runtime import load_once

    spec = _find_smallest(settings)
    if spec is None:
        return Check(
            name="backends",
            found="not tested: no model is stored (`embedd pull all-minilm` stores a small one)",
        )
    try:
        info = asyncio.run(load_once(settings, spec))
    except EmbeddError as error:
        return Check(
            name="backends",
            state=State.FAIL,
            found=f"{spec.name} cannot be loaded: {error}",
            remedy="pull it again; with EMBEDD_DEBUG=1 the log says more",
        )
    found = f"{spec.name} passed its self-test on {info.backend}, tokenizer {info.tokenizer}"
    return Check(name="backends", found=found)


CHECKS: Final[Sequence[Callable[[Settings], Check]]] = (
    check_processor,
    check_memory,
    check_openvino,
    check_gpu,
    check_store,
    check_disk,
    check_state,
    check_port,
    check_hub,
    check_model,
)


def _find_smallest(settings: Settings) -> "ModelSpec | None":
    from embedd.runtime import find_spec, open_store

    specs = []
    for name in open_store(settings).manifests.names():
        with contextlib.suppress(EmbeddError):
            specs.append(find_spec(settings, name.display))
    return min(specs, key=lambda spec: spec.weights, default=None)


def _try_to_write(folder: Path) -> None:
    """Create a file in *folder*, or in the nearest folder above it that exists, and remove it."""
    with tempfile.TemporaryFile(dir=_nearest(folder)):
        pass


def _nearest(folder: Path) -> Path:
    return next(one for one in (folder, *folder.absolute().parents) if one.exists())
