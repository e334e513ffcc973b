"""Every number and text that would break the engine's library is refused before it sees them."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidInputError
from embedd.images import ImageFamily
from embedd.painter.limits import (
    DEFAULT_MAX_PIXELS,
    MAX_GUIDANCE,
    MAX_PROMPT,
    MAX_SEED,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    PaintSettings,
    check_request,
    choose_seeds,
    choose_settings,
)
from tests.unit.painter.images import make_image_model, make_request


def choose(
    family: ImageFamily = ImageFamily.FLUX2_KLEIN,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    **fields: Any,
) -> PaintSettings:
    request = make_request(**fields)
    check_request(request)
    return choose_settings(request, make_image_model(family=family), max_pixels)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompt", "", "prompt must not be empty"),
        ("prompt", " \n", "prompt must not be empty"),
        ("prompt", "x" * 4097, "prompt has 4097 characters, the limit is 4096: shorten it"),
        ("prompt", "x" * 300_000, "prompt has 300000 characters, the limit is 4096: shorten it"),
        ("prompt", "語" * 1366, "prompt has 4098 bytes in UTF-8, the limit is 4096: shorten it"),
        ("prompt", "a\0b", "prompt has a NUL character: remove it"),
        (
            "prompt",
            "a\ud800",
            "prompt has half of a surrogate pair, which is not a character: send UTF-8",
        ),
        ("negative", "a\0b", "negative_prompt has a NUL character: remove it"),
        ("n", 0, "n is 0, it must be from 1 to 4"),
        ("n", 5, "n is 5, it must be from 1 to 4"),
        ("previews", 4, "previews is 4, it must be from 0 to 3"),
        ("width", 0, "width is 0, it must be from 64 to 2048"),
        ("width", -8, "width is -8, it must be from 64 to 2048"),
        ("height", 100_000, "height is 100000, it must be from 64 to 2048"),
        ("height", 10**4000, "height is too large a number, it must be from 64 to 2048"),
        ("width", 70, "width is 70, it must be a multiple of 8: use 64"),
        ("steps", 0, "steps is 0, it must be from 1 to 150"),
        ("steps", -1, "steps is -1, it must be from 1 to 150"),
        ("steps", 151, "steps is 151, it must be from 1 to 150"),
        ("guidance", math.nan, "guidance is nan, it must be from 0 to 30"),
        ("guidance", math.inf, "guidance is inf, it must be from 0 to 30"),
        ("guidance", 1e30, "guidance is 1e+30, it must be from 0 to 30"),
        ("guidance", -0.1, "guidance is -0.1, it must be from 0 to 30"),
        ("seed", -1, "seed is -1, it must be from 0 to 4294967295"),
        ("seed", 1 << 32, "seed is 4294967296, it must be from 0 to 4294967295"),
        ("quality", 101, "quality is 101, it must be from 0 to 100"),
    ],
)
def test_a_value_outside_its_limits_is_refused_with_value_and_limit(
    field: str, value: Any, message: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_request(make_request(**{field: value}))
    assert str(caught.value) == message
    assert caught.value.field == {"negative": "negative_prompt"}.get(field, field)


def test_the_limits_themselves_are_accepted() -> None:
    check_request(
        make_request(
            prompt="x" * MAX_PROMPT,
            negative="y" * MAX_PROMPT,
            width=MIN_SIDE,
            height=MAX_SIDE,
            steps=MAX_STEPS,
            guidance=MAX_GUIDANCE,
            seed=MAX_SEED,
            n=4,
            previews=3,
            quality=100,
        )
    )
    check_request(make_request(prompt="😀" * 1024, steps=1, guidance=0, seed=0, quality=0))


@st.composite
def any_fields(draw: st.DrawFn) -> dict[str, Any]:
    sides = st.integers(-(10**6), 10**6) | st.integers(8, 256).map(lambda side: 8 * side)
    return {
        "width": draw(sides),
        "height": draw(sides),
        "steps": draw(st.integers(-10, 1000)),
        "guidance": draw(st.floats() | st.floats(0, 30)),
        "seed": draw(st.integers(-10, 1 << 40)),
        "prompt": draw(st.text(st.characters(exclude_categories=()))),
    }


@given(fields=any_fields(), family=st.sampled_from(ImageFamily))
def test_what_passes_cannot_break_the_library(fields: dict[str, Any], family: ImageFamily) -> None:
    """Whatever a client sends: an error of its own, or values that the library takes."""
    try:
        settings = choose(family, **fields)
    except InvalidInputError as error:
        assert error.field
        return
    multiple = make_image_model(family=family).spec.facts.multiple
    assert (settings.width, settings.height) == (fields["width"], fields["height"])
    assert 0 <= settings.painted_width - settings.width < multiple
    assert 0 <= settings.painted_height - settings.height < multiple
    assert settings.painted_width % multiple == settings.painted_height % multiple == 0
    assert 64 <= settings.width <= 2048
    assert settings.painted_width * settings.painted_height <= DEFAULT_MAX_PIXELS
    assert 1 <= settings.steps <= 150
    assert 0 <= settings.guidance <= 30
    assert 0 <= fields["seed"] < 1 << 32
    assert b"\0" not in fields["prompt"].encode()


@pytest.mark.parametrize(
    ("family", "painted"),
    [
        (ImageFamily.SD1, (128, 64)),
        (ImageFamily.FLUX2_KLEIN, (80, 64)),
    ],
)
def test_a_size_is_painted_at_the_next_multiple_of_the_family(
    family: ImageFamily, painted: tuple[int, int]
) -> None:
    settings = choose(family=family, width=72, height=56 + 8)
    assert (settings.width, settings.height) == (72, 64)
    assert (settings.painted_width, settings.painted_height) == painted


def test_what_counts_as_too_large_is_the_painted_size() -> None:
    with pytest.raises(InvalidInputError) as caught:
        choose(ImageFamily.SD1, width=1000, height=1048)
    assert str(caught.value) == (
        "a picture of 1000x1048, which this model paints as 1024x1088, has more than 1048576 "
        "pixels: ask for a smaller one, or raise EMBEDD_MAX_PIXELS"
    )
    choose(ImageFamily.SD1, width=1000, height=1048, max_pixels=2 << 20)


def test_a_picture_that_is_too_large_is_refused_with_its_size() -> None:
    with pytest.raises(InvalidInputError, match=r"^a picture of 2048x1024 has more than 1048576"):
        choose(width=2048, height=1024)


def test_what_a_request_does_not_say_is_the_models_own() -> None:
    model = make_image_model(steps=9, guidance=2.0, width=256, height=128)
    settings = choose_settings(make_request(), model, DEFAULT_MAX_PIXELS)
    assert settings == PaintSettings(
        width=256, height=128, painted_width=256, painted_height=128, steps=9, guidance=2.0
    )


@pytest.mark.parametrize(
    "parameter", [{"steps": 0}, {"guidance": math.nan}, {"width": 7}, {"height": 10**6}]
)
def test_parameters_of_a_model_are_checked_as_those_of_a_request(parameter: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        choose_settings(make_request(), make_image_model(**parameter), DEFAULT_MAX_PIXELS)


def test_seeds_count_up_and_start_again_after_the_last() -> None:
    assert choose_seeds(7, 3) == [7, 8, 9]
    assert choose_seeds(MAX_SEED, 2) == [MAX_SEED, 0]
