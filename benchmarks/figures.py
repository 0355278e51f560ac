"""Write the figures of README.md and of the model cards from the JSON files in ``benchmarks/results/``.

Run ``python benchmarks/figures.py`` after a new evaluation has been checked in; ``--check`` only says whether the texts
are up to date (a test does that). Between ``<!-- figures -->`` and ``<!-- /figures -->`` nothing is typed by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LUNG = "lung_nodule_ct_latent_diffusion"
# Metric → (name, digits, what it is).
METRICS = {
    "ged_v": ("GED (V-statistic)", 3, "lower is better; a deterministic model that knew the strict majority: 0.270"),
    "ged_u": ("GED (U-statistic)", 3, "unbiased"),
    "hm_iou": ("HM-IoU", 3, "higher is better"),
    "dice": ("Dice of the consensus", 3, "against at least 2 of 4 readers, non-empty"),
    "iou": ("IoU of the consensus", 3, "likewise"),
    "samples_nonempty": ("share of samples that are not empty", 3, "to compare with the next line"),
    "raters_nonempty": ("share of readers' masks that are not empty", 3, ""),
    "codec_mask_dice": ("Dice of the mask codec", 4, "reconstruction of non-empty masks; the paper: 0.944"),
    "codec_mask_ged": ("GED between readers and their reconstructions", 4, ""),
}


def table(result: dict) -> str:
    """Markdown table of one ``metrics.json``."""
    summary, origin = result["summary"], result["provenance"]
    lines = ["| metric | value | |", "|---|---|---|"]
    for key, (name, digits, note) in METRICS.items():
        if summary.get(key) is not None:
            lines.append(f"| {name} | {summary[key]:.{digits}f} | {note} |")
    lines.append(
        f"| seconds a case, {summary['num_samples']} samples | {summary['seconds_per_case']:.2f} | "
        f"{origin['device']}, {origin['threads']} thread(s), {origin['processor']} |"
    )
    steps = summary["num_inference_steps"]
    head = (
        f"{summary['num_cases']} {origin['split']} slices of LIDC-IDRI (LIDCv1 crops, four readers), drawn with seed "
        f"{origin['seed']}; {summary['num_samples']} samples a slice, {steps} steps. Means over slices, on the native "
        "128×128 grid."
    )
    return f"{head}\n\n" + "\n".join(lines)


def training_text(record: dict) -> str:
    """One paragraph on how the weights came about."""
    stages = []
    for stage, name in (("mask_codec", "mask codec"), ("image_codec", "image codec"), ("diffusion", "diffusion")):
        took = record["stages"][stage]
        if took is not None:
            stages.append(f"{name} {took['iterations']} steps in {took['minutes']:.0f} minutes")
    origin = record["provenance"]
    return (
        f"Trained on {origin['threads']} shared cores of a {origin['processor']} (no GPU): {'; '.join(stages)} of wall "
        f"time, each diffusion step {record['batch_size']} images with {record['draws']} draws of reader, noise and "
        f"timestep; {record['parameters'] / 1e6:.1f} million parameters."
    )


def render() -> dict[Path, str]:
    """Texts with fresh figures, by file."""
    result = json.loads((RESULTS / "lung_validation.json").read_text())
    record = json.loads((RESULTS / "lung_training.json").read_text())
    figures = f"{table(result)}\n\n{training_text(record)}\n\nFrom `benchmarks/results/lung_validation.json`."
    texts = {}
    for path in (ROOT / "README.md", ROOT / "bundles" / LUNG / "docs" / "README.md"):
        text = path.read_text()
        new, count = re.subn(
            r"<!-- figures -->.*?<!-- /figures -->",
            lambda _: f"<!-- figures -->\n{figures}\n<!-- /figures -->",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"{path}: expected one <!-- figures --> … <!-- /figures -->, found {count}.")
        texts[path] = new
    return texts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a text is out of date")
    check = parser.parse_args().check
    stale = [path for path, text in render().items() if path.read_text() != text]
    for path in stale:
        if not check:
            path.write_text(render()[path])
    if stale and check:
        names = ", ".join(str(path.relative_to(ROOT)) for path in stale)
        sys.exit(f"Out of date: {names}. Run python benchmarks/figures.py.")
    print(f"{len(stale)} file(s) {'out of date' if check else 'written'}.")


if __name__ == "__main__":
    main()
