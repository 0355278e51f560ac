"""The command ``score``: masks that any program predicted, against all raters."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..console import Progress
from ..data.datalist import load_datalist, load_dataset_info
from ..data.splits import normalize_split
from ..ensemble.arguments import check_summary_arguments
from ..errors import InputError
from ..files import file_sha256
from .arguments import check_scoring

if TYPE_CHECKING:
    import numpy as np

# Where a case has several, the first counts.
SUFFIXES = (".npz", ".nii.gz", ".nii", ".png")


def score(
    predictions: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str = "validation",
    threshold: float = 0.5,
    surface_tolerance: float = 1.0,
    max_cases: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score masks that another program predicted against all raters: metrics.json and cases.csv, as evaluate does.

    The folder has a file for each case, on the grid of the prepared image: CASE.png with one mask; CASE.nii.gz of
    (row, column) or (row, column, sample) with 0 and 1; or CASE.npz with the array samples, (N, H, W). The confidence
    map is the share of samples.

    Example: medseglatdiff score nnunet_predictions --dataset-dir data/lidc --output-dir results/nnunet

    Args:
        predictions: folder of the masks.
        dataset_dir: prepared folder.
        output_dir: receives metrics.json and cases.csv.
        split: training, validation or test.
        threshold: share of samples from which a pixel belongs to the consensus.
        surface_tolerance: distance in pixels up to which surface Dice takes two outlines as equal.
        max_cases: select this many cases by seed, as evaluate does.
        seed: of that selection.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        InputError: a case without a file; a file that holds no masks, or masks of another size than the image; an
            argument out of its range.
    """
    check_scoring(surface_tolerance=surface_tolerance)
    check_summary_arguments(threshold, "samples", "mean", None)
    normalize_split(split)
    info = load_dataset_info(dataset_dir)
    items = load_datalist(dataset_dir, split, max_cases, seed)
    files = find_predictions(predictions, [item["case"] for item in items])
    output = Path(output_dir)

    import torch

    from ..io.prepared import LoadCase
    from ..metrics.masks import mean_mask
    from ..provenance import provenance
    from .columns import COLUMNS, why_undefined
    from .result import count_cases, entries_of_all, load_result, score_case, summarize, write_result
    from .scored import ScoredMasks

    load: Any = LoadCase(is_label=True)
    cases, numbers = [], []
    with Progress("Scoring", len(items), "cases") as bar:
        for item, path in zip(items, files, strict=True):
            raters = load(item["label"]).as_tensor()[None] > 0
            samples = torch.from_numpy(read_samples(path, tuple(raters.shape[2:])))[None]
            confidence = mean_mask(samples).float()
            masks = ScoredMasks(samples, raters, confidence, threshold, surface_tolerance=surface_tolerance)
            cases.append(score_case(item["case"], item.get("group", ""), {"native": masks}, "native"))
            numbers.append(samples.shape[1])
            bar.update()
    summary = {
        **summarize(cases), **count_cases(cases),
        "num_samples": max(numbers), "num_inference_steps": None, "seconds_per_case": None, "score_at": "native",
    }  # fmt: skip
    num_raters = max(len(case.rater_dice) for case in cases)
    write_result(
        output, cases, summary,
        {
            name: why_undefined(COLUMNS[name], num_raters, max(numbers)) if name in COLUMNS
            else "another program predicted the masks"
            for name, value in summary.items() if value is None
        },
        **entries_of_all(cases, info.get("raters", [])),
        settings={"threshold": threshold, "confidence": "samples", "fusion": "mean", "postprocess": None,
                  "surface_tolerance": surface_tolerance},
        provenance={"predictions": Path(predictions).name, "predictions_sha256": hash_predictions(files),
                    "dataset": Path(dataset_dir).name, "split": split, "seed": seed, "max_cases": max_cases,
                    **provenance("cpu")},
    )  # fmt: skip
    return load_result(output / "metrics.json")


def find_predictions(folder: str | Path, cases: Sequence[str]) -> list[Path]:
    """The file of each case.

    Raises:
        InputError: there is no such folder, or a case has no file in it.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; expected one with the predicted masks, a file for each case.")
    files, missing = [], []
    for case in cases:
        found = next((path for suffix in SUFFIXES if (path := Path(folder) / f"{case}{suffix}").is_file()), None)
        if found is None:
            missing.append(case)
        else:
            files.append(found)
    if missing:
        raise InputError(
            f"{folder}: no masks of {len(missing)} of {len(cases)} cases, the first is {missing[0]!r}; expected a file "
            f"{missing[0]}{' or '.join(SUFFIXES)} for each case, or a smaller part by --max-cases or --split."
        )
    return files


def list_predictions(folder: Path) -> list[Path]:
    """Files of a folder that can be predictions, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES))


def hash_predictions(files: Sequence[Path]) -> str:
    """One SHA-256 of all files, their names included."""
    return hashlib.sha256("".join(f"{path.name} {file_sha256(path)}\n" for path in files).encode()).hexdigest()


def read_samples(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Masks (N, H, W) bool of one file.

    Args:
        path: of the file.
        shape: (H, W) of the image.

    Raises:
        InputError: an unreadable file, values other than those of a mask, or another shape.
    """
    import nibabel
    import numpy as np

    from ..data.sources.images import read_mask

    if path.suffix == ".png":
        samples = read_mask(path)[None]
    else:
        try:
            if path.suffix == ".npz":
                with np.load(path) as arrays:
                    samples = np.array(arrays["samples"])
            else:
                image: Any = nibabel.load(path)
                array = np.asarray(image.dataobj)
                samples = array[None] if array.ndim == len(shape) else np.moveaxis(array, -1, 0)
        except Exception as error:  # the readers raise all kinds
            raise InputError(
                f"{path}: unreadable ({type(error).__name__}: {error}); expected masks as 'medseglatdiff score --help' "
                "says."
            ) from error
    if samples.shape[1:] != shape or not len(samples):
        raise InputError(f"{path}: masks of {samples.shape[1:]}; expected {shape}, the size of the prepared image.")
    values = np.unique(samples)
    if not set(values.tolist()) <= {0, 1} and not set(values.tolist()) <= {0, 255}:
        raise InputError(
            f"{path}: found {len(values)} values from {values.min()} to {values.max()}; expected 0 and 1. Threshold "
            "probabilities first; of several classes keep one."
        )
    return samples > 0
