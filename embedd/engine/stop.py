"""A request to stop one computation, which C code can read too."""

import ctypes


class Stop:
    """Set once, by any thread; asked by the one that computes.

    It is a C string, empty until it is set: so a library that polls a function of C can ask
    without Python, whose lock a callback would take a hundred times for each batch.
    """

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Stop."""
        self._text[0] = b"!"

    def __bool__(self) -> bool:
        return self._text.value != b""

    @property
    def address(self) -> int:
        """Of the string; valid as long as this object."""
        return ctypes.addressof(self._text)
