"""Answers with the files of pages: what browsers may do with them."""

from typing import Final

from aiohttp import web

# Nothing is loaded from elsewhere, and nothing in a file's text runs.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def file_response(body: bytes, kind: str, *, cache: str = "no-cache") -> web.Response:
    """Return the answer with a file of the content type *kind*."""
    headers = {
        "Content-Type": f"{kind}; charset=utf-8",
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": cache,
    }
    return web.Response(body=body, headers=headers)
