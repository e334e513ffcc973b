"""Pictures in the library's memory: copied out, and freed."""

import ctypes
from typing import Any

import numpy as np

from embedd.images import Pixels

_free = ctypes.CDLL(None).free
_free.argtypes = [ctypes.c_void_p]
_free.restype = None


def copy_picture(image: Any) -> Pixels:
    """Return a copy of one ``sd_image_t``."""
    shape = (image.height, image.width, image.channel)
    return np.array(np.ctypeslib.as_array(image.data, shape))


def take_pictures(images: Any, count: int) -> list[Pixels]:
    """Return copies of *count* pictures, and free theirs, which the library does not do."""
    pictures = [copy_picture(images[index]) for index in range(count)]
    for index in range(count):
        _free(ctypes.cast(images[index].data, ctypes.c_void_p))
    _free(ctypes.cast(images, ctypes.c_void_p))
    return pictures
