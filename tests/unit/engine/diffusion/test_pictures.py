"""Pictures are copied out of the library's memory and freed there."""

import ctypes
from typing import Any

import numpy as np
import psutil

from embedd.engine.diffusion.pictures import copy_picture, take_pictures

_allocate = ctypes.CDLL(None).malloc
_allocate.argtypes = [ctypes.c_size_t]
_allocate.restype = ctypes.c_void_p


class Image(ctypes.Structure):
    """As ``sd_image_t``."""

    _fields_ = (
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("channel", ctypes.c_uint32),
        ("data", ctypes.POINTER(ctypes.c_uint8)),
    )


def paint(*values: int, width: int = 3, height: int = 2) -> Any:
    """What the library returns: an array of pictures, each in memory of its own."""
    images = ctypes.cast(_allocate(ctypes.sizeof(Image) * len(values)), ctypes.POINTER(Image))
    size = width * height * 3
    for index, value in enumerate(values):
        data = _allocate(size)
        ctypes.memset(data, value, size)
        pixels = ctypes.cast(data, ctypes.POINTER(ctypes.c_uint8))
        images[index] = Image(width, height, 3, pixels)
    return images


def test_a_copy_does_not_change_with_the_librarys_memory() -> None:
    images = paint(7)
    copied = copy_picture(images[0])
    images[0].data[0] = 9
    assert copied.shape == (2, 3, 3)
    assert copied.dtype == np.uint8
    assert (copied == 7).all()
    take_pictures(images, 1)


def test_all_pictures_are_taken_in_order() -> None:
    assert [int(one[0, 0, 0]) for one in take_pictures(paint(1, 2), 2)] == [1, 2]


def test_nothing_stays_in_the_librarys_memory() -> None:
    """Of 40 pictures of 12 MB; one in four that stayed would be 120 MB."""
    before = psutil.Process().memory_info().rss
    for _ in range(40):
        take_pictures(paint(1, width=2000, height=2000), 1)
    assert psutil.Process().memory_info().rss - before < 60 << 20
