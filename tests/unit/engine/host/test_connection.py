"""The server's end of the socket to a worker."""

import asyncio
import socket

import uvloop

from embedd.engine.host.connection import Frames
from embedd.engine.ipc import messages


def test_what_is_sent_after_the_end_of_the_worker_is_dropped() -> None:
    """On the loop of the server, which raises where asyncio's drops it by itself."""

    async def send() -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        _, frames = await asyncio.get_running_loop().create_unix_connection(
            lambda: Frames[messages.FromWorker](lambda _, __: None, messages.parse_from_worker),
            sock=near,
        )
        far.close()
        await frames.lost
        await frames.send(messages.Cores(1))
        frames.write(messages.Abort(1))

    uvloop.run(send())
