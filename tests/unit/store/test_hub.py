"""The hub, spoken with through the real client library: metadata, bytes, refusals, retries."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from embedd.errors import PullError, StoreError
from embedd.store.hub import RETRIES, TRANSFER_RETRIES, Hub
from embedd.store.partial import Partial
from embedd.store.remote import NOT_FOUND, RemoteBlob, RemoteFile, Repository, never
from tests.loopback_hub import COMMIT, Fault, LoopbackHub, digest_of, open_hub
from tests.socks_proxy import open_socks_proxy

DATA = bytes(range(256)) * 4096  # 1 MiB: four writes
NAME = "acme/tiny-GGUF"


class Download(Partial):
    """A partial file that begins with *data*; what it holds is read back as `data`."""

    def __init__(self, path: Path, data: bytes = b"") -> None:
        path.write_bytes(data)
        self.file = path.open("r+b", buffering=0)
        super().__init__(
            self.file.fileno(), path, size=2 * len(DATA), stop=never, report=lambda *_: None
        )
        self.resume()

    @property
    def data(self) -> bytes:
        return Path(self.file.name).read_bytes()


@dataclass
class Net:
    """A loopback hub and a client of it that notes its pauses instead of making them."""

    hub: LoopbackHub
    folder: Path
    pauses: list[float] = field(default_factory=list)
    downloads: list[Download] = field(default_factory=list)

    def download(self, data: bytes = b"", kind: type[Download] = Download) -> Download:
        self.downloads.append(kind(self.folder / f"partial-{len(self.downloads)}", data))
        return self.downloads[-1]

    @property
    def client(self) -> Hub:
        return Hub(self.hub.url, pause=self.pauses.append)

    @property
    def blob(self) -> RemoteBlob:
        size, digest = len(DATA), digest_of(DATA)
        return RemoteBlob(
            repository=NAME, commit=COMMIT, path="tiny.gguf", size=size, digest=digest
        )

    @property
    def repository(self) -> Repository:
        return Repository(name=NAME, commit=COMMIT, files=())


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Net]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", f"{tmp_path}/token")
    with open_hub() as hub:
        hub.add(NAME, {"tiny.gguf": DATA, "README.md": b"hello"}, license="mit")
        net = Net(hub, tmp_path)
        monkeypatch.setattr(time, "sleep", net.pauses.append)  # the library pauses, too
        yield net
        close_session()
        for download in net.downloads:
            download.file.close()


def test_a_repository_is_looked_up_and_pinned_to_its_commit(net: Net) -> None:
    found = net.client.look_up(NAME)
    assert found == Repository(
        name=NAME,
        commit=COMMIT,
        files=(
            RemoteFile(path="tiny.gguf", size=len(DATA)),
            RemoteFile(path="README.md", size=5),
        ),
        license="mit",
    )
    assert found.has("README.md")
    assert not found.has("LICENSE")
    assert net.client.look_up(NAME, "main").commit == COMMIT


def test_a_repository_without_card_has_no_license(net: Net) -> None:
    net.hub.add("acme/bare", {})
    assert net.client.look_up("acme/bare").license == ""


def test_a_repository_without_commit_is_refused(net: Net) -> None:
    net.hub.add("acme/empty", {}, commit="")
    with pytest.raises(PullError, match="has no commit"):
        net.client.look_up("acme/empty")


def test_a_large_file_is_located_with_the_digest_that_the_hub_gives(net: Net) -> None:
    assert net.client.locate(net.repository, "tiny.gguf") == net.blob


def test_a_file_without_sha256_at_its_source_is_refused(net: Net) -> None:
    with pytest.raises(PullError, match="nothing could be verified"):
        net.client.locate(net.repository, "README.md")


def test_small_files_and_ranges_are_read(net: Net) -> None:
    client = net.client
    assert client.read(net.repository, "README.md", 100) == b"hello"
    assert client.read(net.repository, "README.md", 3) == b"hel"
    assert client.read_range(net.blob, 10, 5) == DATA[10:15]
    assert client.read_range(net.blob, len(DATA) - 2, 5) == DATA[-2:]
    assert client.read_range(net.blob, len(DATA), 5) == b""


def test_a_source_that_knows_no_ranges_is_read_from_its_beginning(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", ignore_range=True))
    assert net.client.read_range(net.blob, 10, 5) == DATA[10:15]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: net.client.look_up("acme/nothing"), f"^{NOT_FOUND}$"),
        (lambda net: net.client.look_up("no/such/name"), f"^{NOT_FOUND}$"),
        (lambda net: net.client.look_up(NAME, "v9"), f"^{NOT_FOUND}$"),
        (lambda net: net.client.locate(net.repository, "other.gguf"), f"^{NOT_FOUND}$"),
        (lambda net: net.client.read(net.repository, "nope", 1), f"^{NOT_FOUND}$"),
    ],
)
def test_what_is_not_there_does_not_exist(
    net: Net, call: Callable[[Net], object], message: str
) -> None:
    with pytest.raises(PullError, match=message):
        call(net)
    assert net.pauses == []


def test_a_gated_file_says_what_to_do(net: Net) -> None:
    net.hub.repos[NAME].gated = True
    assert net.client.look_up(NAME).commit  # its description is for everybody
    for call in (
        lambda: net.client.locate(net.repository, "tiny.gguf"),
        lambda: net.client.stream(net.blob, net.download()),
    ):
        with pytest.raises(PullError, match=r"^pull model manifest: 403: .* set HF_TOKEN$"):
            call()


def test_a_private_repository_needs_the_token_and_only_the_hub_sees_it(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    net.hub.repos[NAME].token = "right"
    with pytest.raises(PullError, match=f"^{NOT_FOUND}$"):
        net.client.look_up(NAME)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(PullError, match=r"^pull model manifest: 401: .*HF_TOKEN is wrong$"):
        net.client.look_up(NAME)
    monkeypatch.setenv("HF_TOKEN", "right")
    download = net.download()
    net.client.stream(net.client.locate(net.client.look_up(NAME), "tiny.gguf"), download)
    assert net.client.read_range(net.blob, 0, 3) == DATA[:3]
    assert download.data == DATA
    stored = net.hub.requests("/storage/")
    assert len(stored) == 2
    assert {seen.token for seen in stored} == {None}


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_hub_out_of_order_is_asked_again_with_growing_pauses(net: Net, status: int) -> None:
    net.hub.faults.append(Fault("/api/models", status=status, times=2))
    assert net.client.look_up(NAME).commit == COMMIT
    assert net.pauses == [1.0, 2.0]


def test_a_hub_that_asks_for_a_pause_gets_it_within_reason(net: Net) -> None:
    for seconds in ("7", "86400", "soon"):
        fault = Fault("/api/models", status=429, headers={"Retry-After": seconds})
        net.hub.faults.append(fault)
    net.client.look_up(NAME)
    assert net.pauses == [7.0, 60.0, 4.0]


def test_after_the_last_attempt_the_error_names_the_status(net: Net) -> None:
    net.hub.faults.append(Fault("/api/models", status=503, times=99))
    message = "^pull model manifest: 503: Service Unavailable: try again later$"
    with pytest.raises(PullError, match=message):
        net.client.look_up(NAME)
    assert len(net.pauses) == RETRIES


def test_another_refusal_is_an_error_at_once(net: Net) -> None:
    net.hub.faults.append(Fault("/api/models", status=418, headers={"X-Error-Message": "a\n b"}))
    with pytest.raises(PullError, match=r"^pull model manifest: 418: a b: see"):
        net.client.look_up(NAME)
    net.hub.faults.append(Fault("/api/models", status=404))
    with pytest.raises(PullError, match=f"^{NOT_FOUND}$"):
        net.client.look_up(NAME)
    assert net.pauses == []


def test_a_network_that_is_down_ends_after_the_retries(net: Net) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Hub(f"http://127.0.0.1:{unused.getsockname()[1]}", pause=net.pauses.append)
        with pytest.raises(PullError, match=r"^max retries exceeded: .*check the network"):
            client.look_up(NAME)
    assert net.pauses == [1.0, 2.0, 4.0]


@pytest.fixture
def _fresh_session() -> Iterator[None]:
    """The library keeps its session, with the proxies of its time."""
    close_session()
    yield
    close_session()


@pytest.mark.usefixtures("_fresh_session")
@pytest.mark.parametrize(
    ("variable", "proxy", "message"),
    [
        ("ALL_PROXY", "socks5://user:secret@127.0.0.1:9", r"^ALL_PROXY .*embedd-server\[socks\]"),
        ("HTTPS_PROXY", "socks5h://127.0.0.1:9", r"^HTTPS_PROXY .*embedd-server\[socks\]"),
        ("ALL_PROXY", "socks4://127.0.0.1:9", r"^ALL_PROXY cannot be used: .*socks5://"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    net: Net, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str, message: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed
    with pytest.raises(PullError, match=message) as caught:
        net.client.look_up(NAME)
    assert "secret" not in str(caught.value)
    assert net.pauses == []


@pytest.mark.usefixtures("_fresh_session")
def test_the_hub_is_reached_through_a_socks_proxy(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("socksio", reason="needs the extra embedd-server[socks]")
    with open_socks_proxy() as proxy:
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert net.client.look_up(NAME).commit == COMMIT
        download = net.download()
        net.client.stream(net.blob, download)
        assert download.data == DATA
    assert net.hub.url.removeprefix("http://") in proxy.targets


def test_offline_mode_says_so_at_once(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PullError, match="HF_HUB_OFFLINE"):
        net.client.look_up(NAME)
    assert net.pauses == []


def test_a_download_resumes_where_its_bytes_end(net: Net) -> None:
    download = net.download(DATA[:300_000])
    net.client.stream(net.blob, download)
    assert download.data == DATA
    assert net.hub.served == len(DATA) - 300_000


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", cut=600_000))
    net.hub.faults.append(Fault("/storage/", cut=200_000))
    download = net.download()
    net.client.stream(net.blob, download)
    assert download.data == DATA
    ranges = [seen.range for seen in net.hub.requests("/storage/")]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(wanted for wanted in ranges[1:])
    # The bytes of an unfinished chunk are lost with a connection: under 256 KiB each.
    assert net.hub.served < len(DATA) + 2 * (256 << 10)


def test_storage_out_of_order_is_asked_again(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", cut=300_000))
    net.hub.faults.append(Fault("/storage/", status=500, times=TRANSFER_RETRIES - 1))
    download = net.download()
    net.client.stream(net.blob, download)
    assert download.data == DATA


def test_attempts_that_made_progress_do_not_count(net: Net) -> None:
    data = DATA * 2
    net.hub.repos[NAME].files["tiny.gguf"] = data
    for _ in range(TRANSFER_RETRIES + 2):
        net.hub.faults += [Fault("/storage/", cut=300_000), Fault("/storage/", status=500)]
    download = net.download()
    net.client.stream(net.client.locate(net.repository, "tiny.gguf"), download)
    assert download.data == data


def test_storage_that_stays_out_of_order_is_given_up(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", status=500, times=99))
    with pytest.raises(PullError, match="500"):
        net.client.stream(net.blob, net.download())
    assert net.pauses == [1.0, 2.0, 4.0, 8.0, 16.0]


def test_a_source_that_cannot_resume_starts_again(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", ignore_range=True))
    download = net.download(b"x" * 1000)
    net.client.stream(net.blob, download)
    assert download.data == DATA


def test_a_file_that_ends_early_is_an_error(net: Net) -> None:
    net.hub.faults.append(Fault("/storage/", data=DATA[:1000], times=99))
    with pytest.raises(PullError, match="416"):
        net.client.stream(net.blob, net.download())


def test_a_file_that_does_not_end_is_given_up(net: Net) -> None:
    net.hub.repos[NAME].files["tiny.gguf"] = DATA * 40
    download = net.download()
    net.client.stream(net.blob, download)
    assert len(DATA) < download.done <= len(DATA) + (256 << 10)
    assert net.pauses == []


def test_a_full_disk_is_an_error_at_once(net: Net) -> None:
    class Full(Download):
        def write(self, data: bytes, /) -> int:
            raise StoreError(f"cannot write {len(data)} bytes: No space left on device")

    with pytest.raises(StoreError, match="No space left"):
        net.client.stream(net.blob, net.download(kind=Full))
    assert net.pauses == []
    assert len(net.hub.requests("/storage/")) == 1
