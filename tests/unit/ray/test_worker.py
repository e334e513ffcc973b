"""A worker of a cluster in this process: it computes with a server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from embedd.bulk.commit import JOB, finished_parts
from embedd.bulk.compute import Wanted
from embedd.bulk.folder import Folder
from embedd.bulk.job import Job, Options, plan
from embedd.bulk.parts import Output
from embedd.bulk.sources import find_paths, make_sources
from embedd.bulk.units import Limits
from embedd.config import SETTINGS, read_settings
from embedd.errors import ModelNotFoundError
from embedd.ray import worker as module
from embedd.ray.probe import open_probe
from embedd.ray.worker import Opened, Task, UnitWorker, fingerprint_of, provide_model
from tests.unit.bulk.jobs import read_lines
from tests.unit.cli.fake_server import FakeServer, in_background

Make = Callable[..., UnitWorker]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for setting in SETTINGS:
        monkeypatch.delenv(f"EMBEDD_{setting.name}", raising=False)
    with in_background(FakeServer()) as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "o.jsonl.parts")


@pytest.fixture
def make(server: FakeServer, folder: Folder) -> Iterator[Make]:
    """Makes workers, whose probe lies there until the end of the test."""
    with ExitStack() as stack:
        probe = stack.enter_context(open_probe(folder, []))

        def make_worker(**changes: object) -> UnitWorker:
            task = Task(
                probe=probe,
                shard=folder.shard,
                output=Output.JSONL,
                wanted=Wanted(model="all-minilm"),
                servers=(server.url,),
                cores=1,
            )
            return UnitWorker(replace(task, **changes))  # type: ignore[arg-type]  # of tests

        yield make_worker


def begin(folder: Folder, opened: Opened, texts: str = "a\nb\nc\n\nd\n") -> str:
    """Plan a job of units of two rows in *folder*; return its fingerprint."""
    source = folder.root.with_name("a.txt")
    source.write_text(texts)
    assert opened.model is not None
    job = plan(
        Options(wanted=Wanted(model="all-minilm"), output=Output.JSONL),
        opened.model,
        make_sources(find_paths([str(source)])),
        Limits(rows=2),
    )
    folder.replace(JOB, job.encode())
    return fingerprint_of(job.encode())


async def test_units_become_parts_in_any_order(make: Make, folder: Folder) -> None:
    worker = make()
    opened = await worker.open()
    assert (opened.fault, opened.served_by) == ("", FakeServer.backend)
    fingerprint = begin(folder, opened)
    outcomes = [await worker.run(part, fingerprint) for part in (1, 0, 2, 1)]
    await worker.close()
    assert [(one.part, one.counts.rows, one.fault) for one in outcomes[:2]] == [
        (1, 2, ""),
        (0, 2, ""),
    ]
    assert finished_parts(folder, Output.JSONL) == {0, 1, 2}
    rows = [row for part in range(3) for row in read_lines(folder.path(f"part-{part:06d}.jsonl"))]
    assert [row["text"] for row in rows] == ["a", "b", "c", "", "d"]


async def test_rows_that_fail_are_counted_with_an_example(make: Make, folder: Folder) -> None:
    worker = make()
    fingerprint = begin(
        folder, await worker.open(), "a\n\udce4\n".encode(errors="replace").decode()
    )
    folder.root.with_name("a.txt").write_bytes(b"a\n\xff\n")
    outcome = await worker.run(0, fingerprint)
    await worker.close()
    assert (outcome.counts.rows, outcome.counts.errors) == (1, 1)
    assert "UTF-8" in outcome.examples[0]


async def test_a_server_that_fails_is_a_fault_in_its_words(
    make: Make, folder: Folder, server: FakeServer
) -> None:
    worker = make()
    fingerprint = begin(folder, await worker.open())
    server.refusals["/v1/embeddings"] = web.json_response({"error": "out of order"}, status=500)
    outcome = await worker.run(0, fingerprint)
    await worker.close()
    assert outcome.fault == "out of order"


async def test_the_files_of_several_sources_are_read_one_after_the_other(
    make: Make, folder: Folder
) -> None:
    worker = make()
    opened = await worker.open()
    names = [folder.root.with_name(name) for name in ("a.txt", "b.txt")]
    for name in names:
        name.write_text(f"{name.stem}\n")
    assert opened.model is not None
    job: Job = plan(
        Options(wanted=Wanted(model="all-minilm"), output=Output.JSONL),
        opened.model,
        make_sources(find_paths([str(name) for name in names])),
        Limits(),
    )
    folder.replace(JOB, job.encode())
    for part in (0, 1, 0):
        outcome = await worker.run(part, fingerprint_of(job.encode()))
        assert outcome.fault == ""
    await worker.close()


async def test_a_machine_that_cannot_do_the_job_says_so(make: Make, folder: Folder) -> None:
    folder.remove(next(iter(folder.list())))
    opened = await make().open()
    assert "does not see the files" in opened.fault


async def test_an_option_that_the_server_refuses_is_a_fault(make: Make) -> None:
    worker = make(servers=("http://127.0.0.1:1",))
    assert "127.0.0.1:1" in (await worker.open()).fault


async def test_a_model_that_exists_nowhere_is_a_fault(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDD_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("EMBEDD_STATE", str(tmp_path / "state"))
    worker = make(servers=(), wanted=Wanted(model="nonesuch"))
    assert "nonesuch" in (await worker.open()).fault


async def test_a_worker_that_was_not_opened_does_no_part(make: Make) -> None:
    assert "opened" in (await make().run(0, "x")).fault


async def test_no_part_is_added_to_the_job_of_another_command(make: Make, folder: Folder) -> None:
    worker = make()
    fingerprint = begin(folder, await worker.open())
    assert (await worker.run(0, fingerprint)).fault == ""
    folder.replace(JOB, b"{}")
    outcome = await worker.run(1, fingerprint)
    await worker.close()
    assert "another command has changed the job" in outcome.fault
    assert finished_parts(folder, Output.JSONL) == {0}


async def test_a_job_that_is_gone_is_a_fault(make: Make, folder: Folder) -> None:
    worker = make()
    await worker.open()
    outcome = await worker.run(0, "x")
    await worker.close()
    assert "another command has changed the job" in outcome.fault


def test_a_model_is_pulled_only_where_it_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Library:
        def pull(self, name: str) -> None:
            asked.append(name)

    def find(settings: object, name: str) -> None:
        if name == "new":
            raise ModelNotFoundError(name)

    monkeypatch.setattr(module, "open_library", lambda _: Library())
    monkeypatch.setattr(module, "find_spec", find)
    settings = read_settings({"EMBEDD_MODELS": str(tmp_path)})
    provide_model(settings, "new")
    provide_model(settings, "stored")
    assert asked == ["new"]
