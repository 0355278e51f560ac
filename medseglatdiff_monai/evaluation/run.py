"""The command ``evaluate``: score a bundle against all raters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..bundle.arguments import check_dataset, check_overrides
from ..bundle.config import experiment_name
from ..bundle.segmenter import inference_config
from ..data.datalist import load_dataset_info
from ..data.splits import normalize_split
from ..errors import check_count, unwrapped_errors
from ..files import file_sha256, remove_leftovers
from .arguments import check_scoring


def evaluate(
    bundle: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str = "validation",
    experiment: str | Path | None = None,
    weights: str | Path | None = None,
    num_samples: int | None = None,
    num_inference_steps: int | None = None,
    max_cases: int | None = None,
    seed: int = 0,
    save_samples: bool = False,
    device: str | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Score a bundle against all raters: metrics.json, cases.csv, cases.png and, if asked, the samples.

    ``cases.csv`` has one row for each case, ``summary`` in ``metrics.json`` the mean of each column over the cases for
    which it is defined; ``ece`` and ``ece_band`` pool the pixels of all cases there, and ``calibration`` holds the bins
    behind them. A figure that is defined for no case is null, and ``not_applicable`` says why. The columns are the rows
    of :data:`medseglatdiff_monai.evaluation.columns.COLUMNS`, explained on the documentation's page on files;
    ``seconds`` is the wall time of the forward pass.

    Example: medseglatdiff evaluate runs/lung --dataset-dir data/lidc --max-cases 300 --output-dir results/lung

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        dataset_dir: prepared folder.
        output_dir: receives metrics.json, cases.csv, cases.png (raters beside samples for the best, the median and the
            worst case) and, with save_samples, samples/CASE.npz.
        split: training, validation or test.
        experiment: overlay that the weights were trained with.
        weights: other weights than the bundle's own.
        num_samples: samples per case (default 16).
        num_inference_steps: denoiser calls per sample (default: the bundle's).
        max_cases: select this many cases by seed.
        seed: seed of the noise and of the selection of cases.
        save_samples: keep the sampled masks.
        device: cpu, cuda, a numbered one such as cuda:1, or mps; by default CUDA if there is one.
        overrides: configuration keys, such as fusion, postprocess, confidence, threshold, score_at.

    Returns:
        The contents of ``metrics.json``.

    Raises:
        InputError: an argument out of its range; a data set whose images the bundle cannot take; a sample that is not
            finite (the message names the case); see
            :func:`~medseglatdiff_monai.bundle.segmenter.inference_config` and
            :func:`~medseglatdiff_monai.data.datalist.load_datalist`.
    """
    check_count("--num-samples", num_samples)
    check_count("--num-inference-steps", num_inference_steps)
    check_count("--max-cases", max_cases)
    check_overrides({**overrides, "device": device})
    check_scoring(**{key: overrides[key] for key in ("score_at", "surface_tolerance") if key in overrides})
    normalize_split(split)
    chosen = {
        "dataset_dir": str(Path(dataset_dir).absolute()), "output_dir": str(Path(output_dir).absolute()),
        "split": split, "num_samples": num_samples, "num_inference_steps": num_inference_steps,
        "max_cases": max_cases, "seed": seed, "save_samples": save_samples, "device": device, **overrides,
    }  # fmt: skip
    remove_leftovers(Path(output_dir), Path(output_dir) / "samples")
    parser = inference_config(bundle, "evaluate", weights, experiment, chosen)
    check_dataset(dataset_dir, load_dataset_info(dataset_dir), parser.get())
    path = Path(parser.get_parsed_content("weights"))
    parser["recorder#record"] = {
        "bundle": Path(parser["bundle_root"]).name,
        "experiment": experiment_name(experiment),
        "dataset": Path(dataset_dir).name,
        "split": split,
        "seed": seed,
        "max_cases": max_cases,
        "weights_sha256": file_sha256(path),
    }
    with unwrapped_errors():
        parser.get_parsed_content("evaluator").run()
    return json.loads((Path(output_dir) / "metrics.json").read_text(encoding="utf-8"))
