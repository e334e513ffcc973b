"""Image models and requests, to be changed by the tests."""

from pathlib import Path
from typing import Any

from embedd.engine.image_spec import ImageModel, ImageSpec
from embedd.images import FAMILIES, ImageFamily, ImagePart, PaintRequest


def make_image_spec(
    name: str = "klein", family: ImageFamily = ImageFamily.FLUX2_KLEIN, **changes: Any
) -> ImageSpec:
    values: dict[str, Any] = {
        "digest": f"sha256:{name}",
        "parts": {ImagePart.MODEL: Path("/models") / name},
        "weights": 1,
    }
    return ImageSpec(name=name, family=family, **(values | changes))


def make_image_model(
    name: str = "klein", family: ImageFamily = ImageFamily.FLUX2_KLEIN, **changes: Any
) -> ImageModel:
    facts = FAMILIES[family]
    values: dict[str, Any] = {
        "spec": make_image_spec(name, family),
        "steps": facts.steps,
        "guidance": facts.guidance,
        "width": facts.size,
        "height": facts.size,
    }
    return ImageModel(**(values | changes))


def make_request(**changes: Any) -> PaintRequest:
    return PaintRequest(**({"model": "klein", "prompt": "a lovely cat"} | changes))
