"""`Settings`, and the only reader of the environment."""

import difflib
import ipaddress
import logging
import math
import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

from embedd.choices import EngineChoice, Precision, TokenIdChoice, TokenizerChoice
from embedd.durations import parse_keep_alive
from embedd.errors import ConfigError, RequestError
from embedd.logs import LogFormat
from embedd.machine import read_limits

MIB = 1 << 20
DEFAULT_PORT = 11434
DEFAULT_KEEP_ALIVE = 300.0  # seconds, as Ollama's
MAX_MODELS = 3  # in memory at a time
MEMORY_SHARE = 0.8  # of the limit; the rest is for the server itself and other programs

# What Kubernetes sets in every pod beside a service that is named embedd.
_OF_A_SERVICE = re.compile(
    r"EMBEDD_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)

_log = logging.getLogger(__name__)


class Setting(NamedTuple):
    """An environment variable ``EMBEDD_<name>``; with a *twin*, ``OLLAMA_<name>`` is read too.

    ``embedd serve --help`` shows *default* and *meaning*.
    """

    name: str
    default: str
    meaning: str
    twin: bool = True


SETTINGS = (
    Setting(
        "HOST", "127.0.0.1:11434", "address of the server; `:1234` = all interfaces, `unix:<path>`"
    ),
    Setting("MODELS", "~/.embedd/models", "folder of the model store"),
    Setting("KEEP_ALIVE", "5m", "how long an idle model stays in memory; negative = for ever"),
    Setting("MAX_LOADED_MODELS", "3", "models in memory at a time; 0 = 3"),
    Setting("MAX_QUEUE", "512", "requests that may wait for models to load"),
    Setting("LOAD_TIMEOUT", "5m", "how long a load may make no progress; 0, negative = for ever"),
    Setting("CONTEXT_LENGTH", "0", "default `num_ctx`; 0 = what the model was trained for"),
    Setting("ORIGINS", "", "more origins of web pages that may send requests, comma-separated"),
    Setting("FLASH_ATTENTION", "auto", "flash attention of llama.cpp: true = on, false = off"),
    Setting("DEBUG", "0", "1 = debug messages, 2 = trace messages"),
    Setting("NOPRUNE", "false", "keep files of the store that no model uses"),
    Setting("MAX_WAIT", "30s", "how long requests may wait for others; 0 = for ever", twin=False),
    Setting("REQUEST_TIMEOUT", "0", "time for a request that sets none; 0 = for ever", twin=False),
    Setting("MAX_BODY", "67108864", "bytes of a request body, decompressed", twin=False),
    Setting("MAX_BODY_IN_FLIGHT", "8 × MAX_BODY", "bytes of all bodies at a time", twin=False),
    Setting("HEAD_TIMEOUT", "15s", "how long a client may send the head of a request", twin=False),
    Setting("BODY_TIMEOUT", "30s", "how long a client may send no byte of a body", twin=False),
    Setting("WRITE_TIMEOUT", "60s", "how long a client may read no byte of an answer", twin=False),
    Setting("SHUTDOWN_GRACE", "30s", "how long requests may run after SIGTERM", twin=False),
    Setting("MAX_INPUTS", "2048", "inputs of a request, except on Ollama's routes", twin=False),
    Setting("MAX_OLLAMA_INPUTS", "100000", "inputs of a request on Ollama's routes", twin=False),
    Setting("MAX_ANSWER", "1073741824", "bytes of vectors of an answer", twin=False),
    Setting("BATCH_BYTES", "1073741824", "bytes of files and results of `/v1/batches`", twin=False),
    Setting("DEFAULT_MODEL", "the only one", "model for requests without a name", twin=False),
    Setting(
        "DEFAULT_RERANK_MODEL", "DEFAULT_MODEL", "as DEFAULT_MODEL, for rerank requests", twin=False
    ),
    Setting(
        "TOKEN_IDS",
        "auto",
        "token arrays: `own` = accepted, `reject` = refused, auto = refused on OpenAI's routes",
        twin=False,
    ),
    Setting("BASE_PATH", "", "prefix of all paths, as behind a proxy: `/embedd`", twin=False),
    Setting("API_KEY", "", "keys that clients need, comma-separated", twin=False),
    Setting("API_KEY_FILE", "", "file with more keys, read again when it changes", twin=False),
    Setting("ADMIN_KEY", "API_KEY", "keys for managing models, comma-separated", twin=False),
    Setting("SOCKET_MODE", "600", "permissions of the Unix socket, octal", twin=False),
    Setting(
        "ALLOWED_HOSTS", "", "more names in `Host` of this server, comma-separated", twin=False
    ),
    Setting("ENGINE", "auto", "`llama`, `openvino`, auto = the fastest verified one", twin=False),
    Setting(
        "PRECISION", "auto", "numbers of OpenVINO: `f32`, `bf16`, auto = by the CPU", twin=False
    ),
    Setting(
        "TOKENIZER", "auto", "`llama` = llama.cpp's, auto = the model's own, if known", twin=False
    ),
    Setting("THREADS", "affinity and cgroup quota", "cores that embedd may use", twin=False),
    Setting("GPU_LAYERS", "all", "layers of a model on the GPU; 0 = none", twin=False),
    Setting("MEMORY", "80 % of cgroup or machine", "bytes for all loaded models", twin=False),
    Setting("CACHE_BYTES", "67108864", "bytes of vectors kept in memory; 0 = no cache", twin=False),
    Setting("MAX_PIXELS", "1048576", "pixels of a picture to paint", twin=False),
    Setting("MAX_WAITING_IMAGES", "16", "pictures that may wait for one image model", twin=False),
    Setting(
        "IMAGE_METADATA", "true", "write prompt and settings into the files of pictures", twin=False
    ),
    Setting("UI", "true", "the page for browsers at `/ui`", twin=False),
    Setting("LOG_REQUESTS", "false", "log a line for each request", twin=False),
    Setting("LOG_FORMAT", "text", "lines of the log: `text` or `json`", twin=False),
    Setting("OTLP_ENDPOINT", "", "URL of an OpenTelemetry collector for traces", twin=False),
    Setting(
        "STATE",
        "~/.embedd/state",
        "folder of measurements on this machine, and of batches",
        twin=False,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Address of a server: a TCP endpoint, or a Unix *socket*; then the rest is unused.

    ``host`` is an IP address without brackets or a host name; ``path`` is empty or starts
    with a slash and does not end in one.
    """

    scheme: str = "http"
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    path: str = ""
    socket: Path | None = None

    @property
    def url(self) -> str:
        """URL without a trailing slash, or ``unix:<path>``."""
        if self.socket is not None:
            return f"unix:{self.socket}"
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    @property
    def is_local(self) -> bool:
        """Whether the address is on this machine: loopback, unspecified, or a Unix socket."""
        if self.socket is not None or self.host == "localhost":
            return True
        ip = _parse_ip(self.host)
        return ip is not None and (ip.is_loopback or ip.is_unspecified)

    def to_client(self) -> Self:
        """Return the address for clients of a server that binds this one.

        An unspecified address (0.0.0.0, ::) becomes loopback: a server on either has IPv4.
        """
        ip = _parse_ip(self.host)
        return self if ip is None or not ip.is_unspecified else replace(self, host="127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The operator's settings, defaults filled in.

    Durations are seconds (``math.inf`` = for ever), sizes bytes.
    ``context_length`` is 0 where embedd decides; ``flash_attention`` is None for automatic;
    ``gpu_layers`` is None for all; ``base_path`` is empty or begins with a slash;
    ``otlp_endpoint`` is empty or a URL without a slash at its end.
    """

    host: Address
    models: Path
    keep_alive: float
    max_loaded_models: int
    max_queue: int
    load_timeout: float
    context_length: int
    origins: tuple[str, ...]
    flash_attention: bool | None
    debug: int
    noprune: bool
    max_wait: float
    request_timeout: float
    max_body: int
    max_body_in_flight: int
    head_timeout: float
    body_timeout: float
    write_timeout: float
    shutdown_grace: float
    max_inputs: int
    max_ollama_inputs: int
    max_answer: int
    batch_bytes: int
    default_model: str | None
    default_rerank_model: str | None
    token_ids: TokenIdChoice
    base_path: str
    api_key: tuple[str, ...] = field(repr=False)
    api_key_file: Path | None
    admin_key: tuple[str, ...] = field(repr=False)
    socket_mode: int
    allowed_hosts: tuple[str, ...]
    engine: EngineChoice
    precision: Precision
    tokenizer: TokenizerChoice
    threads: int
    gpu_layers: int | None
    memory: int
    cache_bytes: int
    max_pixels: int
    max_waiting_images: int
    image_metadata: bool
    ui: bool
    log_requests: bool
    log_format: LogFormat
    otlp_endpoint: str
    state: Path

    @property
    def client_key(self) -> str | None:
        """The API key that commands send to a server: the first one."""
        keys = self.api_key
        if not keys and self.api_key_file is not None:
            keys = parse_keys(self.api_key_file.read_text())
        return next(iter(keys), None)


class ServiceManager(NamedTuple):
    """What systemd gives a service that it starts.

    ``notify`` is the address of the socket for `sd_notify(3)`, "" if it wants no messages.
    ``listeners`` is how many listening sockets the process inherited (`sd_listen_fds(3)`).
    """

    notify: str = ""
    listeners: int = 0


def read_service_manager(
    environ: Mapping[str, str] = os.environ, pid: int | None = None
) -> ServiceManager:
    """Read what a service manager gave this process; sockets for another process do not count."""
    is_for_us = environ.get("LISTEN_PID") == str(os.getpid() if pid is None else pid)
    count = environ.get("LISTEN_FDS", "")
    return ServiceManager(
        notify=environ.get("NOTIFY_SOCKET", ""),
        listeners=int(count) if is_for_us and re.fullmatch(r"[0-9]{1,4}", count) else 0,
    )


def read_settings(
    environ: Mapping[str, str] = os.environ, warn: Callable[[str], None] = _log.warning
) -> Settings:
    """Read the settings from the environment.

    Call *warn* for each value that cannot be used, and for each variable that is not a setting.

    Raises:
        ConfigError: HOST is not an address, a choice is not one of its words, or the home
            folder is needed and not known.
    """
    for name in find_unknown(environ):
        warn(_describe_unknown(name))
    read = _Reader(environ, warn)
    limits = read_limits()
    max_body = read.unsigned("MAX_BODY", 64 * MIB, least=1)
    return Settings(
        host=parse_host(read.text("HOST"), warn),
        models=read.folder("MODELS"),
        keep_alive=read.duration("KEEP_ALIVE", DEFAULT_KEEP_ALIVE),
        max_loaded_models=read.unsigned("MAX_LOADED_MODELS", MAX_MODELS) or MAX_MODELS,
        max_queue=read.unsigned("MAX_QUEUE", 512),
        max_wait=read.duration("MAX_WAIT", 30.0) or math.inf,
        request_timeout=read.duration("REQUEST_TIMEOUT", math.inf) or math.inf,
        load_timeout=read.duration("LOAD_TIMEOUT", 300.0) or math.inf,
        context_length=read.unsigned("CONTEXT_LENGTH", 0),
        origins=read.several("ORIGINS"),
        engine=EngineChoice(read.choice("ENGINE", tuple(EngineChoice))),
        precision=Precision(read.choice("PRECISION", tuple(Precision))),
        tokenizer=TokenizerChoice(read.choice("TOKENIZER", tuple(TokenizerChoice))),
        flash_attention=read.switch("FLASH_ATTENTION"),
        debug=read.level("DEBUG"),
        noprune=read.switch("NOPRUNE") or False,
        max_body=max_body,
        max_body_in_flight=read.unsigned("MAX_BODY_IN_FLIGHT", 8 * max_body, least=1),
        head_timeout=read.duration("HEAD_TIMEOUT", 15.0) or math.inf,
        body_timeout=read.duration("BODY_TIMEOUT", 30.0) or math.inf,
        write_timeout=read.duration("WRITE_TIMEOUT", 60.0) or math.inf,
        shutdown_grace=read.duration("SHUTDOWN_GRACE", 30.0),
        max_inputs=read.unsigned("MAX_INPUTS", 2048, least=1),
        max_ollama_inputs=read.unsigned("MAX_OLLAMA_INPUTS", 100_000, least=1),
        max_answer=read.unsigned("MAX_ANSWER", 1 << 30, least=1),
        batch_bytes=read.unsigned("BATCH_BYTES", 1 << 30, least=1),
        default_model=read.text("DEFAULT_MODEL") or None,
        default_rerank_model=read.text("DEFAULT_RERANK_MODEL") or None,
        token_ids=TokenIdChoice(read.choice("TOKEN_IDS", tuple(TokenIdChoice))),
        base_path=read.base_path("BASE_PATH"),
        api_key=parse_keys(read.text("API_KEY")),
        api_key_file=read.folder("API_KEY_FILE") if read.text("API_KEY_FILE") else None,
        admin_key=parse_keys(read.text("ADMIN_KEY")),
        socket_mode=read.mode("SOCKET_MODE", 0o600),
        allowed_hosts=read.several("ALLOWED_HOSTS"),
        threads=read.unsigned("THREADS", limits.cores, least=1),
        gpu_layers=read.layers("GPU_LAYERS"),
        memory=read.unsigned("MEMORY", int(limits.memory * MEMORY_SHARE), least=1),
        cache_bytes=read.unsigned("CACHE_BYTES", 64 * MIB),
        max_pixels=read.unsigned("MAX_PIXELS", 1 << 20, least=64 * 64),
        max_waiting_images=read.unsigned("MAX_WAITING_IMAGES", 16),
        image_metadata=read.switch("IMAGE_METADATA") is not False,
        ui=read.switch("UI") is not False,
        log_requests=read.switch("LOG_REQUESTS") or False,
        log_format=LogFormat(read.choice("LOG_FORMAT", tuple(LogFormat))),
        otlp_endpoint=read.url("OTLP_ENDPOINT"),
        state=read.folder("STATE"),
    )


class _Reader:
    """Reads values of settings, one method per kind of value."""

    def __init__(self, environ: Mapping[str, str], warn: Callable[[str], None]) -> None:
        self._environ = environ
        self._warn = warn
        self._settings = {setting.name: setting for setting in SETTINGS}

    def text(self, name: str) -> str:
        """Return the value without spaces and quotes around it, "" if it is not set."""
        return _strip(self._environ.get(self._variable(name), ""))

    def _variable(self, name: str) -> str:
        """Return the variable that sets *name*: embedd's own, unless only Ollama's has a value."""
        own, twin = f"EMBEDD_{name}", f"OLLAMA_{name}"
        has_own = _strip(self._environ.get(own, ""))
        has_twin = self._settings[name].twin and _strip(self._environ.get(twin, ""))
        return twin if has_twin and not has_own else own

    def several(self, name: str) -> tuple[str, ...]:
        return tuple(filter(None, map(str.strip, self.text(name).split(","))))

    def folder(self, name: str) -> Path:
        path = Path(self.text(name) or self._settings[name].default)
        try:
            return path.expanduser()
        except RuntimeError as error:  # no HOME, and the user has no entry with one
            raise ConfigError(
                f"{path}, the folder for {self._variable(name)}, cannot be found: this user has no "
                "home folder: set EMBEDD_MODELS and EMBEDD_STATE to folders, or set HOME"
            ) from error

    def unsigned(self, name: str, default: int, least: int = 0) -> int:
        text = self.text(name)
        if not text:
            return default
        if re.fullmatch(r"[0-9]{1,18}", text) and int(text) >= least:
            return int(text)
        self._refuse(name, text, str(default))
        return default

    def base_path(self, name: str) -> str:
        """Return a prefix of paths: empty, or with a slash at its begin and none at its end."""
        text = self.text(name)
        parts = [part for part in text.split("/") if part]
        if all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) for part in parts):
            return "".join(f"/{part}" for part in parts)
        self._refuse(name, text, "none; it must be parts of letters and digits, such as /embedd")
        return ""

    def url(self, name: str) -> str:
        """Return a URL without a slash at its end, "" if it is not set.

        Raises:
            ConfigError: It is not a URL with http or https.
        """
        text = self.text(name)
        if text and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", text):
            raise ConfigError(
                f"{self._variable(name)}: cannot use {text!r}, it must be a URL such as "
                "http://localhost:4318"
            )
        return text.rstrip("/")

    def mode(self, name: str, default: int) -> int:
        """Return permissions of a file, in octal digits as `chmod` takes them."""
        text = self.text(name)
        if not text:
            return default
        if re.fullmatch(r"(0o?)?[0-7]{3}", text):
            return int(text.removeprefix("0o"), 8)
        self._refuse(name, text, f"{default:o}")
        return default

    def layers(self, name: str) -> int | None:
        """Return None if unset, "all" or negative, as `num_gpu` has it."""
        text = self.text(name).lower()
        if text in {"", "all", "auto"} or re.fullmatch(r"-[0-9]{1,9}", text):
            return None
        if re.fullmatch(r"[0-9]{1,9}", text):
            return int(text)
        self._refuse(name, text, "all")
        return None

    def duration(self, name: str, default: float) -> float:
        text = self.text(name)
        if not text:
            return default
        try:
            return parse_keep_alive(text)
        except RequestError:
            self._refuse(name, text, self._settings[name].default)
            return default

    def switch(self, name: str) -> bool | None:
        """Return None if unset or "auto", else whether it is not 0, f or false, as Ollama does."""
        text = self.text(name).lower()
        return None if text in {"", "auto"} else text not in {"0", "f", "false"}

    def choice(self, name: str, words: tuple[str, ...]) -> str:
        """Return one of *words*, accepted in any letter case; the first is the default.

        Raises:
            ConfigError: It is another word: what was to be pinned must not be left open.
        """
        text = self.text(name)
        if text.lower() in {"", *words}:
            return text.lower() or words[0]
        raise ConfigError(
            f"{self._variable(name)}: cannot use {text!r}, it must be one of {', '.join(words)}"
        )

    def level(self, name: str) -> int:
        words = {"t": "1", "true": "1", "f": "0", "false": "0"}
        text = self.text(name).lower()
        if text in words:
            return int(words[text])
        return min(self.unsigned(name, 0), 2)

    def _refuse(self, name: str, text: str, default: str) -> None:
        self._warn(f"{self._variable(name)}: cannot use {text!r}, using {default}")


def find_unknown(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the variables of *environ* that look like settings of embedd and are not, by name."""
    known = {f"EMBEDD_{setting.name}" for setting in SETTINGS}
    return sorted(
        name
        for name, value in environ.items()
        if name.startswith("EMBEDD_")
        and name not in known
        and not _OF_A_SERVICE.fullmatch(name)
        and not (name == "EMBEDD_PORT" and "://" in value)
    )


def _describe_unknown(name: str) -> str:
    names = [setting.name for setting in SETTINGS]
    near = difflib.get_close_matches(name.removeprefix("EMBEDD_"), names, 1)
    hint = f"did you mean EMBEDD_{near[0]}?" if near else "embedd serve --help lists all"
    return f"{name} is not a setting and has no effect: {hint}"


def parse_keys(text: str) -> tuple[str, ...]:
    """Return the keys in *text*, which commas or line breaks separate."""
    return tuple(filter(None, map(str.strip, re.split("[,\\r\\n]", text))))


def parse_host(text: str, warn: Callable[[str], None] = _log.warning) -> Address:
    """Parse a HOST value; "" gives the default, an invalid port the default port of the scheme.

    A port alone (``:1234``) means all interfaces, as in Ollama.

    Raises:
        ConfigError: The scheme is neither http nor https, or the host is invalid.
    """
    text = _strip(text)
    if text.startswith("unix:"):
        return Address(socket=_parse_socket(text.removeprefix("unix:")))
    scheme, separator, rest = text.rpartition("://")
    scheme = scheme.lower() or "http"
    default_port = {"http": 80, "https": 443}.get(scheme) if separator else DEFAULT_PORT
    if default_port is None:
        raise ConfigError(f"cannot use the address {text!r}: use http://, https:// or unix:")
    authority, _, path = rest.partition("/")
    host, port = _split_port(authority)
    if not re.fullmatch(r"[\w.-]*", host) and _parse_ip(host) is None:
        raise ConfigError(f"cannot use the address {text!r}: {host!r} is not a host name")
    return Address(
        scheme=scheme,
        host=host or ("127.0.0.1" if port is None else "::"),
        port=default_port if port is None else _parse_port(port, default_port, warn),
        path=f"/{quote(path.strip('/'), safe='/%')}".rstrip("/"),
    )


def _parse_socket(text: str) -> Path:
    if not text:
        raise ConfigError("cannot use the address 'unix:': give the path of a socket")
    return Path(text).expanduser()


def _split_port(authority: str) -> tuple[str, str | None]:
    """Return the host without brackets, and the text of the port if there is one."""
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", authority)
    if bracketed:
        return bracketed[1], bracketed[2]
    if _parse_ip(authority) is not None:  # an IPv6 address without brackets has no port
        return authority, None
    host, colon, port = authority.rpartition(":")
    return (host, port) if colon else (port, None)


def _parse_port(text: str, default: int, warn: Callable[[str], None]) -> int:
    if re.fullmatch(r"[0-9]{1,5}", text) and int(text) <= 65535:
        return int(text)
    warn(f"EMBEDD_HOST: cannot use the port {text!r}, using {default}")
    return default


def _parse_ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _strip(text: str) -> str:
    return text.strip().strip("\"'").strip()


_WORKER_NAMES = frozenset(
    {
        "PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "LLAMA_CPP_LIB_PATH",
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_ORDER",  # decides which device a number above means
    }
)  # fmt: skip
_WORKER_PREFIXES = ("LC_", "DYLD_", "PYTHON", "COVERAGE_", "COV_")
_WORKER_VALUES = {
    "GGML_NO_BACKTRACE": "1",  # an abort would start a debugger first
    # With graphs that CUDA records two replicas end the process with an illegal instruction.
    "GGML_CUDA_DISABLE_GRAPHS": "1",
    "KMP_BLOCKTIME": "1",  # ms that threads spin after a batch; 0 makes batches slower
    "OPENBLAS_NUM_THREADS": "1",  # numpy's threads would compete with the engine's
}


_IMAGE_WORKER_VALUES = {
    "OMP_WAIT_POLICY": "passive",  # threads that spin make pictures take twice as long
}


def image_worker_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment that workers which paint start with."""
    return worker_environment(environ) | _IMAGE_WORKER_VALUES


def worker_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment that worker processes start with.

    It has few variables on purpose: OpenMP's would pin all replicas to the same cores, and
    llama.cpp reads some of its own.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name in _WORKER_NAMES or name.startswith(_WORKER_PREFIXES)
    }
    return kept | _WORKER_VALUES


def without_ray_statistics(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let Ray send no usage statistics from this process, unless the variable says otherwise."""
    environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def set_environment(values: Mapping[str, str]) -> None:
    """Set variables that libraries of this process read when they are first used."""
    os.environ.update(values)
