"""Jobs whose output is in an object store: every row once there too, whatever is interrupted."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import msgspec
import numpy as np
import pytest

from embedd.bulk import lease, remote
from embedd.bulk.commit import JOB, complete_parts, read_record, write_record
from embedd.bulk.compute import MixedBackendsError
from embedd.bulk.finished import check_apart, check_replaceable, read_finished
from embedd.bulk.folder import FolderLockedError
from embedd.bulk.job import decode_job
from embedd.bulk.opening import clear, folder_of
from embedd.bulk.parts import Output
from embedd.bulk.remote import RemotePath, make_target
from embedd.bulk.remote_folder import RemoteFolder
from embedd.bulk.summary import measure_output
from embedd.bulk.units import Limits
from embedd.errors import InvalidInputError, ServiceError, UnavailableError
from tests.loopback_store import Fault, LoopbackStore
from tests.unit.bulk.jobs import BAD, MODEL, FakeCompute, run_job
from tests.unit.bulk.remote_jobs import store

__all__ = ["store"]

SMALL = Limits(rows=3)
TEXTS = [f"text {number}" for number in range(10)]
PARTS = [f"part-{number:06d}.parquet" for number in range(4)]


class Killed(BaseException):
    """Stands for a death of the process in the middle of a request."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.txt"
    path.write_text("\n".join(TEXTS))
    return path


def target_of(store: LoopbackStore, key: str = "out/") -> RemotePath:
    return RemotePath(store.uri(key))


def folder_at(store: LoopbackStore) -> RemoteFolder:
    folder = folder_of(target_of(store), Output.FOLDER, "1-of-1")
    assert isinstance(folder, RemoteFolder)
    return folder


def texts_in(store: LoopbackStore) -> list[str]:
    """The texts of all parts in order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[str] = []
    for name in sorted(name for name in store.names("out/") if name.startswith("part-")):
        table = pq.read_table(pa.BufferReader(store.objects[f"out/{name}"]))
        found += table["text"].to_pylist()
    return found


def asked_of(compute: FakeCompute) -> list[str]:
    return sorted(text for request in compute.requests for text in request)


def test_a_folder_of_a_store_has_the_files_that_one_of_a_disk_has(
    store: LoopbackStore, source: Path, tmp_path: Path
) -> None:
    source.write_text("\n".join([*TEXTS, BAD]))
    total = run_job([source], tmp_path / "out", limits=SMALL)
    assert run_job([source], target_of(store), limits=SMALL) == total
    names = {
        str(path.relative_to(tmp_path / "out"))
        for path in (tmp_path / "out").rglob("*")
        if path.is_file() and "lock" not in path.name
    }
    assert store.names("out/") == names
    for name in names:
        if name.endswith(".parquet") or name in {"_SUCCESS", "errors.jsonl", JOB}:
            assert store.objects[f"out/{name}"] == (tmp_path / "out" / name).read_bytes(), name


@pytest.mark.parametrize("name", ["o.jsonl", "o.npy", "o.parquet", "o.arrow"])
@pytest.mark.parametrize("texts", [TEXTS, [BAD]])
def test_an_output_that_is_one_file_is_that_of_a_disk(
    store: LoopbackStore, source: Path, tmp_path: Path, name: str, texts: Sequence[str]
) -> None:
    source.write_text("\n".join(texts))
    target = target_of(store, name)
    total = run_job([source], tmp_path / name, limits=SMALL)
    assert run_job([source], target, limits=SMALL) == total
    names = {path.name for path in tmp_path.iterdir() if path.name.startswith("o.")}
    assert store.names() == names
    for one in names - {f"{name}.job.json"}:
        assert store.objects[one] == (tmp_path / one).read_bytes(), one
    finished = read_finished(target)
    assert finished is not None
    assert finished.total == total
    check_replaceable(target)
    ids = [target.with_suffix(".ids.parquet")] if name == "o.npy" else []
    sizes = [len(store.objects[one]) for one in (name, *(one.name for one in ids))]
    assert measure_output(target, ids) == sum(sizes)


def test_a_file_of_the_store_that_no_job_made_is_not_replaced(
    store: LoopbackStore, source: Path
) -> None:
    store.objects["o.jsonl"] = b"mine"
    with pytest.raises(InvalidInputError, match="was not made by embedd bulk"):
        run_job([source], target_of(store, "o.jsonl"))
    assert store.objects["o.jsonl"] == b"mine"
    assert read_finished(target_of(store, "missing.jsonl")) is None


@pytest.mark.parametrize("seed", range(2))
def test_every_row_is_there_once_however_often_the_job_dies(
    store: LoopbackStore, source: Path, seed: int
) -> None:
    chance = np.random.default_rng(seed)

    def die(_: Sequence[str]) -> None:
        if chance.random() < 0.4:
            raise Killed

    for _ in range(20):
        try:
            total = run_job([source], target_of(store), FakeCompute(before=die), limits=SMALL)
        except Killed:
            continue
        assert total is not None
        break
    assert texts_in(store) == TEXTS


def test_a_part_is_uploaded_only_when_it_is_whole(store: LoopbackStore, tmp_path: Path) -> None:
    """A stream of pyarrow that is closed after an error commits what it has."""

    def write_half(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    folder = folder_at(store)
    with pytest.raises(UnavailableError, match="the disk is full"):
        folder.add("part-000000.parquet", write_half)
    assert store.objects == {}
    assert store.asked == []


def test_a_small_part_is_one_request(store: LoopbackStore, source: Path) -> None:
    run_job([source], target_of(store), limits=SMALL)
    assert [store.puts(f"out/{name}") for name in PARTS] == [1, 1, 1, 1]
    assert not [key for method, key in store.asked if method == "POST"]


def test_a_large_file_is_uploaded_in_pieces_and_whole(store: LoopbackStore) -> None:
    data = os.urandom(1 << 20) * 21
    target_of(store, "large").fill(lambda path: path.write_bytes(data))
    assert store.objects["large"] == data
    target_of(store, "empty").fill(lambda path: path.touch())
    assert store.objects["empty"] == b""


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", PARTS[1], truncate=True),
        Fault("PUT", PARTS[1], cut=True),
        Fault("PUT", PARTS[1], status=503, code="SlowDown"),
        Fault("PUT", JOB, status=500, code="InternalError"),
        Fault("GET", "", status=503, code="SlowDown", times=2),
        Fault("HEAD", JOB, status=500, times=2),
    ],
    ids=lambda fault: f"{fault.method}-{fault.status or fault.cut}",
)
def test_a_store_that_fails_for_a_while_is_asked_again(
    store: LoopbackStore, source: Path, fault: Fault
) -> None:
    store.faults.append(fault)
    total = run_job([source], target_of(store), limits=SMALL)
    assert total is not None
    assert not fault.times
    assert texts_in(store) == TEXTS


def test_an_upload_that_stays_cut_is_not_a_part_and_the_next_run_writes_it(
    store: LoopbackStore, source: Path
) -> None:
    store.faults.append(Fault("PUT", PARTS[1], truncate=True, times=3))
    with pytest.raises(UnavailableError, match=r"part-000001\.parquet cannot be written") as caught:
        run_job([source], target_of(store), limits=SMALL)
    assert "bytes of" in str(caught.value)
    assert "run the same command again" in str(caught.value)
    assert f"out/{PARTS[1]}" in store.objects  # cut, and with its name
    assert "out/_SUCCESS" not in store.objects
    compute = FakeCompute()
    run_job([source], target_of(store), compute, limits=SMALL)
    assert set(TEXTS[3:6]) <= set(asked_of(compute))
    assert "out/_SUCCESS" in store.objects
    assert texts_in(store) == TEXTS


def test_parts_that_are_whole_are_kept_and_others_are_computed_again(
    store: LoopbackStore, source: Path
) -> None:
    run_job([source], target_of(store), limits=SMALL)
    whole = dict(store.objects)
    folder = folder_at(store)
    store.objects[f"out/{PARTS[0]}"] = store.objects[f"out/{PARTS[0]}"][:-1]
    del store.objects["out/_embedd/part-000001.json"]
    record = read_record(folder, 2)
    assert record is not None
    write_record(folder, 2, replace(record, unit="of another job"))
    job = decode_job(folder.read(JOB) or b"")
    assert complete_parts(folder, job) == {3}
    compute = FakeCompute()
    run_job([source], target_of(store), compute, limits=SMALL)
    assert asked_of(compute) == TEXTS[:9]
    assert {name: store.objects[f"out/{name}"] for name in PARTS} == {
        name: whole[f"out/{name}"] for name in PARTS
    }


def test_a_changed_job_is_refused_and_restart_deletes_what_the_job_made(
    store: LoopbackStore, source: Path
) -> None:
    store.objects["out/notes.txt"] = b"mine"
    store.objects["out/part-000001.txt"] = b"mine too"
    target = target_of(store)
    run_job([source], target, limits=SMALL)
    other = replace(MODEL, prefix="doc: ")
    with pytest.raises(InvalidInputError, match="prefix was '' and is 'doc: '"):
        run_job([source], target, limits=SMALL, model=other)
    clear(folder_at(store), target, Output.FOLDER)
    assert store.names("out/") == {"notes.txt", "part-000001.txt"}
    run_job([source], target, limits=SMALL, model=other)
    assert {"notes.txt", "part-000001.txt", *PARTS} < store.names("out/")


def test_a_command_whose_job_was_thrown_away_commits_nothing_more(
    store: LoopbackStore, source: Path
) -> None:
    """--restart of another command, which did not see the lock: the first one stops."""

    def restart(_: Sequence[str]) -> None:
        clear(folder_at(store), target_of(store), Output.FOLDER)
        compute.before = lambda _texts: None

    compute = FakeCompute(before=restart)
    with pytest.raises(
        ServiceError, match="another command has changed the job in s3://bucket/out"
    ):
        run_job([source], target_of(store), compute, limits=SMALL)
    assert not [name for name in store.names("out/") if "part" in name]


def test_inputs_that_come_while_a_shard_works_do_not_stop_it(
    store: LoopbackStore, source: Path
) -> None:
    later = source.with_name("b.txt")
    later.write_text("later")

    def extend(_: Sequence[str]) -> None:
        compute.before = lambda _texts: None
        with ThreadPoolExecutor(1) as other:
            other.submit(
                run_job, [source, later], target_of(store), limits=SMALL, shard=(2, 2)
            ).result()

    compute = FakeCompute(before=extend)
    run_job([source], target_of(store), compute, limits=SMALL, shard=(1, 2))
    run_job([source, later], target_of(store), limits=SMALL)
    assert texts_in(store) == [*TEXTS, "later"]


def test_a_lock_that_is_written_anew_keeps_others_away(store: LoopbackStore, source: Path) -> None:
    with folder_at(store).lock():
        with pytest.raises(FolderLockedError, match=rf"is in use by process {os.getpid()} on "):
            run_job([source], target_of(store), limits=SMALL)
        run_job([source], target_of(store), limits=SMALL, shard=(1, 2))
    assert not [name for name in store.names("out/") if "lock" in name]
    run_job([source], target_of(store), limits=SMALL)
    assert texts_in(store) == TEXTS


def test_a_lock_that_does_not_change_is_taken_over(
    store: LoopbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STALE", 0.5)
    holder = b'{"host":"far","pid":7,"time":1,"id":"x"}'
    store.objects["out/_embedd/lock-1-of-1"] = holder
    waits: list[str] = []
    folder = RemoteFolder(target_of(store), notify=waits.append, sleep=lambda _: None)
    with folder.lock():
        assert store.objects["out/_embedd/lock-1-of-1"] != holder
    assert len(waits) == 1
    assert "s3://bucket/out has a lock of process 7 on far: waiting up to" in waits[0]


def test_a_lock_that_is_given_back_meanwhile_is_free(store: LoopbackStore) -> None:
    key = "out/_embedd/lock-1-of-1"
    store.objects[key] = b'{"host":"far","pid":7,"time":1,"id":"x"}'
    folder = RemoteFolder(target_of(store), sleep=lambda _: store.objects.pop(key, None))
    with pytest.raises(FolderLockedError, match="was deleted"), folder.lock():
        raise AssertionError  # it was deleted again before it was looked at


@pytest.mark.parametrize(
    ("data", "by"),
    [
        (b'{"host":"far","pid":7,"time":1,"id":"x"}', "taken over by process 7 on far"),
        (None, "deleted"),
    ],
)
def test_a_command_that_lost_its_lock_commits_nothing_more(
    store: LoopbackStore,
    source: Path,
    monkeypatch: pytest.MonkeyPatch,
    data: bytes | None,
    by: str,
) -> None:
    monkeypatch.setattr(lease, "BEAT", 60.0)  # a write at the same time would have the other stop

    def take(_: Sequence[str]) -> None:
        key = "out/_embedd/lock-1-of-1"
        with store.lock:
            if data is None:
                store.objects.pop(key, None)
            else:
                store.objects[key] = data

    with pytest.raises(FolderLockedError, match=by):
        run_job([source], target_of(store), FakeCompute(before=take), limits=SMALL)
    assert not [name for name in store.names("out/") if "part" in name]
    if data is not None:
        assert store.objects["out/_embedd/lock-1-of-1"] == data


def test_a_lock_is_kept_while_the_store_is_away_for_a_moment(store: LoopbackStore) -> None:
    fault = Fault("PUT", "lock-1-of-1", status=403, code="AccessDenied")
    key = "out/_embedd/lock-1-of-1"
    with folder_at(store).lock():
        store.faults.append(fault)
        while fault.times:
            asyncio.run(asyncio.sleep(0.01))
        before = store.objects[key]
        while store.objects[key] == before:
            asyncio.run(asyncio.sleep(0.01))


def test_two_commands_that_begin_at_once_lose_and_double_nothing(
    store: LoopbackStore, source: Path
) -> None:
    both = Barrier(2)

    def start() -> object:
        both.wait()
        try:
            return run_job([source], target_of(store), limits=SMALL)
        except FolderLockedError as error:
            return error

    with ThreadPoolExecutor(2) as threads:
        outcomes = [one.result() for one in [threads.submit(start) for _ in range(2)]]
    run_job([source], target_of(store), limits=SMALL)
    assert texts_in(store) == TEXTS, outcomes
    assert "out/_SUCCESS" in store.objects


@pytest.mark.parametrize("name", ["out/", "o.jsonl"])
def test_shards_work_side_by_side_and_one_completes_the_output(
    store: LoopbackStore, source: Path, name: str
) -> None:
    def do(index: int) -> object:
        return run_job([source], target_of(store, name), limits=SMALL, shard=(index, 3))

    with ThreadPoolExecutor(3) as threads:
        totals = list(threads.map(do, (1, 2, 3)))
    assert any(totals)
    if name == "out/":
        assert texts_in(store) == TEXTS
        assert "out/_SUCCESS" in store.objects
    else:
        lines = store.objects["o.jsonl"].splitlines()
        assert [msgspec.json.decode(line)["text"] for line in lines] == TEXTS
        assert store.names() == {"o.jsonl", "o.jsonl.job.json"}


def test_the_first_part_decides_the_backend_for_all_shards(
    store: LoopbackStore, source: Path
) -> None:
    run_job([source], target_of(store), limits=SMALL, shard=(1, 2))
    other = FakeCompute(served_by="0123456789ab;engine=other")
    with pytest.raises(MixedBackendsError, match="engine=other"):
        run_job([source], target_of(store), other, limits=SMALL, shard=(2, 2))


@pytest.mark.parametrize(
    ("uri", "fault", "reason"),
    [
        ("out/", Fault("PUT", "lock-1-of-1", status=403, code="AccessDenied"), "ACCESS_DENIED"),
        ("out/", Fault("HEAD", "lock-1-of-1", status=403), "ACCESS_DENIED"),
        ("other", None, "NO_SUCH_BUCKET"),
    ],
)
def test_a_store_that_refuses_is_an_error_with_the_way_out(
    store: LoopbackStore, source: Path, uri: str, fault: Fault | None, reason: str
) -> None:
    target = target_of(store, uri)
    if fault is None:
        target = RemotePath(target.uri.replace("bucket", "nowhere", 1))
    else:
        store.faults.append(fault)
    with pytest.raises(InvalidInputError, match=reason) as caught:
        run_job([source], target, limits=SMALL)
    assert str(target) in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "endpoint_override" not in str(caught.value)


def test_a_store_that_is_away_is_asked_for_a_while_only(
    store: LoopbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Away:
        asked = 0

        def get_file_info(self, _what: object) -> object:
            Away.asked += 1
            raise OSError("no route")

    monkeypatch.setattr("embedd.bulk.stores._open", lambda _uri: Away())
    with pytest.raises(UnavailableError, match=r"s3://bucket/a cannot be read.*no route"):
        target_of(store, "a").exists()
    assert Away.asked == 1 + len(remote.DELAYS)


def test_a_path_of_a_store_is_as_one_of_a_disk() -> None:
    path = make_target("gs://bucket/a/b.npy?x=1")
    assert isinstance(path, RemotePath)
    assert str(path) == "gs://bucket/a/b.npy"
    assert path.name == "b.npy"
    assert path.with_suffix(".ids.parquet").uri == "gs://bucket/a/b.ids.parquet?x=1"
    assert (path.with_name("c") / "d").uri == "gs://bucket/a/c/d?x=1"
    assert path.absolute() is path
    assert make_target("a/b") == Path("a/b")


def test_what_is_missing_is_deleted_where_that_may_be(store: LoopbackStore) -> None:
    path = target_of(store, "gone")
    path.unlink(missing_ok=True)
    path.remove_folder()
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_an_input_in_the_output_is_refused() -> None:
    target = RemotePath("s3://bucket/out/?scheme=http")
    for name in ("s3://bucket/out/a.txt?scheme=http", "s3://bucket/out"):
        with pytest.raises(InvalidInputError, match="would be thrown away"):
            check_apart([name], target, is_folder=True)
    for name in ("s3://bucket/outer/a.txt", "/bucket/out/a.txt"):
        check_apart([name], target, is_folder=True)
    check_apart(["s3://bucket/out/a.txt"], Path("out"), is_folder=True)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("AWS Error INVALID_ACCESS_KEY_ID during PutObject operation: no", InvalidInputError),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", InvalidInputError),
        ("google::cloud::Status(PERMISSION_DENIED: no)", InvalidInputError),
        ("x. Azure Error: [AuthenticationFailed] 403 no", InvalidInputError),
        ("key 'TOKEN 403 ACCESS_DENIED': AWS Error SLOW_DOWN during PutObject", UnavailableError),
        ("google::cloud::Status(UNAVAILABLE: later)", UnavailableError),
        ("x. Azure Error: [ServerBusy] 503 later", UnavailableError),
    ],
)
def test_what_a_store_refuses_is_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception]
) -> None:
    class Refusing:
        asked = 0

        def get_file_info(self, _what: object) -> object:
            Refusing.asked += 1
            raise OSError(message)

    monkeypatch.setattr("embedd.bulk.stores._open", lambda _uri: Refusing())
    monkeypatch.setattr(remote, "DELAYS", (0.0, 0.0))
    with pytest.raises(error):
        RemotePath("s3://bucket/a").exists()
    assert Refusing.asked == (1 if error is InvalidInputError else 3)


def test_a_bucket_that_is_missing_is_named_where_something_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Empty:
        def open_output_stream(self, path: str) -> object:
            raise FileNotFoundError(2, os.strerror(2), path)

    monkeypatch.setattr("embedd.bulk.stores._open", lambda _uri: Empty())
    with pytest.raises(InvalidInputError, match=r"gs://bucket/a cannot be written.*bucket exists"):
        RemotePath("gs://bucket/a").write_bytes(b"a")


def test_an_output_that_another_shard_has_completed_is_left_alone(store: LoopbackStore) -> None:
    with folder_at(store).turn() as is_there:
        assert not is_there
    assert not store.objects
