"""The results of a run as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
HOW = ("alone", "packed", "replicas")  # "replicas": two at a time, against one


def to_markdown(
    facts: Mapping[str, str],
    families: Sequence[Row],
    models: Sequence[Row],
    speed: Sequence[Row],
    notes: Sequence[str],
) -> str:
    """Return all tables; *notes* name what the time was not enough for."""
    lines = [", ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    lines += [f"- {note}" for note in notes] + [""] * bool(notes)
    lines += ["## Vectors of all families, against float64", "", *format_families(families), ""]
    lines += ["## Vectors of models, against torch f32", "", *format_models(models), ""]
    lines += ["## Speed, each beside sentence-transformers on torch", "", *format_speed(speed)]
    return "\n".join(lines) + "\n"


def format_families(rows: Sequence[Row]) -> list[str]:
    """A row for each family: the largest ``1 - cosine`` by placement, and what is wrong."""
    placements = list(dict.fromkeys(row["layers"] for row in rows))
    lines = _head(["family", *(f"{one} layers" for one in placements), "faults"])
    for name in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == name]
        cells = [_format_worst([row for row in own if row["layers"] == one]) for one in placements]
        faults = [f"{_describe(row)}: {row['fault']}" for row in own if row["fault"]]
        lines.append(_row([name, *cells, "; ".join(faults) or "none"]))
    wrong = {row["family"] for row in rows if row["fault"]}
    total = len({row["family"] for row in rows})
    return [f"{total - len(wrong)} of {total} families have the right vectors.", "", *lines]


def format_models(rows: Sequence[Row]) -> list[str]:
    """A row for each placement of a model."""
    lines = _head(["model", "weights", "layers", *HOW, "on the GPU, MiB", "faults"])
    keys = dict.fromkeys((row["model"], row["weights"], row["layers"]) for row in rows)
    for key in keys:
        own = [row for row in rows if (row["model"], row["weights"], row["layers"]) == key]
        by_how = {row.get("how"): row for row in own}
        cells = [_format_worst([by_how[how]] if how in by_how else []) for how in HOW]
        size = max(row.get("gpu_bytes", 0) for row in own) >> 20
        faults = [f"{row.get('how', '')} {row['fault']}" for row in own if row["fault"]]
        lines.append(_row([*key, *cells, str(size), "; ".join(faults).strip() or "none"]))
    return lines


def format_speed(rows: Sequence[Row]) -> list[str]:
    """A row for each contender and workload; ratios are to the last contender, torch."""
    titles = ["model", "workload", "contender", "texts/s", "× torch", "tokens/s", "p50 ms"]
    lines = _head([*titles, "p99 ms", "cosine"])
    for key in dict.fromkeys((row["model"], row["workload"]) for row in rows):
        own = [row for row in rows if (row["model"], row["workload"]) == key]
        base = own[-1]["texts_per_second"]
        lines += [
            _row(
                [
                    *key,
                    row["contender"],
                    f"{row['texts_per_second']:.0f}",
                    f"{row['texts_per_second'] / base:.2f}",
                    f"{row['tokens_per_second']:.0f}",
                    f"{1000 * row['p50']:.1f}",
                    f"{1000 * row['p99']:.1f}",
                    f"{row['cosine']:.5f}",
                ]
            )
            for row in own
        ]
    return lines


def count_faults(rows: Sequence[Row]) -> int:
    """Return how many rows have vectors that are wrong."""
    return sum(1 for row in rows if row["fault"])


def _format_worst(rows: Sequence[Row]) -> str:
    distances = [row["distance"] for row in rows if "distance" in row]
    return f"{max(distances):.1e}" if distances else "–"


def _describe(row: Row) -> str:
    return ", ".join(str(row[key]) for key in ("layers", "pooling", "how") if key in row)


def _head(titles: Sequence[str]) -> list[str]:
    return [_row(titles), _row(["---" for _ in titles])]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
