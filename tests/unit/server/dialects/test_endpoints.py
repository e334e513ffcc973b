"""Headers of every computed answer."""

import numpy as np
import pytest

from embedd.server.dialects.endpoints import LONGEST_TRUNCATED, computed_headers
from embedd.types import EmbedResult, ServedBy, Timings, Truncated


def make_result(cut: int, *, load: float = 0.0, tokenizer: str = "llama") -> EmbedResult:
    return EmbedResult(
        vectors=np.ones((1, 2), np.float32),
        tokens=[3],
        truncated=[Truncated(index=index, tokens=9, kept=3) for index in range(cut)],
        timings=Timings(load=load, tokenize=0.0003, queue=0.0012, compute=0.00894, total=0.0106),
        served_by=ServedBy(
            digest="sha256:" + "ab" * 32, engine="llama", backend="llama", tokenizer=tokenizer
        ),
    )


def test_a_computed_answer_names_the_model_and_its_timings() -> None:
    assert computed_headers(make_result(2)) == {
        "Server-Timing": "tokenize;dur=0.300, queue;dur=1.200, compute;dur=8.940, total;dur=10.600",
        "X-Embedd-Model": "abababababab;engine=llama;backend=llama;tokenizer=llama",
        "X-Embedd-Truncated": "count=2; index=0 tokens=9 kept=3; index=1 tokens=9 kept=3",
    }


def test_the_tokenizer_is_named_that_made_the_ids() -> None:
    header = computed_headers(make_result(0, tokenizer="model"))["X-Embedd-Model"]
    assert header.endswith(";tokenizer=model")


def test_only_a_request_that_waited_for_a_load_has_its_time() -> None:
    timing = computed_headers(make_result(0, load=1.5))["Server-Timing"]
    assert timing.startswith("load;dur=1500.000, tokenize;")


def test_an_answer_without_vectors_has_no_such_headers() -> None:
    nothing = EmbedResult(vectors=np.empty((0, 0), np.float32), tokens=[], timings=Timings())
    assert computed_headers(nothing) == {}


@pytest.mark.parametrize("cut", [1, 2, 35, 36, 37, 38, 5000])
def test_a_long_list_of_cut_inputs_ends_after_a_whole_one(cut: int) -> None:
    header = computed_headers(make_result(cut))["X-Embedd-Truncated"]
    assert len(header) <= LONGEST_TRUNCATED
    count, *parts = header.split("; ")
    assert count == f"count={cut}"
    is_short = parts[-1] == "more"
    shown = parts[:-1] if is_short else parts
    assert shown == [f"index={index} tokens=9 kept=3" for index in range(len(shown))]
    assert (len(shown) < cut) == is_short
    if is_short:
        assert len(header) > LONGEST_TRUNCATED - len("; index=5000 tokens=9 kept=3")
