"""``embedd tune``: measure how a model computes fastest here, or show what was measured."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from embedd.cli.session import load_settings, model_argument, require_local
from embedd.cli.tables import format_table
from embedd.errors import ModelNotFoundError

if TYPE_CHECKING:
    from embedd.engine.tuning.calibrate import Calibration, Trial

COLUMNS = ("BACKEND", "REPLICAS", "BATCH TOKENS", "TOKENS/S", "")


@click.command
@model_argument
@click.option("--show", "only_show", is_flag=True, help="Print what was measured before.")
def tune(*, model: str, only_show: bool) -> None:
    """Measure how a model computes fastest on this machine.

    Takes some seconds. The outcome counts from the model's next load on; the server
    finds it by itself when it has nothing else to do.
    """
    from embedd.runtime import calibrate_model, read_calibration

    settings = load_settings()
    require_local(settings, "tune")
    if only_show:
        found = read_calibration(settings, model)
        if found is None:
            raise ModelNotFoundError(
                model, f"{model} was not measured here yet: run `embedd tune {model}`"
            )
    else:
        found = asyncio.run(calibrate_model(settings, model, _tell))
    click.echo(format_calibration(found))


def _tell(trial: "Trial") -> None:
    click.echo(
        f"{trial.backend}, {trial.replicas} × {trial.batch_tokens} tokens: "
        f"{trial.tokens_per_second:.0f} tokens/s",
        err=True,
    )


def format_calibration(found: "Calibration") -> str:
    """All trials as a table, the chosen one marked."""
    best = found.best

    def row(trial: "Trial") -> Sequence[str]:
        chosen = (trial.backend, trial.replicas, trial.batch_tokens) == (
            best.backend,
            best.replicas,
            best.batch_tokens,
        )
        numbers = (trial.replicas, trial.batch_tokens, round(trial.tokens_per_second))
        return (trial.backend, *map(str, numbers), "chosen" if chosen else "")

    return format_table(COLUMNS, map(row, found.trials))
