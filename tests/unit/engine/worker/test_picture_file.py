"""Pictures as files: size, format, text inside."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from embedd.engine.fake_painter import paint_gradient
from embedd.engine.worker.picture_file import crop, encode_picture, encode_preview
from embedd.errors import EngineError
from embedd.images import ImageFormat, Pixels
from tests.unit.painter.orders import make_order


def encode(**order: Any) -> Image.Image:
    made = make_order(**order)
    return Image.open(io.BytesIO(encode_picture(paint_gradient(made), made)))


def test_a_png_has_exactly_the_painted_pixels() -> None:
    order = make_order()
    decoded: Pixels = np.asarray(
        Image.open(io.BytesIO(encode_picture(paint_gradient(order), order)))
    )
    assert (decoded == paint_gradient(order)).all()


def test_the_middle_is_cut_out() -> None:
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    cut = np.asarray(crop(Image.fromarray(pixels), 4, 4))
    assert (cut == pixels[1:5, 2:6]).all()


@pytest.mark.parametrize("kind", ImageFormat)
def test_a_picture_has_the_size_and_format_asked_for(kind: ImageFormat) -> None:
    image = encode(width=72, height=56, painted_width=128, painted_height=64, format=kind)
    assert (image.size, image.format, image.mode) == ((72, 56), kind.upper(), "RGB")


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_quality_decides_the_size_of_a_file_and_is_high_by_default(kind: ImageFormat) -> None:
    def size(quality: int | None) -> int:
        order = make_order(format=kind, quality=quality)
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        return len(encode_picture(noise, order))

    assert size(10) < size(50) < size(None) == size(95)


def test_a_png_has_its_text_as_parameters_of_any_letters() -> None:
    assert encode(text="größer\n😀").info["parameters"] == "größer\n😀"
    assert "parameters" not in encode().info


@pytest.mark.parametrize("kind", [ImageFormat.JPEG, ImageFormat.WEBP])
def test_other_files_have_it_as_a_comment_up_to_the_longest_prompts(kind: ImageFormat) -> None:
    text = "😀" * 8192
    comment = encode(text=text, format=kind).getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + text.encode("utf-16-be")
    assert not encode(format=kind).getexif()


@pytest.mark.parametrize("colour", [0, 255])
def test_a_picture_of_one_colour_is_an_error(colour: int) -> None:
    order = make_order()
    blank = np.full((64, 64, 3), colour, np.uint8)
    with pytest.raises(EngineError, match=r"^the picture is blank: "):
        encode_picture(blank, order)
    blank[63, 63, 2] ^= 1
    assert encode_picture(blank, order)


def test_a_preview_has_the_size_of_the_picture_and_no_text() -> None:
    order = make_order(width=72, height=56, painted_width=80, painted_height=64, text="secret")
    image = Image.open(io.BytesIO(encode_preview(paint_gradient(order)[::8, ::8], order)))
    assert image.size == (72, 56)
    assert "parameters" not in image.info
