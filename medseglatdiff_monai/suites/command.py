"""The command `benchmark`: its arguments are checked before torch, MONAI and pandas are imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..bundle.config import Bundle
from ..bundle.folders import find_bundle
from ..data.datalist import load_dataset_info
from ..data.sources.source import default_bundle
from ..data.splits import normalize_split
from ..errors import InputError, check_count
from ..extras import require
from ..files import file_sha256
from ..startup import heavy_imports
from ..training.run import check_tracking
from .names import find_suite


def run_suite(
    suite: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    bundle: str | Path | None = None,
    max_minutes: float | None = None,
    max_cases: int | None = None,
    systems: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 0,
    split: str = "validation",
    runs: str | Sequence[str] | Mapping[str, str | Path] | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Train, score and compare the systems of a suite: results.json, results.csv, report.html.

    Example: medseglatdiff benchmark ambiguity --dataset-dir data/lidc --max-minutes 60 --output-dir results

    Args:
        suite: paper-table-1, paper-table-2, paper-table-3, paper-figure-3, paper-figure-4, ambiguity, ambiguity-laptop,
            encoder-laptop, all-systems, calibration, mask-codecs, training-choices, ablation, recipe, or a JSON file.
        dataset_dir: prepared folder.
        output_dir: where runs, scores and the report go; the same call continues from there.
        bundle: bundle that the systems start from; by default the one for the data set.
        max_minutes: budget of loading, training and scoring together, of which scoring keeps at least 30%; what did not
            fit is listed under left_out. 0 trains nothing and scores what is trained, however long it takes, on the
            cases that an earlier budget chose.
        max_cases: score at most this many cases, selected by a fixed seed.
        systems: names, separated by commas; all by default.
        seeds: training seeds, separated by commas; figures are means over them.
        split: training, validation or test.
        runs: NAME=FOLDER, separated by commas: trained runs, bundles, or folders of masks as the command score takes
            them, in place of training; on the command line --run.
        overrides: configuration keys of every system's training, e.g. --max_epochs 1. --device cpu holds for its
            scoring, too.

    Returns:
        The contents of ``results.json``.

    Raises:
        InputError: unknown suite, bundle, system or part; an extra that is not installed; a number out of range; a
            result file of another version or suite in ``output_dir``.
    """
    path = find_suite(suite)
    start = None if bundle is None else find_bundle(bundle)
    info = load_dataset_info(dataset_dir)
    start = start or find_bundle(bundle_for(info, dataset_dir))
    require("benchmark", "A benchmark")
    if max_minutes != 0:
        check_tracking(Bundle(start), overrides)
    split = normalize_split(split)
    if not info.get(split):
        raise InputError(f"The {split} part of {dataset_dir} is empty: choose another --split.")
    if max_minutes is not None and max_minutes < 0:
        raise InputError(f"--max-minutes must be at least 0, found {max_minutes}.")
    check_count("--max-cases", max_cases)
    given = dict(runs) if isinstance(runs, Mapping) else dict(_name_and_folder(entry) for entry in _as_list(runs))
    names = None if systems is None else [str(name) for name in _as_list(systems)]
    if names == []:
        raise InputError("--systems names no system; give some of the suite, separated by commas, or leave it out.")
    numbers = _as_list(seeds)
    if not numbers or not all(isinstance(seed, int) for seed in numbers):
        raise InputError(f"--seeds is {seeds!r}; expected integers, separated by commas.")
    with heavy_imports():
        from .request import Request
        from .runner import run_request
        from .suite import load_suite

    folder = Path(dataset_dir).absolute()
    request = Request(
        load_suite(path), folder, info, split, Path(output_dir).absolute(), start, max_minutes, max_cases, overrides,
        fingerprint=file_sha256(folder / "dataset.json"),
    )  # fmt: skip
    return run_request(request, names, numbers, given)


def bundle_for(info: Mapping[str, Any], dataset_dir: str | Path) -> str:
    """Name of the bundle that is made for a prepared data set, of which ``info`` is the ``dataset.json``.

    Raises:
        InputError: there is none, or the data set does not say where it comes from.
    """
    source = info.get("source")
    bundle = default_bundle(source)
    if bundle is None:
        raise InputError(
            f"No bundle is made for {dataset_dir} ({info.get('name')}, source {source!r}): choose one with --bundle."
        )
    return bundle


def _as_list(value: Any) -> list[Any]:
    """The entries of ``a,b``, of a sequence, or a single value."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _name_and_folder(entry: Any) -> tuple[str, str]:
    name, mark, folder = str(entry).partition("=")
    if not (name.strip() and mark and folder.strip()):
        raise InputError(f"--run expects NAME=FOLDER, separated by commas; found {entry!r}.")
    return name.strip(), folder.strip()
