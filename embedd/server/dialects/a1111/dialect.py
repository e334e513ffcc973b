"""A1111's API: its routes."""

from typing import Final

from embedd.server.dialects.a1111 import options, paint
from embedd.server.dialects.a1111.errors import STATUSES, to_error
from embedd.server.dialects.base import Dialect, Route

DIALECT: Final = Dialect(
    name="a1111",
    routes=(
        Route(
            method="POST",
            path="/sdapi/v1/txt2img",
            endpoint=paint.txt2img,
            body=paint.PaintBody,
            reply=paint.PaintReply,
        ),
        Route(
            method="GET",
            path="/sdapi/v1/progress",
            endpoint=paint.progress,
            reply=paint.ProgressReply,
        ),
        Route(
            method="POST",
            path="/sdapi/v1/interrupt",
            endpoint=paint.interrupt,
            body=paint.InterruptBody,
            reply=paint.InterruptReply,
        ),
        Route(
            method="GET",
            path="/sdapi/v1/options",
            endpoint=options.options,
            reply=options.OptionsReply,
        ),
        Route(
            method="POST",
            path="/sdapi/v1/options",
            endpoint=options.set_options,
            body=options.OptionsBody,
            reply=options.Done,
        ),
        Route(
            method="GET",
            path="/sdapi/v1/sd-models",
            endpoint=options.sd_models,
            reply=list[options.Model],
        ),
        Route(
            method="GET",
            path="/sdapi/v1/samplers",
            endpoint=options.samplers,
            reply=list[options.Named],
        ),
        Route(
            method="GET",
            path="/sdapi/v1/schedulers",
            endpoint=options.schedulers,
            reply=list[options.Scheduler],
        ),
    ),
    to_error=to_error,
    statuses=STATUSES,
)
