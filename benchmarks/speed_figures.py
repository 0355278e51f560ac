"""Tables and plot of ``benchmarks/speed.py``'s results, for ``docs/speed.md``; ``figures.py`` puts them there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NAMES = {
    "default": "Ours",
    "former_steps": "Ours, DPM-Solver++",
    "monai_inferer": "MONAI's inferer, DDIM",
    "medsegdiff": "MedSegDiff",
    "paper": "MedSegLatDiff as published",
    "ensemblediff": "EnsembleDiff",
    "unet": "BasicUNet, one mask",
    "limit": "Limit of ours",
}
HIGHLIGHTED, BAR, PALE = "#1f6f8b", "#a9b4bd", "#dfe4e8"
STAGES = {"image_codec": "image codec", "mask_codec": "mask codec", "train": "diffusion", "scoring": "scoring"}


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.001 else f"{value:.1g}"


def spread(summary: dict[str, float]) -> str:
    """``median (least to most)``."""
    return f"{number(summary['median'])} ({number(summary['min'])} to {number(summary['max'])})"


def name_of(row: dict[str, Any]) -> str:
    """Name of a method, with its number of steps where there are several."""
    steps = row.get("steps", 1)
    return NAMES[row["name"]] + (f", {steps:,} steps" if steps > 1 else "")


def is_extended(row: dict[str, Any]) -> bool:
    """Whether not all steps of a method were made."""
    return row.get("timed_steps", 0) < row.get("steps", 0)


def title(entry: dict[str, Any]) -> str:
    """What is sampled: ``5 samples of a lung crop of 64 × 64``."""
    return f"{entry['num_samples']} samples of a {entry['image']}, {entry['height']} × {entry['width']}"


def by_ratio(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Methods, the fastest first."""
    return sorted(entry["methods"], key=lambda row: row["ratio"]["median"])


def markdown(head: str, rows: Iterable[Sequence[str]]) -> str:
    """Markdown table of rows of cells below a heading, which is a line of the table."""
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *(f"| {' | '.join(row)} |" for row in rows)])


def drawing_table(entry: dict[str, Any], clock: str) -> str:
    """Markdown table of the methods for one image and number of samples; of what was not measured, no column."""
    columns = {
        "ratio to one U-Net pass": lambda row: spread(row["ratio"]),
        "s": lambda row: number(row[clock]["median"]) if clock in row else "–",
        "GMAC": lambda row: number(row["multiply_accumulates"] / 1e9) if "multiply_accumulates" in row else "–",
        "memory, MB": lambda row: f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else "–",
    }
    order = by_ratio(entry)
    cells = {head: [make(row) for row in order] for head, make in columns.items()}
    cells = {head: column for head, column in cells.items() if set(column) != {"–"}}
    names = [name_of(row) + ("\\*" if is_extended(row) else "") for row in order]
    rows = zip(names, *cells.values(), strict=True)
    return f"**{title(entry)}**\n\n" + markdown(f"| {' | '.join(['method', *cells])} |", rows)


def training_table(result: dict[str, Any]) -> str:
    """Markdown table of the stages of training."""
    rows = []
    for row in result["training"]:
        seconds, images = row[result["clock"]], f"{row['batch_size']} of {row['side']} × {row['side']}"
        per_image = f"{1000 * seconds['median'] / row['batch_size']:.0f}"
        rows.append((f"`{row['bundle']}`", STAGES[row["stage"]], images, spread(seconds), per_image))
    return markdown("| bundle | stage | images per step | s per step | ms per image |", rows)


def start_up_table(result: dict[str, Any]) -> str:
    """Markdown table of whole processes."""
    rows = [
        (
            f"`{row['command']}`".replace(" (one PNG)`", " …`, one PNG"),
            spread(row["processor_seconds"]), spread(row["wall_seconds"]),
            f"{row['peak_bytes']['median'] / 1e6:,.0f}",
        )
        for row in result["start_up"]
    ]  # fmt: skip
    return markdown("| command | processor time, s | wall time, s | peak memory, MB |", rows)


def preparation_table(result: dict[str, Any]) -> str:
    """Markdown table of the data sources."""
    rows = []
    for row in result["preparation"]:
        if "skipped" in row:
            rows.append((f"`{row['source']}`", "–", f"not measured: {row['skipped']}", "–", "–"))
        else:
            times = (number(row[key]) for key in ("slices_per_second", "processor_seconds", "wall_seconds"))
            rows.append((f"`{row['source']}`", f"{row['slices']:,}", *times))
    return markdown(
        "| source | slices | slices per second of processor time | processor time, s | wall time, s |", rows
    )


def speed(result: dict[str, Any] | None, key: str, image: str) -> str:
    """Text of the page for one result file, ``speed_….json``, whose plot is ``image``."""
    if result is None:
        return "Not run yet."
    origin, clock = result["provenance"], result["clock"]
    times = "processor time" if clock == "processor_seconds" else "wall time"
    on_cpu = result["device"] == "cpu"
    where = f"{origin['threads']} thread(s) of an {origin['processor']}" if on_cpu else origin["device"]
    walked = {row["timed_steps"] for entry in result["drawing"] for row in entry["methods"] if is_extended(row)}
    head = f"{where}, {times}, {result['repeats']} rounds"
    if (rate := result["drawing"][0].get("matmul_multiply_accumulates_per_second")) is not None:
        head += f"; a matrix product reaches {number(rate['median'] / 1e9)} GMAC per second"
    head += f". For methods with an asterisk, {max(walked)} steps were timed and extrapolated to all steps."
    parts = [
        head,
        f"![Time of each method as a multiple of one U-Net pass](images/{image})",
        *(drawing_table(entry, clock) for entry in result["drawing"]),
    ]
    if "training" in result:
        parts += [f"**A step of training**, {times}\n", training_table(result)]
    if "start_up" in result:
        parts += ["**Whole processes**\n", start_up_table(result)]
    if "preparation" in result:
        parts += ["**Preparation of data**, one worker, unpacking included\n", preparation_table(result)]
    else:
        parts.append("The run was interrupted: what is missing here was not measured.")
    parts.append(f"From `benchmarks/results/{key}.json`.")
    return "\n\n".join(part.rstrip("\n") for part in parts)


def plot_speed(result: dict[str, Any], path: Path) -> None:
    """Bars of the ratio to one U-Net pass, on one logarithmic axis; one panel per image and number of samples."""
    entries = result["drawing"]
    figure = Figure(figsize=(11, 0.6 + 2.7 * -(-len(entries) // 2)), layout="constrained", facecolor="white")
    ratios = [row["ratio"]["median"] for entry in entries for row in entry["methods"]]
    low, high = 0.4 * min(ratios), 8 * max(ratios)
    panels = figure.subplots(-(-len(entries) // 2), 2, squeeze=False, sharex=True).flatten()
    for axes, entry in zip(panels[: len(entries)], entries, strict=True):
        rows = by_ratio(entry)[::-1]
        values = [row["ratio"]["median"] for row in rows]
        colours = [{"default": HIGHLIGHTED, "limit": PALE}.get(row["name"], BAR) for row in rows]
        axes.barh([name_of(row) for row in rows], [value - low for value in values], left=low, color=colours)
        for place, value in enumerate(values):
            axes.text(value * 1.15, place, number(value), va="center", fontsize=8)
        axes.axvline(1.0, color="#444444", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", xlim=(low, high))
        axes.set_title(title(entry), fontsize=10, loc="left")
        axes.tick_params(labelsize=8, length=0)
        axes.tick_params(axis="x", labelbottom=True)
        axes.spines[["top", "right", "left"]].set_visible(False)
    for axes in panels[len(entries) :]:
        axes.set_visible(False)
    figure.supxlabel("time as a multiple of one pass of BasicUNet (logarithmic)", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(path)
