"""Pictures as files: PNG, JPEG or WebP, with their prompt and settings inside."""

import io
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from embedd.engine.image_protocol import PictureOrder
from embedd.errors import EngineError
from embedd.images import ImageFormat, Pixels

DEFAULT_QUALITY = 95
TEXT_KEY = "parameters"  # as A1111 names it, and every viewer looks it up
UNICODE = b"UNICODE\0"  # how EXIF marks a comment in UTF-16


def encode_picture(pixels: Pixels, order: PictureOrder) -> bytes:
    """Return the file of a finished picture: the middle of *pixels*, with the order's text.

    Raises:
        EngineError: The picture has one colour only.
    """
    if (pixels == pixels.flat[0]).all():
        raise EngineError(
            "the picture is blank: the model computed numbers that are not finite; "
            "try another guidance, or another file of the model"
        )
    image = crop(Image.fromarray(pixels), order.width, order.height)
    return _encode(image, order, text=order.text)


def encode_preview(pixels: Pixels, order: PictureOrder) -> bytes:
    """Return the file of a small picture, scaled up to the size of the finished one."""
    size = (order.painted_width, order.painted_height)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    return _encode(crop(image, order.width, order.height), order, text="")


def crop(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the middle of *image*."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _encode(image: Image.Image, order: PictureOrder, *, text: str) -> bytes:
    file = io.BytesIO()
    image.save(file, order.format, **_choose_settings(order, text))
    return file.getvalue()


def _choose_settings(order: PictureOrder, text: str) -> dict[str, Any]:
    if order.format is ImageFormat.PNG:
        chunks = PngInfo()
        if text:
            chunks.add_itxt(TEXT_KEY, text)
        return {"pnginfo": chunks}
    quality = DEFAULT_QUALITY if order.quality is None else order.quality
    exif = Image.Exif()
    if text:
        comment = UNICODE + text.encode("utf-16-be")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return {"quality": quality, "exif": exif}
