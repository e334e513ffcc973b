"""The results as a Markdown table and a plot."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from xml.sax.saxutils import escape

from benchmarks.measure import Result

COLORS = ("#2563eb", "#f59e0b", "#10b981", "#8b5cf6", "#ef4444", "#64748b")
MIB = 1 << 20


def to_markdown(results: Sequence[Result], *, baseline: str, command: str, cores: int) -> str:
    """A table with a row for each workload and contender; ratios are to *baseline*."""
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


def to_svg(results: Sequence[Result], *, baseline: str) -> str:
    """Bars of texts/s as multiples of *baseline*, a group for each workload."""
    base = {one.workload: one.texts_per_second for one in results if one.contender == baseline}
    contenders = list(dict.fromkeys(one.contender for one in results))
    workloads = list(dict.fromkeys(one.workload for one in results))
    ratios = {
        (one.workload, one.contender): one.texts_per_second / base[one.workload] for one in results
    }
    bar, gap, left, wide = 16, 18, 230, 480
    scale = wide / max(ratios.values())
    parts, y = [], 50
    for workload in workloads:
        group = [name for name in contenders if (workload, name) in ratios]
        middle = y + bar * len(group) / 2 + 4
        parts.append(
            f'<text x="{left - 10}" y="{middle}" text-anchor="end">{escape(workload)}</text>'
        )
        for name in group:
            ratio = ratios[workload, name]
            color = COLORS[contenders.index(name) % len(COLORS)]
            parts.append(
                f'<rect x="{left}" y="{y}" width="{ratio * scale:.1f}" height="{bar - 2}" '
                f'fill="{color}"/><text x="{left + ratio * scale + 6:.1f}" y="{y + 11}">'
                f"{ratio:.2f}</text>"
            )
            y += bar
        y += gap
    legend = "".join(
        f'<rect x="{left + 140 * i}" y="16" width="12" height="12" '
        f'fill="{COLORS[i % len(COLORS)]}"/><text x="{left + 140 * i + 18}" y="26">'
        f"{escape(name)}</text>"
        for i, name in enumerate(contenders)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + wide + 70}" height="{y}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="10" y="26">texts/s, × {escape(baseline)}</text>{legend}{"".join(parts)}</svg>\n'
    )


def describe_machine(cores: int) -> str:
    """Processor, cores, versions."""
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
