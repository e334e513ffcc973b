"""Settings: every row of the table, every form of HOST, and what a worker may see."""

import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.choices import EngineChoice, Precision, TokenIdChoice, TokenizerChoice
from embedd.config import (
    SETTINGS,
    Address,
    Settings,
    find_unknown,
    parse_host,
    read_settings,
    without_ray_statistics,
    worker_environment,
)
from embedd.errors import ConfigError
from embedd.logs import LogFormat
from embedd.machine import read_limits

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")  # bytes of memory
HOSTS = {
    "": "http://127.0.0.1:11434",
    "1.2.3.4": "http://1.2.3.4:11434",
    "example.com": "http://example.com:11434",
    "example.com:8080": "http://example.com:8080",
    ":1234": "http://[::]:1234",
    "http://:1234": "http://[::]:1234",
    "::1": "http://[::1]:11434",
    "[::1]": "http://[::1]:11434",
    "[::1]:99": "http://[::1]:99",
    "fe80::1%eth0": "http://[fe80::1%25eth0]:11434",
    "http://x": "http://x:80",
    "https://x": "https://x:443",
    "HTTPS://x": "https://x:443",
    "http://x:11434": "http://x:11434",
    "https://example.com/ollama": "https://example.com:443/ollama",
    "https://example.com/a/b/": "https://example.com:443/a/b",
    "example.com/ollama": "http://example.com:11434/ollama",
    "unix:/run/embedd.sock": "unix:/run/embedd.sock",
    " '0.0.0.0:0' ": "http://0.0.0.0:0",
}
BAD_PORTS = {
    "1.2.3.4:abc": 11434,
    "1.2.3.4:": 11434,
    "1.2.3.4:65536": 11434,
    "1.2.3.4:-1": 11434,
    "[::1]:x": 11434,
    "http://x:y": 80,
    "https://x:y": 443,
}


def read(environ: Mapping[str, str]) -> Settings:
    """Settings of *environ*, of which nothing may be wrong."""
    return read_settings(environ, warn=pytest.fail)


@pytest.mark.parametrize("text", HOSTS)
def test_every_form_of_host_is_an_address(text: str) -> None:
    assert parse_host(text, warn=pytest.fail).url == HOSTS[text]


@pytest.mark.parametrize("text", BAD_PORTS)
def test_a_bad_port_becomes_the_default_port_of_its_scheme(text: str) -> None:
    warnings: list[str] = []
    assert parse_host(text, warnings.append).port == BAD_PORTS[text]
    assert len(warnings) == 1


@pytest.mark.parametrize("text", ["ftp://x", "a b", "1:2:3", "x]", "[x", "[x y]:1", "unix:"])
def test_an_invalid_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot use the address"):
        parse_host(text)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_the_url_of_an_address_is_that_address(ip: object, port: int) -> None:
    address = Address(host=str(ip), port=port)
    assert parse_host(address.url, warn=pytest.fail) == address


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("", True),
        ("localhost", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("0.0.0.0", True),
        ("::", True),
        ("unix:/x", True),
        ("10.0.0.1", False),
        ("example.com", False),
        ("https://localhost.example.com", False),
    ],
)
def test_loopback_unspecified_and_unix_addresses_are_local(text: str, *, local: bool) -> None:
    assert parse_host(text).is_local is local


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("0.0.0.0:5", "http://127.0.0.1:5"),
        ("[::]:5", "http://127.0.0.1:5"),
        (":5", "http://127.0.0.1:5"),
        ("10.0.0.1:5", "http://10.0.0.1:5"),
        ("unix:/x", "unix:/x"),
    ],
)
def test_a_client_reaches_an_unspecified_address_on_loopback(text: str, url: str) -> None:
    assert parse_host(text).to_client().url == url


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = read({})
    limits = read_limits()
    assert settings == Settings(
        host=Address(),
        models=Path.home() / ".embedd/models",
        keep_alive=300.0,
        max_loaded_models=3,
        max_queue=512,
        max_wait=30.0,
        request_timeout=math.inf,
        load_timeout=300.0,
        context_length=0,
        origins=(),
        engine=EngineChoice.AUTO,
        precision=Precision.AUTO,
        tokenizer=TokenizerChoice.AUTO,
        flash_attention=None,
        debug=0,
        noprune=False,
        max_body=67108864,
        max_body_in_flight=8 * 67108864,
        head_timeout=15.0,
        body_timeout=30.0,
        write_timeout=60.0,
        shutdown_grace=30.0,
        max_inputs=2048,
        max_ollama_inputs=100_000,
        max_answer=1 << 30,
        batch_bytes=1 << 30,
        default_model=None,
        default_rerank_model=None,
        token_ids=TokenIdChoice.AUTO,
        base_path="",
        api_key=(),
        api_key_file=None,
        admin_key=(),
        socket_mode=0o600,
        allowed_hosts=(),
        threads=limits.cores,
        gpu_layers=None,
        memory=int(limits.memory * 0.8),
        cache_bytes=67108864,
        max_pixels=1048576,
        max_waiting_images=16,
        image_metadata=True,
        ui=True,
        log_requests=False,
        log_format=LogFormat.TEXT,
        otlp_endpoint="",
        state=Path.home() / ".embedd/state",
    )


def test_the_representation_of_settings_has_no_keys() -> None:
    settings = read({"EMBEDD_API_KEY": "secret", "EMBEDD_ADMIN_KEY": "secret"})
    assert "secret" not in repr(settings)


def test_the_table_names_each_field_once() -> None:
    assert [setting.name.lower() for setting in SETTINGS] == [f.name for f in fields(Settings)]


VALUES: list[tuple[str, str, object]] = [
    ("HOST", "10.0.0.1:5", Address(host="10.0.0.1", port=5)),
    ("MODELS", "/m", Path("/m")),
    ("MODELS", "~/m", Path.home() / "m"),
    ("KEEP_ALIVE", "10m", 600.0),
    ("KEEP_ALIVE", "42", 42.0),
    ("KEEP_ALIVE", "0", 0.0),
    ("KEEP_ALIVE", "-1", math.inf),
    ("KEEP_ALIVE", "-1m", math.inf),
    ("MAX_LOADED_MODELS", "2", 2),
    ("MAX_LOADED_MODELS", "0", 3),
    ("MAX_QUEUE", "0", 0),
    ("LOAD_TIMEOUT", "90s", 90.0),
    ("LOAD_TIMEOUT", "0", math.inf),
    ("LOAD_TIMEOUT", "-5m", math.inf),
    ("CONTEXT_LENGTH", "256", 256),
    ("ORIGINS", "http://a, ,http://b,", ("http://a", "http://b")),
    ("FLASH_ATTENTION", "1", True),
    ("FLASH_ATTENTION", "FALSE", False),
    ("FLASH_ATTENTION", "auto", None),
    ("FLASH_ATTENTION", "whatever", True),
    ("DEBUG", "1", 1),
    ("DEBUG", "true", 1),
    ("DEBUG", "f", 0),
    ("DEBUG", "2", 2),
    ("DEBUG", "7", 2),
    ("NOPRUNE", "t", True),
    ("NOPRUNE", "0", False),
    ("NOPRUNE", "yes", True),
    ("MAX_BODY", "1000", 1000),
    ("MAX_BODY_IN_FLIGHT", "1000", 1000),
    ("API_KEY", "one, two,", ("one", "two")),
    ("API_KEY_FILE", "/run/keys", Path("/run/keys")),
    ("ADMIN_KEY", "three", ("three",)),
    ("TOKEN_IDS", "own", TokenIdChoice.OWN),
    ("BASE_PATH", "/", ""),
    ("BASE_PATH", "llm/embedd/", "/llm/embedd"),
    ("BASE_PATH", "//llm", "/llm"),
    ("SOCKET_MODE", "660", 0o660),
    ("SOCKET_MODE", "0o666", 0o666),
    ("ALLOWED_HOSTS", "a.example,b.example", ("a.example", "b.example")),
    ("ENGINE", "LLAMA", EngineChoice.LLAMA),
    ("PRECISION", "bf16", Precision.BF16),
    ("PRECISION", "F32", Precision.F32),
    ("TOKENIZER", "Llama", TokenizerChoice.LLAMA),
    ("THREADS", "3", 3),
    ("GPU_LAYERS", "7", 7),
    ("GPU_LAYERS", "0", 0),
    ("MEMORY", "1000000000", 1000000000),
    ("LOG_REQUESTS", "1", True),
    ("LOG_REQUESTS", "false", False),
    ("LOG_FORMAT", "JSON", LogFormat.JSON),
    ("OTLP_ENDPOINT", "http://collector:4318/", "http://collector:4318"),
    ("OTLP_ENDPOINT", "https://x/otlp", "https://x/otlp"),
    ("STATE", "/s", Path("/s")),
]


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
@pytest.mark.parametrize("around", ["{}", " {} ", '"{}"', " '{}' "])
def test_a_value_is_read_without_spaces_and_quotes_around_it(
    name: str, text: str, value: object, around: str
) -> None:
    settings = read({f"EMBEDD_{name}": around.format(text)})
    assert getattr(settings, name.lower()) == value


@pytest.mark.parametrize(("name", "text", "value"), VALUES)
def test_only_settings_with_a_twin_fall_back_to_ollamas(
    name: str, text: str, value: object
) -> None:
    twin = next(setting.twin for setting in SETTINGS if setting.name == name)
    settings = read({f"EMBEDD_{name}": ' "" ', f"OLLAMA_{name}": text})
    assert getattr(settings, name.lower()) == (value if twin else getattr(read({}), name.lower()))


def test_the_settings_after_noprune_have_no_twin() -> None:
    names = [setting.name for setting in SETTINGS]
    twins = [setting.name for setting in SETTINGS if setting.twin]
    assert twins == names[: names.index("NOPRUNE") + 1]


@pytest.mark.parametrize("text", ["localhost:4318", "grpc://x:4317", "http://", "http://x?a=b"])
def test_an_address_of_a_collector_that_is_not_a_url_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="EMBEDD_OTLP_ENDPOINT: cannot use"):
        read({"EMBEDD_OTLP_ENDPOINT": text})


def test_embedds_own_value_goes_before_ollamas() -> None:
    assert read({"EMBEDD_MAX_QUEUE": "7", "OLLAMA_MAX_QUEUE": "8"}).max_queue == 7


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("KEEP_ALIVE", "abc"),
        ("KEEP_ALIVE", "1w"),
        ("LOAD_TIMEOUT", "soon"),
        ("MAX_LOADED_MODELS", "-1"),
        ("MAX_QUEUE", "many"),
        ("MAX_QUEUE", "1_000"),
        ("MAX_QUEUE", "٣"),
        ("CONTEXT_LENGTH", "1.5"),
        ("DEBUG", "loud"),
        ("MAX_BODY", "0"),
        ("MAX_BODY_IN_FLIGHT", "64MiB"),
        ("THREADS", "0"),
        ("SOCKET_MODE", "rw"),
        ("SOCKET_MODE", "9999"),
        ("BASE_PATH", "/a b"),
        ("BASE_PATH", "/{x}"),
        ("GPU_LAYERS", "some"),
        ("MEMORY", "9" * 30),
    ],
)
def test_an_invalid_value_gives_the_default_and_a_warning(name: str, text: str) -> None:
    warnings: list[str] = []
    settings = read_settings({f"EMBEDD_{name}": text}, warnings.append)
    assert getattr(settings, name.lower()) == getattr(read({}), name.lower())
    (warning,) = warnings
    assert warning.startswith(f"EMBEDD_{name}: cannot use {text!r}, using ")


@pytest.mark.parametrize("text", ["", "all", "ALL", "auto", "-1", "-99"])
def test_all_layers_go_to_the_gpu_unless_a_number_says_how_many(text: str) -> None:
    assert read({"EMBEDD_GPU_LAYERS": text}).gpu_layers is None


def test_bodies_in_flight_follow_the_limit_of_one() -> None:
    assert read({"EMBEDD_MAX_BODY": "10"}).max_body_in_flight == 80


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedd.machine._affinity", lambda: 8)


@pytest.mark.usefixtures("_eight_cores")
@pytest.mark.parametrize(
    ("membership", "files", "cores", "memory"),
    [
        pytest.param("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 8, None, id="none"),
        pytest.param(
            "0::/a/b\n",
            {"a/b/cpu.max": "250000 100000", "a/cpu.max": "600000 100000", "a/memory.max": "4096"},
            2,
            4096,
            id="version 2, limits at two levels",
        ),
        pytest.param(
            "0::/docker/abc\n", {"cpu.max": "50000 100000", "memory.max": "1000"}, 1, 1000,
            id="version 2, path of the host: less than a core is one core",
        ),
        pytest.param(
            "4:memory:/x\n3:cpu,cpuacct:/x\n1:name=systemd:/\n",
            {
                "cpu/x/cpu.cfs_quota_us": "300000",
                "cpu/x/cpu.cfs_period_us": "100000",
                "memory/x/memory.limit_in_bytes": "2048",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            3,
            2048,
            id="version 1",
        ),
        pytest.param(
            "3:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
            8,
            None,
            id="version 1, no quota",
        ),
    ],
)  # fmt: skip
def test_limits_are_the_smallest_of_cgroups_and_machine(
    tmp_path: Path, membership: str, files: dict[str, str], cores: int, memory: int | None
) -> None:
    write(tmp_path / "cgroup", files)
    write(tmp_path, {"self": membership})
    limits = read_limits(tmp_path / "cgroup", tmp_path / "self")
    assert limits.cores == cores
    assert limits.memory == (memory or MACHINE)


def test_without_cgroups_the_limits_are_those_of_the_machine(tmp_path: Path) -> None:
    limits = read_limits(tmp_path / "none", tmp_path / "none")
    assert 1 <= limits.cores <= (os.cpu_count() or 1)
    assert limits.memory == MACHINE


def test_without_an_affinity_mask_all_cores_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 5)
    assert read_limits(tmp_path, tmp_path / "none").cores == 5


def test_a_workers_environment_has_only_what_it_needs() -> None:
    kept = {
        "PATH": "/bin",
        "HOME": "/h",
        "LC_ALL": "C",
        "DYLD_LIBRARY_PATH": "/d",
        "PYTHONPATH": "/p",
        "COVERAGE_PROCESS_START": "x",
        "LLAMA_CPP_LIB_PATH": "/l",
        "CUDA_VISIBLE_DEVICES": "",
    }
    dropped = {
        "OMP_NUM_THREADS": "1",
        "OMP_PROC_BIND": "true",
        "GOMP_CPU_AFFINITY": "0",
        "LLAMA_ARG_THREADS": "1",
        "GGML_SCHED_DEBUG": "1",
        "HF_TOKEN": "secret",
        "EMBEDD_HOST": "x",
    }
    fixed = dict.fromkeys(
        (
            "GGML_CUDA_DISABLE_GRAPHS",
            "GGML_NO_BACKTRACE",
            "KMP_BLOCKTIME",
            "OPENBLAS_NUM_THREADS",
        ),
        "1",
    )
    environ = kept | dropped | dict.fromkeys(fixed, "7")
    assert worker_environment(environ) == kept | fixed


def test_a_choice_is_read_in_any_letter_case() -> None:
    assert read({"EMBEDD_TOKEN_IDS": "Reject"}).token_ids is TokenIdChoice.REJECT


@pytest.mark.parametrize(
    ("name", "text"),
    [("ENGINE", "foo"), ("PRECISION", "bf17"), ("TOKENIZER", "model"), ("TOKEN_IDS", "mine")],
)
def test_a_choice_that_is_not_one_of_its_words_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"EMBEDD_{name}: cannot use '{text}', it must be one of"):
        read_settings({f"EMBEDD_{name}": text})


def test_a_warning_names_the_variable_that_has_the_value() -> None:
    warnings: list[str] = []
    read_settings({"OLLAMA_MAX_QUEUE": "many", "EMBEDD_MAX_QUEUE": " "}, warnings.append)
    assert warnings == ["OLLAMA_MAX_QUEUE: cannot use 'many', using 512"]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("EMBEDD_PRECISON", "did you mean EMBEDD_PRECISION?"),
        ("EMBEDD_API_KEYS", "did you mean EMBEDD_API_KEY?"),
        ("EMBEDD_NUM_PARALLEL", "embedd serve --help lists all"),
        ("EMBEDD_host", "embedd serve --help lists all"),
    ],
)
def test_a_variable_that_is_not_a_setting_is_a_warning(name: str, hint: str) -> None:
    warnings: list[str] = []
    read_settings({name: "1", "OLLAMA_NUM_PARALLEL": "4"}, warnings.append)
    assert warnings == [f"{name} is not a setting and has no effect: {hint}"]


def test_what_kubernetes_sets_for_a_service_of_this_name_is_not_a_mistake() -> None:
    url = "tcp://10.0.0.1:11434"
    of_service = {
        "EMBEDD_SERVICE_HOST": "10.0.0.1",
        "EMBEDD_SERVICE_PORT": "11434",
        "EMBEDD_SERVICE_PORT_HTTP": "11434",
        "EMBEDD_PORT": url,
        "EMBEDD_PORT_11434_TCP": url,
        "EMBEDD_PORT_11434_TCP_PROTO": "tcp",
        "EMBEDD_PORT_11434_TCP_PORT": "11434",
        "EMBEDD_PORT_11434_TCP_ADDR": "10.0.0.1",
    }
    assert find_unknown(of_service) == []
    assert find_unknown({"EMBEDD_PORT": "8080"}) == ["EMBEDD_PORT"]


def test_without_a_home_folder_the_two_folders_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", lambda path: path if path.is_absolute() else fail(path))
    read({"EMBEDD_MODELS": "/m", "EMBEDD_STATE": "/s"})
    with pytest.raises(ConfigError, match="EMBEDD_MODELS and EMBEDD_STATE"):
        read({"EMBEDD_MODELS": "/m"})


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({}, None),
        ({"EMBEDD_API_KEY": "one,two"}, "one"),
        ({"EMBEDD_API_KEY_FILE": "keys"}, "three"),
    ],
)
def test_a_command_sends_the_first_key(
    tmp_path: Path, given: dict[str, str], key: str | None
) -> None:
    (tmp_path / "keys").write_text("three\nfour\n")
    environ = {
        name: str(tmp_path / value) if name.endswith("_FILE") else value
        for name, value in given.items()
    }
    assert read_settings(environ).client_key == key


def test_ray_sends_no_statistics_unless_the_variable_says_so() -> None:
    environ: dict[str, str] = {}
    without_ray_statistics(environ)
    assert environ == {"RAY_USAGE_STATS_ENABLED": "0"}
    environ = {"RAY_USAGE_STATS_ENABLED": "1"}
    without_ray_statistics(environ)
    assert environ == {"RAY_USAGE_STATS_ENABLED": "1"}
