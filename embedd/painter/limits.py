"""The checks of a request for pictures: every number is checked before an engine sees it.

The engine's library aborts, hangs or crashes on values outside these limits.
"""

import math
from dataclasses import dataclass
from typing import Final

from embedd.engine.image_spec import ImageModel
from embedd.errors import InvalidInputError
from embedd.images import PaintRequest

MIN_SIDE: Final = 64
MAX_SIDE: Final = 2048
SIDE_MULTIPLE: Final = 8
DEFAULT_MAX_PIXELS: Final = 1 << 20
MAX_STEPS: Final = 150
MAX_GUIDANCE: Final = 30.0
MAX_SEED: Final = (1 << 32) - 1
MAX_PICTURES: Final = 4
# Characters, and bytes in UTF-8: text encoders take memory by the square of the tokens, of which a
# rare character has one for each byte. 4,096 tokens are 2 GB, 16,384 would be 30.
MAX_PROMPT: Final = 4096
MAX_PREVIEWS: Final = 3
MAX_QUALITY: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintSettings:
    """What a checked request is painted with.

    Args:
        painted_width, painted_height: What the engine paints; the middle is cut out.
    """

    width: int
    height: int
    painted_width: int
    painted_height: int
    steps: int
    guidance: float


def check_request(request: PaintRequest) -> None:
    """Check what is wrong whatever the model.

    Raises:
        InvalidInputError: A value is outside its limits; it names the field.
    """
    _check_text("prompt", request.prompt)
    _check_text("negative_prompt", request.negative)
    if not request.prompt.strip():
        raise InvalidInputError("prompt must not be empty", field="prompt")
    _check_range("n", request.n, 1, MAX_PICTURES)
    _check_range("previews", request.previews, 0, MAX_PREVIEWS)
    for name, side in (("width", request.width), ("height", request.height)):
        if side is not None:
            _check_side(name, side)
    if request.steps is not None:
        _check_range("steps", request.steps, 1, MAX_STEPS)
    if request.guidance is not None:
        _check_guidance(request.guidance)
    if request.seed is not None:
        _check_range("seed", request.seed, 0, MAX_SEED)
    if request.quality is not None:
        _check_range("quality", request.quality, 0, MAX_QUALITY)


def choose_settings(request: PaintRequest, model: ImageModel, max_pixels: int) -> PaintSettings:
    """Return what a checked *request* is painted with by *model*.

    Raises:
        InvalidInputError: The picture is too large, or a parameter of the model cannot be used.
    """
    width = model.width if request.width is None else request.width
    height = model.height if request.height is None else request.height
    steps = model.steps if request.steps is None else request.steps
    guidance = model.guidance if request.guidance is None else request.guidance
    # The model's own parameters are checked too: a Modelfile may hold any number.
    _check_side("width", width)
    _check_side("height", height)
    _check_range("steps", steps, 1, MAX_STEPS)
    _check_guidance(guidance)
    painted_width, painted_height = map(model.spec.facts.round_up, (width, height))
    if painted_width * painted_height > max_pixels:
        painted = ""
        if (painted_width, painted_height) != (width, height):
            painted = f", which this model paints as {painted_width}x{painted_height},"
        raise InvalidInputError(
            f"a picture of {width}x{height}{painted} has more than {max_pixels} pixels: ask for "
            "a smaller one, or raise EMBEDD_MAX_PIXELS",
            limit=max_pixels,
            field="size",
        )
    return PaintSettings(
        width=width,
        height=height,
        painted_width=painted_width,
        painted_height=painted_height,
        steps=steps,
        guidance=float(guidance),
    )


def choose_seeds(first: int, count: int) -> list[int]:
    """Return the seeds of *count* pictures: *first* and the next, from 0 again after the last."""
    return [(first + index) % (MAX_SEED + 1) for index in range(count)]


def _check_text(field: str, text: str) -> None:
    if len(text) > MAX_PROMPT:
        raise InvalidInputError(
            f"{field} has {len(text)} characters, the limit is {MAX_PROMPT}: shorten it",
            limit=MAX_PROMPT,
            field=field,
        )
    if "\0" in text:
        raise InvalidInputError(f"{field} has a NUL character: remove it", field=field)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidInputError(
            f"{field} has half of a surrogate pair, which is not a character: send UTF-8",
            field=field,
        )
    if (size := len(text.encode())) > MAX_PROMPT:
        raise InvalidInputError(
            f"{field} has {size} bytes in UTF-8, the limit is {MAX_PROMPT}: shorten it",
            limit=MAX_PROMPT,
            field=field,
        )


def _check_side(field: str, side: int) -> None:
    _check_range(field, side, MIN_SIDE, MAX_SIDE)
    if side % SIDE_MULTIPLE:
        near = side - side % SIDE_MULTIPLE
        raise InvalidInputError(
            f"{field} is {side}, it must be a multiple of {SIDE_MULTIPLE}: use {near}", field=field
        )


def _check_guidance(guidance: float) -> None:
    if not math.isfinite(guidance) or not 0 <= guidance <= MAX_GUIDANCE:
        raise InvalidInputError(
            f"guidance is {guidance}, it must be from 0 to {MAX_GUIDANCE:g}", field="guidance"
        )


def _check_range(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        # A number from a client may have thousands of digits.
        shown = str(value) if abs(value) < 10**12 else "too large a number"
        raise InvalidInputError(
            f"{field} is {shown}, it must be from {least} to {most}", limit=most, field=field
        )
