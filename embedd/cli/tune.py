"""``embedd tune``: measure a model's fastest settings on this machine, or show them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from embedd.cli.arguments import model_argument
from embedd.cli.connection import require_local
from embedd.cli.settings import load_settings
from embedd.cli.tables import format_table
from embedd.errors import UnsupportedError

if TYPE_CHECKING:
    from embedd.config import Settings
    from embedd.engine.settings import Tuning
    from embedd.engine.tuning.calibrate import Calibration, Trial

COLUMNS = ("BACKEND", "REPLICAS", "BATCH TOKENS", "TOKENS/S", "")


@click.command
@model_argument
@click.option("--show", "only_show", is_flag=True, help="Print the last measurement.")
def tune(*, model: str, only_show: bool) -> None:
    """Measure how a model computes fastest on this machine.

    Takes a quarter to two minutes: it loads the model for every backend and number of
    replicas. The result applies from the model's next load on. The server measures by
    itself while it is idle.
    """
    settings = load_settings()
    require_local(settings, "tune")
    if only_show:
        found = read_calibration(settings, model)
        if found is None:
            raise UnsupportedError(
                f"{model} has not been measured on this machine: run `embedd tune {model}`"
            )
    else:
        found = asyncio.run(calibrate_model(settings, model, _print_trial))
    click.echo(format_calibration(found))


def read_calibration(settings: "Settings", name: str) -> "Calibration | None":
    """Return what was measured of the stored model *name* on this machine, or None.

    Raises:
        ModelNotFoundError: Not in the store.
    """
    from embedd.runtime import find_spec, open_tuning

    return open_tuning(settings).read(find_spec(settings, name))


async def calibrate_model(
    settings: "Settings", name: str, report: "Callable[[Trial], None]"
) -> "Calibration":
    """Measure the stored model *name* and keep the result for its next load.

    Raises:
        ModelNotFoundError: Not in the store.
        ServiceError: It cannot be loaded, or a worker failed.
    """
    from embedd.runtime import find_spec, make_loader, open_tuning

    store = open_tuning(settings)
    spec = find_spec(settings, name)
    click.echo(
        f"measuring {name} on {settings.threads} cores, which takes up to two minutes; "
        "every line is one setting",
        err=True,
    )
    loader = make_loader(settings, store)
    try:
        found = await loader.calibrate(spec, report=report)
    finally:
        await loader.close()
    store.write(spec, found)
    return found


def _print_trial(trial: "Trial") -> None:
    click.echo(
        f"{trial.backend}, {trial.replicas} × {trial.batch_tokens} tokens: "
        f"{trial.tokens_per_second:.0f} tokens/s",
        err=True,
    )


def format_calibration(found: "Calibration") -> str:
    """Return all trials as a table with the chosen one marked."""
    best = found.best

    def row(trial: "Trial") -> Sequence[str]:
        numbers = (trial.replicas, trial.batch_tokens, round(trial.tokens_per_second))
        return (trial.backend, *map(str, numbers), "chosen" if _is_chosen(trial, best) else "")

    return f"{format_table(COLUMNS, map(row, found.trials))}{_explain(found)}"


def _is_chosen(trial: "Trial", best: "Tuning") -> bool:
    return (trial.backend, trial.replicas, trial.batch_tokens) == (
        best.backend,
        best.replicas,
        best.batch_tokens,
    )


def _explain(found: "Calibration") -> str:
    """Why another setting than the fastest was chosen; "" if that was."""
    best = next(trial for trial in found.trials if _is_chosen(trial, found.best))
    fastest = max(found.trials, key=lambda trial: trial.tokens_per_second)
    if best.tokens_per_second >= fastest.tokens_per_second:
        return ""
    less = 1 - best.tokens_per_second / fastest.tokens_per_second
    if (best.backend, best.replicas) == (fastest.backend, fastest.replicas):
        why = "a smaller batch answers sooner"
    else:
        why = "one core for each replica stalls less beside a working server"
    return (
        f"\n\nchosen: {less:.0%} slower here than {fastest.replicas} × {fastest.batch_tokens} "
        f"tokens of {fastest.backend}, because {why}"
    )
