"""Orders of pictures, to be changed by the tests."""

from typing import Any

from embedd.engine.image_protocol import PictureOrder
from embedd.images import ImageFormat


def make_order(prompt: str = "a lovely cat", **changes: Any) -> PictureOrder:
    values: dict[str, Any] = {
        "negative": "",
        "width": 64,
        "height": 64,
        "painted_width": 64,
        "painted_height": 64,
        "steps": 3,
        "guidance": 1.0,
        "seed": 7,
        "format": ImageFormat.PNG,
    }
    return PictureOrder(prompt=prompt, **(values | changes))
