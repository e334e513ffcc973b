"""Runner options: which have an effect, which are checked, which are ignored."""

import logging

import pytest

from embedd.errors import InvalidInputError
from embedd.options import IGNORED, Options, parse_options


@pytest.mark.parametrize(
    ("raw", "options"),
    [
        ({}, Options()),
        ({"num_ctx": 256}, Options(num_ctx=256)),
        ({"num_ctx": 0}, Options(num_ctx=0)),
        ({"num_ctx": -5}, Options(num_ctx=-5)),
        ({"num_ctx": 256.0}, Options(num_ctx=256)),
        ({"num_ctx": 3.9, "num_gpu": -1.9}, Options(num_ctx=3, num_gpu=-1)),
        ({"num_ctx": 10**400, "num_gpu": -1e300}, Options(num_ctx=2**31 - 1, num_gpu=1 - 2**31)),
        (
            {"num_gpu": 0, "main_gpu": 1, "num_thread": 4},
            Options(num_gpu=0, main_gpu=1, num_thread=4),
        ),
        ({"use_mmap": False}, Options(use_mmap=False)),
        ({"num_batch": 512}, Options()),
        ({"num_ctx": None, "use_mmap": None, "num_batch": None}, Options()),
        (dict.fromkeys(IGNORED, "anything"), Options()),
        ({"temperature": 0, "seed": 123, "stop": ["x"], "nonsense": [1]}, Options()),
    ],
)
def test_options_with_an_effect_are_read(raw: dict[str, object], options: Options) -> None:
    assert parse_options(raw) == options


@pytest.mark.parametrize("name", ["num_ctx", "num_gpu", "main_gpu", "num_thread", "num_batch"])
@pytest.mark.parametrize("value", ["x", "5", True, [1], {}, float("nan"), float("inf")])
def test_an_integer_option_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_options({name: value})
    assert str(caught.value) == f'option "{name}" must be of type integer'


@pytest.mark.parametrize("value", ["true", 1, 0.0, []])
def test_a_boolean_option_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_options({"use_mmap": value})
    assert str(caught.value) == 'option "use_mmap" must be of type boolean'


def test_an_unknown_option_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "embedd.options"):
        parse_options({"num_cxt": 1, "seed": 5, "num_ctx": 2})
    assert [record.option for record in caplog.records] == ["num_cxt"]  # type: ignore[attr-defined]  # set by extra


def test_options_of_a_request_go_before_those_of_the_model() -> None:
    model = Options(num_ctx=256, num_thread=2, use_mmap=True)
    request = Options(num_ctx=0, use_mmap=False)
    assert request.over(model) == Options(num_ctx=0, num_thread=2, use_mmap=False)
