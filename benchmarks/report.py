"""Results as a Markdown table and a plot."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.measure import Result

MIB = 1 << 20


def to_markdown(results: Sequence[Result], *, baseline: str, command: str, cores: int) -> str:
    """Return a table with a row for each workload and contender; ratios are to *baseline*."""
    base = {one.workload: one for one in results if one.contender == baseline}
    columns = f"texts/s | × {baseline} | tokens/s | p50 ms | p99 ms | resident MiB | cosine to f32"
    lines = [
        f"{describe_machine(cores)}. Made by `{command}`.",
        "",
        f"| workload | contender | {columns} |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for one in results:
        ratio = one.texts_per_second / base[one.workload].texts_per_second
        lines.append(
            f"| {one.workload} | {one.contender} | {one.texts_per_second:.0f} | {ratio:.2f} "
            f"| {one.tokens_per_second:.0f} | {1000 * one.p50:.1f} | {1000 * one.p99:.1f} "
            f"| {one.resident / MIB:.0f} | {one.cosine:.5f} |"
        )
    return "\n".join(lines) + "\n"


def draw(results: Sequence[Result], path: Path, *, baseline: str) -> None:
    """Write an SVG with bars of texts/s as multiples of *baseline*, grouped by workload."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    base = {one.workload: one.texts_per_second for one in results if one.contender == baseline}
    contenders = list(dict.fromkeys(one.contender for one in results))
    group = len(contenders) + 1
    # Neither date nor random ids: equal results give equal files.
    with rc_context({"svg.hashsalt": "embedd", "svg.fonttype": "none"}):
        figure = Figure(figsize=(8, 0.19 * group * len(base) + 1), layout="constrained")
        axes = figure.subplots()
        for index, name in enumerate(contenders):
            of_name = [one for one in results if one.contender == name]
            places = [group * list(base).index(one.workload) + index for one in of_name]
            ratios = [one.texts_per_second / base[one.workload] for one in of_name]
            bars = axes.barh(places, ratios, height=0.9, label=name)
            axes.bar_label(bars, fmt="%.2f", padding=3, fontsize="small")
        middles = [group * number + (len(contenders) - 1) / 2 for number in range(len(base))]
        axes.set_yticks(middles, list(base))
        axes.invert_yaxis()
        axes.margins(x=0.1)
        axes.set_xlabel(f"texts/s, × {baseline}")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def describe_machine(cores: int) -> str:
    """Return processor, cores and versions as one line."""
    packages = [
        f"{name} {version(name)}"
        for name in ("llama-cpp-python", "openvino")
        if find_spec({"llama-cpp-python": "llama_cpp"}.get(name, name))
    ]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join([_cpu(), f"{cores} cores", python, *packages])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
