"""The store as a whole: nothing half-written is visible, nothing needed is removed."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from embedd.errors import StoreError, StoreLockedError
from embedd.names import parse_model_name
from embedd.store import disk
from embedd.store.disk import open_lock
from embedd.store.manifests import CONFIG_TYPE, MODEL, Manifest, make_layer
from embedd.store.store import Store
from tests.unit.store.faults import FaultyDisk, ProcessDied

LATER = 10 * 86400.0


def add(store: Store, name: str, *contents: bytes) -> Manifest:
    with store.open_for_change():
        blobs = [store.blobs.add_bytes(content) for content in contents]
        manifest = Manifest(
            config=make_layer(CONFIG_TYPE, blobs[0]),
            layers=[make_layer(MODEL, blob) for blob in blobs[1:]],
        )
        store.commit(parse_model_name(name), manifest)
    return manifest


def contents(store: Store) -> set[bytes]:
    return {store.blobs.path(digest).read_bytes() for digest in store.blobs.digests()}


def visible(store: Store, name: str) -> Manifest | None:
    """The model's manifest, after a check that all it names is there and right."""
    stored = store.manifests.read(parse_model_name(name))
    if stored is None:
        return None
    for digest in stored.manifest.digests:
        store.blobs.verify(digest)
    return stored.manifest


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def make_foreign(root: Path) -> Store:
    """A store as Ollama leaves it: no marker, an unused blob, a partial download."""
    foreign = Store(root)
    add(foreign, "a", b"config", b"weights")
    foreign.blobs.add_bytes(b"unused")
    (root / "blobs" / f"sha256-{'0' * 64}-partial").write_bytes(b"half")
    foreign.layout.marker.unlink()
    foreign.layout.lock.unlink()
    return Store(root)


def test_what_two_models_share_stays_until_the_last_is_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", b"config a", b"weights")
    add(store, "b", b"config b", b"weights")
    assert store.delete(parse_model_name("A"))
    assert contents(store) == {b"config b", b"weights"}
    assert visible(store, "b")
    assert store.delete(parse_model_name("b"))
    assert contents(store) == set()
    assert not store.delete(parse_model_name("b"))


def test_without_pruning_blobs_stay(tmp_path: Path) -> None:
    store = Store(tmp_path, prune=False)
    add(store, "a", b"1", b"2")
    add(store, "a", b"1", b"3")
    store.delete(parse_model_name("a"))
    assert contents(store) == {b"1", b"2", b"3"}
    assert store.prune(LATER * 1e9) == []


def test_a_new_version_removes_what_only_the_old_one_needed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", b"config", b"old")
    add(store, "b", b"other")
    add(store, "a", b"config", b"new")
    assert contents(store) == {b"config", b"new", b"other"}


def test_a_commit_says_how_many_blobs_it_removed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old = add(store, "a", b"config", b"old")
    new = add(store, "b", b"config", b"new")
    with store.open_for_change():
        assert store.commit(parse_model_name("b"), new) == 0
        assert store.commit(parse_model_name("b"), old) == 1


def test_a_model_whose_blobs_are_missing_is_not_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = add(store, "a", b"config", b"weights")
    store.blobs.remove(manifest.layers[0].digest)
    with pytest.raises(StoreError, match=r"blob sha256:\w{64} of b:latest is not in the store"):
        store.commit(parse_model_name("b"), manifest)
    assert visible(store, "b") is None


def test_nothing_is_removed_while_a_manifest_cannot_be_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", b"config", b"old")
    add(store, "b", b"x")
    broken = tmp_path / "manifests/registry.ollama.ai/library/c/latest"
    broken.parent.mkdir()
    broken.write_text("{")
    add(store, "a", b"config", b"new")
    store.delete(parse_model_name("b"))
    assert store.prune(LATER * 1e9) == []
    assert contents(store) == {b"config", b"old", b"new", b"x"}
    assert store.delete(parse_model_name("c"))
    assert len(store.prune(LATER * 1e9)) == 2
    assert contents(store) == {b"config", b"new"}


def test_a_broken_manifest_can_be_replaced(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", b"config")
    store.layout.manifest(parse_model_name("a")).write_text("{")
    manifest = add(store, "a", b"config", b"new")
    assert visible(store, "a") == manifest


def test_reading_a_store_writes_nothing(tmp_path: Path) -> None:
    store = make_foreign(tmp_path / "models")
    before = snapshot(tmp_path)
    assert visible(store, "a")
    assert list(store.manifests.names())
    assert store.prune(LATER * 1e9) == []
    assert not store.delete(parse_model_name("none"))
    assert snapshot(tmp_path) == before

    nowhere = Store(tmp_path / "nowhere")
    assert list(nowhere.manifests.names()) == []
    assert nowhere.prune() == []
    assert not nowhere.delete(parse_model_name("a"))
    assert not (tmp_path / "nowhere").exists()


def test_a_foreign_store_is_only_added_to(tmp_path: Path) -> None:
    store = make_foreign(tmp_path)
    before = snapshot(tmp_path)
    add(store, "b", b"config b")
    add(store, "b", b"config b2")
    assert before.items() <= snapshot(tmp_path).items()
    assert b"config b" in contents(store)


def test_what_a_client_deletes_goes_from_a_foreign_store_too(tmp_path: Path) -> None:
    store = make_foreign(tmp_path)
    store.delete(parse_model_name("a"))
    assert contents(store) == {b"unused"}


def test_a_newer_store_is_not_changed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = add(store, "a", b"config")
    store.layout.marker.write_text('{"format":99}')
    with pytest.raises(StoreError, match="newer embedd"):
        store.delete(parse_model_name("a"))
    with pytest.raises(StoreError, match="newer embedd"):
        store.prune()
    assert visible(store, "a") == manifest


def change_a(store: Store) -> None:
    add(store, "a", b"config", b"new")


def delete_a(store: Store) -> None:
    store.delete(parse_model_name("a"))


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("change", [change_a, delete_a])
def test_a_process_that_dies_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, change: Callable[[Store], None], done_first: bool
) -> None:
    steps = 0
    while True:
        root = tmp_path / str(steps)
        store = Store(root)
        old = add(store, "a", b"config", b"old")
        kept = add(store, "b", b"config b", b"old")
        disk = FaultyDisk(steps, done_first=done_first)
        with contextlib.suppress(ProcessDied):
            change(Store(root, disk=disk))
        after = Store(root)
        assert visible(after, "b") == kept
        new = visible(after, "a")
        assert new is None or new in (old, add(Store(tmp_path / "x"), "a", b"config", b"new"))
        after.prune(now=LATER * 1e9)
        assert [path for path in root.rglob("*") if ".embedd-" in path.name] == []
        needed = kept.digests | (new.digests if new else set())
        assert set(after.blobs.digests()) == needed
        if not disk.died:
            break
        steps += 1
    assert steps >= 2


@pytest.mark.parametrize("done_first", [True, False])
@pytest.mark.parametrize("steps", range(4))
def test_a_store_whose_making_was_cut_short_is_still_ours(
    tmp_path: Path, steps: int, done_first: bool
) -> None:
    with pytest.raises(ProcessDied):
        Store(tmp_path, disk=FaultyDisk(steps, done_first=done_first)).prepare()
    store = Store(tmp_path)
    manifest = add(store, "a", b"config")
    assert store.layout.is_own()
    assert visible(store, "a") == manifest
    store.prune(LATER * 1e9)
    assert [path for path in tmp_path.rglob("*") if ".embedd-" in path.name] == []


def test_a_model_deleted_while_we_wait_for_the_lock_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    add(store, "a", b"config")
    other = Store(tmp_path)
    results: list[bool] = []
    waiting = threading.Event()

    def delete() -> None:
        waiting.set()
        results.append(other.delete(parse_model_name("a")))

    with open_lock(store.layout.lock):
        thread = threading.Thread(target=delete)
        thread.start()
        waiting.wait()
        thread.join(0.05)
        assert results == []
        store.manifests.delete(parse_model_name("a"))
    thread.join()
    assert results == [False]


def test_only_one_at_a_time_changes_a_store(tmp_path: Path) -> None:
    inside, most = 0, 0

    def change(number: int) -> None:
        nonlocal inside, most
        store = Store(tmp_path)
        for version in range(5):
            with store.open_for_change():
                inside += 1
                most = max(most, inside)
                inside -= 1
            add(store, f"m{number}", b"shared", b"%d" % version)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    store = Store(tmp_path)
    assert all(visible(store, f"m{number}") for number in range(6))
    assert contents(store) == {b"shared", b"4"}


def test_a_lock_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    lock = open_lock(tmp_path / "none" / "lock")
    with pytest.raises(StoreError, match=r"cannot lock the model store with .*none/lock"), lock:
        pass


def test_a_lock_that_stays_taken_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "LOCK_TIMEOUT", 0.05)
    store = Store(tmp_path)
    with (
        store.open_for_change(),
        pytest.raises(StoreLockedError, match=r"locked .* since 0\.05 s \(.*embedd\.lock\)"),
        Store(tmp_path).open_for_change(),
    ):
        pass
    with store.open_for_change():
        pass
