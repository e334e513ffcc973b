"""``python -m benchmarks.bare PORT``: aiohttp alone, the least that an answer can cost here.

Its handler decodes the body as the server does and answers bytes of an answer's size.
"""

import sys

import msgspec
import numpy as np
import orjson
import uvloop
from aiohttp import web

from embedd.ollama_api import EmbedBody

PATH = "/api/embed"


def make_app(width: int = 384) -> web.Application:
    """Return an application that answers every request with the same vector of *width* numbers."""
    vector = np.random.default_rng(0).normal(size=width).astype(np.float32)
    vector /= np.linalg.norm(vector)
    numbers = orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY)
    answer = b'{"model":"bench","embeddings":[%b],"total_duration":1000000}' % numbers

    async def embed(request: web.Request) -> web.Response:
        msgspec.json.decode(await request.read(), type=EmbedBody)
        return web.Response(body=answer, content_type="application/json")

    app = web.Application()
    app.router.add_post(PATH, embed)
    return app


def main() -> None:
    """Serve until the process is ended."""
    uvloop.install()
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)


if __name__ == "__main__":
    main()
