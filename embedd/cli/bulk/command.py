"""``embedd bulk``: files in, vector files out, each row exactly once."""

import asyncio
from dataclasses import replace
from typing import Final

import click
from click.core import ParameterSource

from embedd.cli.arguments import model_argument
from embedd.cli.settings import load_settings

INPUT_TYPES: Final = ("document", "query", "none")
DTYPES: Final = ("float32", "float16", "int8", "ubinary")
REQUESTS: Final = "openai-batch"
FORMATS: Final = ("txt", "md", "jsonl", "csv", "tsv", "parquet", "arrow", REQUESTS)


def shard(text: str) -> tuple[int, int]:
    """Type of an option like ``3/8``.

    Raises:
        click.BadParameter: *text* is not a shard.
    """
    index, slash, of = text.partition("/")
    if slash and index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of):
        return int(index), int(of)
    raise click.BadParameter(f"{text!r} is not a shard, such as 3/8")


@click.command
@model_argument
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@click.option("-o", "--output", "out", required=True, help="Folder, file, or - for stdout.")
@click.option("--text", help="Column of the text, or a template such as '{title} {body}'.")
@click.option("--id", "id_", help="Column that names rows; default: their number.")
@click.option(
    "--keep",
    metavar="all|none|A,B",
    help="Columns that are carried along; a name with a comma is in double quotes.",
)
@click.option(
    "--input-type",
    type=click.Choice(INPUT_TYPES),
    default="document",
    show_default=True,
    help="What the texts are, which decides the model's prefix.",
)
@click.option("--chunk", type=click.IntRange(1), help="Cut texts into chunks of so many tokens.")
@click.option("--overlap", type=click.IntRange(0), default=0, help="Tokens that chunks share.")
@click.option(
    "--too-long",
    type=click.Choice(["cut", "start", "middle", "error"]),
    default="cut",
    help="Too long texts lose their end, start or middle, or fail.",
)
@click.option("--dimensions", type=click.IntRange(1), help="Length of the vectors.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", help="Type of the numbers.")
@click.option("--limit", type=click.IntRange(1), help="Take so many rows, the first ones.")
@click.option("--shard", "part", type=shard, default="1/1", help="Do the Ith of N shares: I/N.")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Of inputs whose names do not say it."
)
@click.option("--threads", type=click.IntRange(1), help="Cores that compute in this process.")
@click.option(
    "--errors",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="Go on after rows that fail, or stop.",
)
@click.option("--max-errors", type=click.IntRange(0), help="Stop when more rows than these fail.")
@click.option("--restart", is_flag=True, help="Throw away what is there, and begin anew.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    show_default=True,
    help="A bar or text, JSON lines, or nothing, on stderr.",
)
@click.option(
    "--server",
    "servers",
    metavar="URL",
    multiple=True,
    help="Server that computes; given again, several share the work.",
)
@click.option("--local", is_flag=True, help="Compute in this process, without a server.")
@click.option("--ray", metavar="ADDRESS|auto", help="Compute on the nodes of a Ray cluster.")
@click.option("--mixed-backends", "mixed", is_flag=True, help="Allow vectors of several backends.")
@click.option("--dry-run", is_flag=True, help="Estimate rows, tokens, bytes and time.")
def bulk(
    *,
    model: str,
    inputs: tuple[str, ...],
    out: str,
    text: str | None,
    id_: str | None,
    keep: str | None,
    input_type: str,
    chunk: int | None,
    overlap: int,
    too_long: str,
    dimensions: int | None,
    dtype: str,
    limit: int | None,
    part: tuple[int, int],
    form: str | None,
    threads: int | None,
    errors: str,
    max_errors: int | None,
    restart: bool,
    progress: str,
    servers: tuple[str, ...],
    local: bool,
    ray: str | None,
    mixed: bool,
    dry_run: bool,
) -> int:
    """Embed files: every row gets a vector, once, however often the command is interrupted.

    Exit status: 0 every row has a vector, 3 some rows are in errors.jsonl, 1 an error, 130
    interrupted. The same command goes on where it stopped.
    """
    from embedd.bulk.compute import Wanted
    from embedd.bulk.job import Options
    from embedd.bulk.parts import choose_output
    from embedd.cli.bulk.running import Request, run

    _check_pairs(click.get_current_context())
    settings = load_settings()
    if threads is not None:
        settings = replace(settings, threads=threads)
    if form == REQUESTS:
        _check_requests_only(click.get_current_context())
        from embedd.cli.bulk.requests import RequestsJob, run_requests

        job = RequestsJob(
            model=model,
            inputs=inputs,
            out=out,
            restart=restart,
            progress=progress,
            threads=threads,
        )
        return asyncio.run(run_requests(job, settings, servers=servers, local=local))
    wanted = Wanted(
        model=model,
        input_type=None if input_type == "none" else input_type,
        cut=too_long != "error",
        truncate=too_long if too_long in {"start", "middle"} else "end",
        chunk=chunk,
        overlap=overlap,
        dimensions=dimensions,
        dtype=dtype,
    )
    output = choose_output(out)
    options = Options(wanted=wanted, output=output, text=text, id=id_, keep=keep, limit=limit)
    request = Request(
        inputs=inputs,
        out=out,
        options=options,
        form=form,
        shard=part,
        restart=restart,
        mixed=mixed,
        servers=servers,
        local=local,
        most_errors=0 if errors == "stop" else max_errors,
        progress=progress,
        dry_run=dry_run,
        threads=threads,
    )
    if ray is not None:
        from embedd.cli.bulk.on_ray import run_on_ray

        return asyncio.run(run_on_ray(request, ray, threads))
    return asyncio.run(run(request, settings))


def _check_pairs(context: click.Context) -> None:
    """Raise `click.UsageError` if one of the options has no effect beside another."""
    value = context.params
    given = {
        name
        for name in value
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT and value[name]
    }
    if {"local", "servers"} <= given:
        raise click.UsageError("--local and --server exclude each other")
    if "ray" in given and given & {"local", "dry_run"}:
        raise click.UsageError("--ray excludes --local and --dry-run")
    if "overlap" in given and "chunk" not in given:
        raise click.UsageError("--overlap needs --chunk")
    if "overlap" in given and value["overlap"] >= value["chunk"]:
        raise click.UsageError(
            f"--overlap is {value['overlap']}, it must be less than --chunk, which is "
            f"{value['chunk']}"
        )
    if {"chunk", "too_long"} <= given:
        raise click.UsageError("--too-long has no effect with --chunk, after which no text is")
    if value["errors"] == "stop" and value["max_errors"]:
        raise click.UsageError(
            f"--errors stop allows no row to fail, --max-errors {value['max_errors']} some: leave "
            "one of them out"
        )
    if {"threads", "servers"} <= given and "ray" not in given:
        raise click.UsageError("--threads has no effect with --server, whose cores are its own")
    if value["out"] == "-" and "restart" in given:
        raise click.UsageError("--restart has no effect with -o -: stdout is always begun anew")


def _check_requests_only(context: click.Context) -> None:
    """Raise `click.UsageError` if an option was given that has no meaning for requests."""
    known = {"model", "inputs", "out", "form", "threads", "restart", "progress", "servers", "local"}
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name not in known and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[0]} has no meaning with --format {REQUESTS}, whose lines have "
                "their own fields"
            )
