"""``embedd serve``."""

import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from embedd.cli.arguments import duration
from embedd.config import SETTINGS, parse_host, read_service_manager, read_settings
from embedd.first_worker import FirstWorker
from embedd.logs import set_up_logs

log = logging.getLogger(__name__)

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


class _ServeCommand(click.Command):
    """Its help ends with the settings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each environment variable with its meaning and default."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Environment variables"):
            formatter.write_dl(
                [
                    (
                        f"EMBEDD_{setting.name}",
                        f"{setting.meaning}  [{setting.default}]"
                        if setting.default
                        else setting.meaning,
                    )
                    for setting in SETTINGS
                ]
            )


@click.command(cls=_ServeCommand)
@click.option("--host", help="Address to bind: host, host:port or unix:PATH  [EMBEDD_HOST]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to bind  [EMBEDD_HOST]")
@click.option(
    "--models",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model store  [EMBEDD_MODELS]",
)
@click.option(
    "--keep-alive",
    type=duration,
    help="How long an idle model stays in memory, -1 for ever  [EMBEDD_KEEP_ALIVE]",
)
@click.option("--threads", type=click.IntRange(min=1), help="Cores to use  [EMBEDD_THREADS]")
@click.option(
    "--gpu-layers",
    type=click.IntRange(min=0),
    help="Layers of a model on the GPU, 0 for none  [EMBEDD_GPU_LAYERS]",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of API keys, read again when it changes  [EMBEDD_API_KEY_FILE]",
)
@click.option("--tls-cert", type=PEM, help="Certificate chain; the server then speaks HTTPS.")
@click.option("--tls-key", type=PEM, help="Key of the certificate, if it is in another file.")
@click.option("--load", "preload", metavar="MODEL", multiple=True, help="Load MODEL at start-up.")
def serve(
    *,
    host: str | None,
    port: int | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    preload: tuple[str, ...],
    **overrides: Any,
) -> None:
    """Run the server."""
    warnings: list[str] = []
    settings = read_settings(warn=warnings.append)
    # Warnings are lines of the log, in its format: programs read all that a server prints.
    set_up_logs(settings.debug, sys.stderr, log_format=settings.log_format)
    for text in warnings:
        log.warning(text)
    address = settings.host if host is None else parse_host(host, log.warning)
    if port is not None:
        address = replace(address, port=port, socket=None)
    if tls_cert is None and tls_key is not None:
        raise click.UsageError("--tls-key needs --tls-cert")
    if tls_cert is not None and address.socket is not None:
        raise click.UsageError("--tls-cert cannot be used with a Unix socket")
    given = {name: value for name, value in overrides.items() if value is not None}
    settings = replace(settings, host=address, **given)
    # A process of its own, which gets ready while this one imports all that a server needs.
    first = FirstWorker.start(settings) if preload else None
    from embedd.server.serve import run

    run(
        settings,
        preload,
        (tls_cert, tls_key) if tls_cert else None,
        read_service_manager(),
        first,
    )
