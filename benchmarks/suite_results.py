"""Tables of the suites' results for ``docs/results.md``; ``figures.py`` puts them there.

A result is what ``medseglatdiff benchmark`` left as ``results.json``, checked in as ``results/suites/SUITE_DATA.json``.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from speed_figures import markdown

from medseglatdiff_monai.evaluation.columns import COLUMNS
from medseglatdiff_monai.suites.budget import TRAINING_SHARE
from medseglatdiff_monai.suites.names import find_suite
from medseglatdiff_monai.suites.statistics import is_significant

FOLDER = Path(__file__).resolve().parent / "results" / "suites"
# Suite → what it asks, and the metric that answers it.
QUESTIONS = {
    "paper-table-1": ("What do the codecs keep of masks and images?", "dice"),
    "mask-codecs": ("What do the mask codec's loss, weight and latent keep?", "dice"),
    "paper-table-2": ("How good is one mask of each one-to-one system?", "dice"),
    "paper-table-3": ("How good is the ensemble's consensus?", "dice"),
    "paper-figure-3": ("How many samples does the consensus need?", "dice"),
    "calibration": ("Does the confidence say what the raters do?", "brier_band"),
    "all-systems": ("What does every system reach in the same minutes?", "ged_v"),
    "training-choices": ("What are scoring, flow, guidance and more than one rater worth?", "ged_v"),
    "ablation": ("What is each choice worth?", "ged_v"),
}
# Suites that change one choice at a time: what each is worth is the difference from the reference.
CHOICES = {"mask-codecs", "training-choices", "ablation"}
# Where else the paper's figures for a suite's systems stand.
PRINTED = {"all-systems": ("paper-table-2", "paper-table-3")}
NOTHING = "–"
# Why a figure of the paper stands beside ours and is not the same experiment.
PAPER = {
    "lung_nodule_ct_latent_diffusion": "whole slices of 128², another split, and a GPU",
    "skin_lesion_dermoscopy_latent_diffusion": "another split, and a GPU",
    "polyp_colonoscopy_latent_diffusion": "a split by frames, with frames of one sequence on both sides, and a GPU",
}


def suites_page() -> str:
    """A section for each question that has results, in the order of :data:`QUESTIONS`."""
    found = [{**json.loads(path.read_text()), "name": path.stem} for path in sorted(FOLDER.glob("*.json"))]
    sections = []
    for suite, (question, metric) in QUESTIONS.items():
        results = [result for result in found if result["suite"] == suite]
        if results:
            described = json.loads(find_suite(suite).read_text())
            several = len({result["dataset"]["name"] for result in results}) < len(results)
            parts = [_result(result, metric, described, several) for result in results]
            sections.append("\n\n".join([f"## {question}", described["description"], *parts]))
    return "\n\n".join(sections) or "No suite has been run yet."


def _result(result: Mapping[str, Any], metric: str, suite: Mapping[str, Any], named: bool) -> str:
    """The section of one data set: answer, table, how it was made; its title names the systems where asked."""
    dataset, options = result["dataset"], result["options"]
    minutes = options["max_minutes"]
    given = sorted({row["system"] for row in result["measurements"] if row["training_minutes"] is None})
    trained = {row["system"]: row["training_minutes"] for row in result["measurements"] if row["training_minutes"]}
    seeds = options["training_seeds"]
    budget = "the shipped weights"
    if trained:
        budget = f"{fmean(trained.values()):.1f} minutes of training each"
        if "image_size" in options["overrides"]:
            budget += f" with images of {options['overrides']['image_size']}²"
        if len(seeds) > 1:
            budget += f", {len(seeds)} trainings of each, whose scores are averaged case by case"
        if given:
            budget += f" (but {', '.join(given)}: the shipped weights, which were trained for hours)"
    # What only scored, in the end, was trained by an earlier call.
    minutes = minutes or math.ceil(len(seeds) * sum(trained.values()) / TRAINING_SHARE)
    command = (
        f"medseglatdiff benchmark {result['suite']} --dataset-dir D --output-dir R/{result['name']} "
        f"--max-minutes {minutes:g}"
        + _choose_systems([*trained, *given], suite)
        + "".join(f" --run {shlex.quote(f'{name}=bundles/' + result['bundle'])}" for name in given)
        + (f" --seeds {','.join(map(str, seeds))}" if len(seeds) > 1 else "")
        + (f" --max-cases {options['max_cases']}" if options["max_cases"] else "")
        + "".join(f" --{key} {value}" for key, value in sorted(options["overrides"].items()))
    )
    cases = max(row["num_cases"] for row in result["measurements"])
    groups = max(row["num_groups"] for row in result["measurements"])
    where = (
        f"{cases} of {dataset['cases']} {dataset['split']} cases, of {groups} {dataset['group_unit']}s; {budget}, on "
        f"{result['provenance']['threads']} core(s) of an {result['provenance']['processor']}. Minutes and "
        f"seconds are wall time beside other programs. In brackets: 95% bootstrap intervals by {dataset['group_unit']}."
    )
    if result["comparisons"]:
        compared = ", ".join(dict.fromkeys(COLUMNS[row["metric"]].label for row in result["comparisons"]))
        where = where.removesuffix(".") + (
            f"; an asterisk marks a significant difference from {suite['reference']} in {compared} (its interval "
            "excludes 0, and p is below 5% after Holm's correction)."
        )
        # The least p of Wilcoxon's signed-rank test is 2 / 2^n, which Holm's correction multiplies.
        if len(result["comparisons"]) * 2 / 2**groups >= 0.05:
            where += f" {groups} {dataset['group_unit']}s are too few for that, however large a difference is."
    where += _own_codecs(result)
    systems = f": {', '.join(trained)}" if named else ""
    lines = [
        f"### {dataset['name']}{systems}", _answer(result, metric, suite["reference"]), _table(result, suite),
        _differences(result, suite["reference"]), _paper(result, suite), where, f"```\n{command}\n```",
    ]  # fmt: skip
    return "\n\n".join(line for line in lines if line)


def _own_codecs(result: Mapping[str, Any]) -> str:
    """Which systems of a suite of choices did not share their codecs, as a sentence."""
    entries = [entry["what"] for entry in result["left_out"] if entry["what"].endswith("_codec")]
    owners = dict.fromkeys(what.partition(", seed")[0] for what in entries)
    if result["suite"] not in CHOICES or len(owners) < 2:
        return ""
    return f" Not with the same codecs: {', '.join(owners)} each trained their own."


def _choose_systems(shown: Sequence[str], suite: Mapping[str, Any]) -> str:
    """The option that chooses those systems of a suite that are shown, nothing where all are."""
    names = [system["name"] for system in suite["systems"] if system["name"] in shown]
    return "" if len(names) == len(suite["systems"]) else f" --systems {shlex.quote(','.join(names))}"


def _rows(result: Mapping[str, Any], metric: str) -> list[dict[str, Any]]:
    return [row for row in result["measurements"] if row["metric"] == metric and row["mean"] is not None]


def _answer(result: Mapping[str, Any], metric: str, reference: str) -> str:
    """One sentence: which is best, and whether that is settled."""
    rows, column = _rows(result, metric), COLUMNS[metric]
    if not rows:
        return ""
    points = [row["point"] for row in rows if row["point"] is not None]
    if points:
        return _curve(rows, column.label, column.digits)
    rows = [row for row in rows if row["key"] == rows[0]["key"]]
    best = (max if column.direction > 0 else min)(rows, key=lambda row: row["mean"])
    sentence = f"**Best {column.label}: {best['system']}, {_cell(best, set())}.**"
    against = {row["system"] for row in result["comparisons"] if row["metric"] == metric and is_significant(row)}
    if best["system"] == reference:
        rest = [row["system"] for row in rows if row["system"] not in against | {reference}]
        settled = (
            "the difference from every other system is significant"
            if not rest
            else (f"not settled against {', '.join(rest)}")
        )
    else:
        settled = f"the difference from {reference} is " + (
            "significant" if best["system"] in against else "not settled"
        )
    minutes = [row["training_minutes"] for row in rows if row["training_minutes"]]
    if minutes and best["training_minutes"] is None:
        return (
            f"{sentence} That is the shipped bundle, which was trained for hours, the others for {fmean(minutes):.1f} "
            f"minutes; {settled}."
        )
    return f"{sentence} With this budget {settled}."


def _curve(rows: Sequence[Mapping[str, Any]], label: str, digits: int) -> str:
    """How far the first points of each system's curve are from its last."""
    sentences = []
    for system in dict.fromkeys(row["system"] for row in rows):
        own = {row["point"]: row["mean"] for row in rows if row["system"] == system and row["point"] is not None}
        last = max(own)
        far = [point for point, mean in own.items() if abs(mean - own[last]) > 0.005]
        enough = min(point for point in own if point > max(far, default=0))
        first = min(own)
        sentence = f"{system}: {label} {own[first]:.{digits}f} at {first:g}, {own[last]:.{digits}f} at {last:g}"
        if enough < last:
            sentence += f"; from {enough:g} on it is within 0.005 of the last"
        sentences.append(f"{sentence}.")
    return "**" + " ".join(sentences) + "**"


def _table(result: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """Mean and interval of every metric, and what each system costs."""
    significant = {
        (row["system"], row["key"], row["point"], row["metric"]) for row in result["comparisons"] if is_significant(row)
    }
    shown = [row for row in result["measurements"] if row["mean"] is not None]
    points = sorted({row["point"] for row in shown if row["point"] is not None})
    if len(points) > 8:
        shown = [row for row in shown if row["point"] in (points[0], points[4], points[9], points[-1])]
    columns = list(dict.fromkeys((row["key"], row["point"], row["metric"]) for row in shown))
    several = len({row["key"] for row in shown}) > 1
    heads = [
        COLUMNS[metric].label + (f", {point:g}" if point is not None else "") + (f" ({key})" if several else "")
        for key, point, metric in columns
    ]
    cells = {(row["system"], row["key"], row["point"], row["metric"]): row for row in shown}
    heads += ["million parameters", "GMAC", "minutes", "s per sample"]
    lines = []
    for system in dict.fromkeys(row["system"] for row in shown):
        costs = next(row for row in shown if row["system"] == system)
        lines.append(
            [
                *(_cell(cells.get((system, *column)), significant) for column in columns),
                _number(costs["parameters"], 1e6, 2), _number(costs["multiply_accumulates"], 1e9, 2),
                _number(costs["training_minutes"], 1, 1), _number(costs["seconds_per_sample"], 1, 3),
            ]
        )  # fmt: skip
    # Shipped weights have no costs of training here.
    kept = [place for place in range(len(heads)) if any(line[place] != NOTHING for line in lines)]
    systems = dict.fromkeys(row["system"] for row in shown)
    titles = " | ".join(["system", *(heads[place] for place in kept)])
    return markdown(
        f"| {titles} |",
        [(system, *(line[place] for place in kept)) for system, line in zip(systems, lines, strict=True)],
    )


def _differences(result: Mapping[str, Any], reference: str) -> str:
    """Differences from the reference with their intervals, where a suite asks what each choice is worth."""
    rows = {(row["system"], row["metric"]): row for row in result["comparisons"] if row["point"] is None}
    if result["suite"] not in CHOICES or not rows:
        return ""
    metrics, systems = (dict.fromkeys(key[place] for key in rows) for place in (1, 0))
    lines = []
    for system in systems:
        found = [rows.get((system, metric)) for metric in metrics]
        texts = [
            NOTHING
            if row is None
            else f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            + ("" if is_significant(row) else ", not settled")
            for row in found
        ]
        lines.append((system, *texts))
    titles = " | ".join(COLUMNS[metric].label for metric in metrics)
    return markdown(f"| difference from {reference} | {titles} |", lines)


def _cell(row: Mapping[str, Any] | None, significant: set[tuple]) -> str:
    if row is None:
        return NOTHING
    digits = COLUMNS[row["metric"]].digits
    mark = "*" if (row["system"], row["key"], row["point"], row["metric"]) in significant else ""
    known = row["low"] is not None and math.isfinite(row["low"])
    interval = f" ({row['low']:.{digits}f} to {row['high']:.{digits}f})" if known else ""
    return f"{row['mean']:.{digits}f}{mark}{interval}"


def _number(value: float | None, unit: float, digits: int) -> str:
    return NOTHING if value is None else f"{value / unit:.{digits}f}"


def _paper(result: Mapping[str, Any], suite: Mapping[str, Any]) -> str:
    """The paper's own figures for the systems of a result, and why they are another experiment."""
    figures: dict[str, dict[str, float]] = {}
    for printed in (suite, *(json.loads(find_suite(name).read_text()) for name in PRINTED.get(result["suite"], ()))):
        figures |= printed.get("paper", {}).get(result["bundle"], {})
    found = {row["system"] for row in result["measurements"]}
    figures = {system: printed for system, printed in figures.items() if system in found}
    if not figures:
        return ""
    metrics = list(dict.fromkeys(metric for printed in figures.values() for metric in printed))
    own = {(row["system"], row["metric"]): row for metric in metrics for row in _rows(result, metric)}
    lines = [
        (system, *(
            f"{printed[metric]:g} ({_cell(own.get((system, metric)), set()).partition(' ')[0]})"
            if metric in printed else NOTHING for metric in metrics
        ))
        for system, printed in figures.items()
    ]  # fmt: skip
    titles = " | ".join(COLUMNS[metric].label for metric in metrics)
    table = markdown(f"| in the paper (here) | {titles} |", lines)
    return f"{table}\n\nThe paper's experiment is another one: {PAPER[result['bundle']]}."
