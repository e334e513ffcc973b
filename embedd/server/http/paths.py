"""Paths of requests: doubled slashes, and the prefix that a proxy leaves in front."""

import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from aiohttp import web
from aiohttp.web_urldispatcher import AbstractResource, AbstractRoute
from yarl import URL

BASE_PATH: Final = web.AppKey("base_path", str)
_SLASHES: Final = re.compile("//+")


def served_path(request: web.Request) -> str:
    """Return the path of *request* as `Route` has it: without a prefix or doubled slashes."""
    path = _SLASHES.sub("/", request.path)
    base = request.app[BASE_PATH]
    if base and path.startswith(f"{base}/"):
        return path.removeprefix(base)
    return path


class DoubledSlashes(AbstractResource):
    """Finds the route of a path with doubled slashes, which base URLs with a slash at the end give.

    No redirect: many clients would send the body again to nowhere. The router asks this resource
    after those of the path itself, so that other requests do not pay for it.
    """

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__()
        self._router = router

    @property
    def canonical(self) -> str:
        """Return the path below which it is asked: any."""
        return "/"

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Return the route of the path with single slashes, or the methods that it takes."""
        path = request.rel_url.raw_path
        single = _SLASHES.sub("/", path)
        if single == path:
            return None, set()
        url = URL.build(path=single, query_string=request.rel_url.raw_query_string, encoded=True)
        found = await self._router.resolve(request.clone(rel_url=url))
        if isinstance(found.http_exception, web.HTTPMethodNotAllowed):
            return None, found.http_exception.allowed_methods
        return (found if found.http_exception is None else None), set()

    def raw_match(self, path: str) -> bool:
        """Return False: no route is added to it."""
        del path
        return False

    def get_info(self) -> Any:
        """Return nothing: it has no pattern."""
        return {}

    def add_prefix(self, prefix: str) -> NoReturn:
        """Raise: it is in the main application alone."""
        raise NotImplementedError(prefix)

    def url_for(self, **_: str) -> NoReturn:
        """Raise: it has no URL of its own."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[AbstractRoute]:
        """Return nothing: the routes belong to other resources."""
        return iter(())

    def __len__(self) -> int:
        """Return 0."""
        return 0
