"""Tokenizers in the server process: short texts at once, long ones aside, each built once."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from embedd.engine.serving import local_tokenizer
from embedd.engine.serving.local_tokenizer import (
    LONG,
    LONG_AT_A_TIME,
    MAX_IDLE,
    LocalTokenizer,
    TokenizerCache,
)
from embedd.engine.spec import ModelSpec
from embedd.tokenizers import slices
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from embedd.tokenizers.slices import CALL_CHARACTERS, INLINE_CHARACTERS, INLINE_TEXTS
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.fakes import settle
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ModelTokenizer:
    return load_tokenizer(write_tiny_bert(tmp_path_factory.mktemp("own") / "tiny.gguf"))[0]


@pytest.fixture
def local(own: ModelTokenizer) -> LocalTokenizer:
    return LocalTokenizer(own, asyncio.Semaphore(LONG_AT_A_TIME), lambda: None)


def spec_of(path: Path, number: int = 0) -> ModelSpec:
    return replace(make_spec(path, Pooling.MEAN), digest=f"sha256:{number}")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


class Builds:
    """Builds tokenizers when the test says so, and counts them."""

    def __init__(self, own: ModelTokenizer) -> None:
        self._own = own
        self.paths: list[Path] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self.may_build = threading.Event()
        self.may_build.set()

    def __call__(self, path: Path) -> ModelTokenizer:
        self.paths.append(path)
        self.threads.add(threading.get_ident())
        self.may_build.wait(60)
        if self.error is not None:
            raise self.error
        return self._own


@pytest.fixture
def builds(own: ModelTokenizer) -> Builds:
    return Builds(own)


# Texts


async def test_it_answers_as_the_tokenizer_does(local: LocalTokenizer, own: ModelTokenizer) -> None:
    texts = ["the sky", "x", "", "the cat " * INLINE_CHARACTERS]
    for given in (texts, texts[:1], texts[-1:], []):
        for parse in (True, False):
            rows = await local.tokenize(given, add_special=parse, parse_special=parse)
            expected = own.tokenize(given, add_special=parse, parse_special=parse)
            assert [row.tolist() for row in rows] == [row.tolist() for row in expected]
            located = await local.locate(given, parse_special=parse)
            for one, other in zip(located, own.locate(given, parse_special=parse), strict=True):
                assert [part.tolist() for part in one] == [part.tolist() for part in other]
    many = own.tokenize(texts)
    for sequences in (many[:1], many):
        for special in (True, False):
            found = await local.detokenize(sequences, special=special)
            assert found == own.detokenize(sequences, special=special)
    for ids in many:
        assert await local.token_pieces(ids) == own.token_pieces(ids)
    info = local.info
    assert (info.width, info.limit, info.tokenizer) == (0, 0, "model")
    assert (info.vocabulary, info.special_tokens) == (len(TINY_VOCABULARY), own.special_tokens)
    assert info.pair_template == own.pair_template


@pytest.mark.parametrize("located", [False, True])
async def test_a_few_short_texts_are_tokenized_without_another_thread(
    located: bool, local: LocalTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("a thread")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    call = local.locate if located else local.tokenize
    for count in (0, 1, INLINE_TEXTS):
        assert len(await call(["x" * (INLINE_CHARACTERS // INLINE_TEXTS)] * count)) == count
    assert len(await call(["x" * INLINE_CHARACTERS])) == 1
    for texts in (["x" * INLINE_CHARACTERS, "x"], ["x"] * (INLINE_TEXTS + 1)):
        with pytest.raises(AssertionError, match="a thread"):
            await call(texts)


async def test_a_short_text_does_not_wait_for_a_long_one(
    local: LocalTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten million letters in a thread, which waits in its first slice for the short texts."""
    go_on = threading.Event()
    group = slices.group_slices

    def wait(*arguments: object, **options: object) -> object:
        go_on.wait(60)
        return group(*arguments, **options)  # type: ignore[arg-type]  # as they were given

    monkeypatch.setattr("embedd.tokenizers.model_tokenizer.group_slices", wait)
    order: list[str] = []

    async def tokenize(name: str, text: str) -> None:
        await local.tokenize([text])
        order.append(name)

    long = asyncio.create_task(tokenize("long", "the cat sat on a mat " * 500_000))
    await settle()
    await asyncio.gather(*(tokenize("short", "the cat") for _ in range(3)))
    go_on.set()
    await long
    assert order == ["short", "short", "short", "long"]


async def test_long_texts_do_not_take_all_threads(
    own: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any tokenizer: however many there are, two short texts find a thread."""
    begun: list[int] = []
    go_on = threading.Event()

    def hold(texts: list[str], **_: object) -> list[object]:
        begun.append(len(texts[0]))
        if len(texts[0]) >= LONG:
            go_on.wait(60)
        return []

    monkeypatch.setattr(own, "tokenize", hold)
    long = asyncio.Semaphore(LONG_AT_A_TIME)
    locals_ = [LocalTokenizer(own, long, lambda: None) for _ in range(2)]
    tasks = [asyncio.create_task(locals_[at % 2].tokenize(["x" * LONG])) for at in range(40)]
    await until(lambda: len(begun) >= LONG_AT_A_TIME)
    await asyncio.wait_for(locals_[0].tokenize(["a", "b"]), 20)
    assert sorted(begun) == [1, *[LONG] * LONG_AT_A_TIME]
    go_on.set()
    await asyncio.gather(*tasks)
    assert len(begun) == 41


async def test_long_work_ends_when_its_caller_leaves(
    own: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the slice that is being tokenized at the moment."""
    looked_at, go_on = [0], threading.Event()
    ended = threading.Event()
    tokenize = own.tokenize

    def watched(texts: list[str], *, check: Callable[[], None], **options: bool) -> object:
        def count() -> None:
            looked_at[0] += 1
            if looked_at[0] == 2:
                go_on.wait(60)
            check()

        try:
            return tokenize(texts, check=count, **options)
        finally:
            ended.set()

    monkeypatch.setattr(own, "tokenize", watched)
    local = LocalTokenizer(own, asyncio.Semaphore(LONG_AT_A_TIME), lambda: None)
    text = "the cat " * (CALL_CHARACTERS // 2)
    leaving = asyncio.create_task(local.tokenize([text]))
    await until(lambda: looked_at[0] == 2)
    leaving.cancel()
    await settle()
    go_on.set()
    await asyncio.to_thread(ended.wait, 20)
    assert leaving.cancelled()
    assert looked_at == [2]
    assert len(text) > 3 * CALL_CHARACTERS


# The cache


async def test_a_tokenizer_is_built_once_for_all_that_wait_in_a_thread(
    builds: Builds, tmp_path: Path
) -> None:
    builds.may_build.clear()
    cache = TokenizerCache(build=builds)
    opening = [asyncio.create_task(cache.open(spec_of(tmp_path))) for _ in range(3)]
    await until(lambda: bool(builds.paths))
    opening[0].cancel()  # the first caller leaves, the others still get it
    await settle()
    builds.may_build.set()
    for one in opening[1:]:
        [ids] = await (await one).tokenize(["the"])
        assert len(ids) == 3
    assert builds.paths == [tmp_path]
    assert threading.get_ident() not in builds.threads
    await cache.open(spec_of(tmp_path))
    await cache.open(spec_of(tmp_path / "other", 1))
    assert builds.paths == [tmp_path, tmp_path / "other"]


async def test_one_that_is_used_is_kept_and_others_for_some_time(
    builds: Builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[tuple[float, Callable[[], None]]] = []
    loop = asyncio.get_running_loop()
    cache = TokenizerCache(build=builds, keep=300.0)
    first = await cache.open(spec_of(tmp_path))
    second = await cache.open(spec_of(tmp_path))

    def call_later(seconds: float, call: Callable[..., None], *given: object) -> object:
        later.append((seconds, lambda: call(*given)))
        return loop.call_soon(lambda: None)

    monkeypatch.setattr(loop, "call_later", call_later)
    first.close()
    first.close()  # no effect
    assert later == []
    second.close()
    assert [seconds for seconds, _ in later] == [300.0]
    # Used again before the time is over: the time begins anew.
    third = await cache.open(spec_of(tmp_path))
    third.close()
    assert len(builds.paths) == 1
    assert len(later) == 2
    later[-1][1]()
    assert len(cache) == 0
    await cache.open(spec_of(tmp_path))
    assert len(builds.paths) == 2


async def test_few_tokenizers_are_kept_that_nothing_uses(builds: Builds, tmp_path: Path) -> None:
    cache = TokenizerCache(build=builds)
    used = await cache.open(spec_of(tmp_path, 100))
    opened = [await cache.open(spec_of(tmp_path, number)) for number in range(MAX_IDLE + 2)]
    for one in opened:
        one.close()
    assert len(cache) == MAX_IDLE + 1
    built = len(builds.paths)
    await cache.open(spec_of(tmp_path, 100))
    await cache.open(spec_of(tmp_path, MAX_IDLE + 1))
    assert len(builds.paths) == built
    await cache.open(spec_of(tmp_path, 0))
    assert len(builds.paths) == built + 1
    used.close()
    cache.close()
    assert len(cache) == 0
    opened[0].close()


async def test_one_that_cannot_be_built_is_an_error_and_the_next_use_tries_again(
    builds: Builds, tmp_path: Path
) -> None:
    builds.error = TokenizerError("no merges")
    cache = TokenizerCache(build=builds)
    for _ in range(2):
        with pytest.raises(TokenizerError, match="no merges"):
            await cache.open(spec_of(tmp_path))
    assert len(builds.paths) == 2
    assert len(cache) == 0
    builds.error = None
    await cache.open(spec_of(tmp_path))


async def test_a_build_that_fails_after_all_have_left_is_no_error_of_the_loop(
    builds: Builds, tmp_path: Path
) -> None:
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    builds.may_build.clear()
    builds.error = TokenizerError("no merges")
    cache = TokenizerCache(build=builds)
    leaving = asyncio.create_task(cache.open(spec_of(tmp_path)))
    await until(lambda: bool(builds.paths))
    [entry] = cache._entries.values()
    leaving.cancel()
    await settle()
    builds.may_build.set()
    await until(entry.building.done)
    await settle()
    assert errors == []
    builds.error = None
    await cache.open(spec_of(tmp_path))


async def test_it_builds_the_tokenizer_of_a_file_itself(tmp_path: Path) -> None:
    cache = TokenizerCache()
    local = await cache.open(spec_of(write_tiny_bert(tmp_path / "tiny.gguf")))
    [ids] = await local.tokenize(["the sky"], add_special=False)
    assert ids.dtype == np.int32
    assert await local.detokenize([ids], special=True) == [b"the sky"]
    assert local_tokenizer.KEEP == 300
    local.close()
    cache.close()
