"""Scoring a segmenter against all readers: one row a case, a summary, and everything needed to score it again.

:class:`CaseRecorder` is the handler that ``evaluate.json`` attaches to MONAI's evaluator; :func:`evaluate` is the
command, and its docstring says what each column holds. Cases are scored on their native grid or on the network's
(``score_at``), Dice and IoU on the other one too.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from monai.engines.utils import IterationEvents
from monai.metrics import PSNRMetric, SSIMMetric
from monai.transforms import Invertd, InvertibleTransform
from torch import nn

from .bundle import experiment_name, inference_config
from .checkpoints import load_weights, save_bytes, save_json, save_text, weights_sha256
from .data.transforms import LoadCased
from .errors import InputError, unwrapped_errors
from .fusion import fuse_ensemble
from .inferer import EnsembleInferer, drawing_settings
from .metrics import (
    brier_score,
    calibration_bins,
    calibration_error,
    collective_insight,
    dice_score,
    energy_distance_floor,
    fuse_masks,
    generalized_energy_distance,
    hausdorff_95,
    hungarian_matched_iou,
    iou_score,
    mean_mask,
    sample_diversity,
    soft_dice,
    surface_dice,
    variance_correlation,
)
from .networks import CodecBase, IdentityCodec

__all__ = ["RESULT_VERSION", "CaseRecorder", "evaluate", "load_image_codec", "load_result", "provenance"]

# Raised with every change of what a column means: results of two versions are not to be compared.
RESULT_VERSION = 2
NUM_BINS = 15
REGIONS = {"ece": "image", "ece_band": "band"}
CODEC_COLUMNS = ("codec_mask_dice", "codec_mask_ged")
# What a figure needs, for the explanation of those that are missing.
NEEDS_READERS = ("ged_u", "raters_diversity", "ncc", "ci_score", "ci_agreement")
NEEDS_SAMPLES = ("ged_u", "diversity", "ncc", "ci_score", "ci_agreement")
OTHERWISE = {
    "ncc": "the readers agree in every pixel of every case",
    **dict.fromkeys(("dice", "iou", "hd95", "surface_dice"), "the readers' consensus is empty in every case"),
    **dict.fromkeys(("ece_band", "brier_band"), "readers and samples agree in every pixel of every case"),
    "codec_mask_dice": "no reader marked anything in any case",
    "codec_image_psnr": "the image codec returns every image unchanged",
}


class ScoredCase(NamedTuple):
    """What is kept of a case: its row of the table, the bins behind its calibration errors, its number of readers."""

    row: dict[str, Any]
    bins: dict[str, np.ndarray]
    num_raters: int


def load_image_codec(module: CodecBase, weights: str | Path) -> CodecBase | None:
    """Image codec with the weights ``image_codec.pt`` that lie beside ``weights``; ``None`` where there are none."""
    path = Path(weights).with_name("image_codec.pt")
    # A copy: the conditioner shares this module's encoder, which training has moved away from the codec's.
    return load_weights(copy.deepcopy(module), path).eval() if path.is_file() else None


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, hardware and the source tree's commit (:func:`git_commit`) that a result was made with."""
    import monai

    from . import __version__

    device = torch.device(device)
    return {
        "medseglatdiff_monai": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": np.__version__,
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the source tree that the package runs from, with ``-dirty`` where files differ; ``None`` without."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        # Installed into an environment, which may lie in somebody else's repository.
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


class CaseRecorder:
    """Evaluator handler: scores every case and writes ``metrics.json``, ``cases.csv`` and, if asked, the samples.

    Args:
        items: datalist items of the evaluated cases; the native masks are read from their ``label``.
        output_dir: where the results go.
        preprocessing: the transforms that made the network's input; inverted to bring samples back.
        network: the segmenter; of its ``mask_codec`` the reconstruction is scored, if it has one that loses anything.
        inferer: the ensemble inferer; its threshold, confidence and fusion make the consensus on both grids.
        image_codec: codec whose PSNR and SSIM are wanted, or ``None``.
        score_at: ``"native"`` or ``"network"``: the grid of all metrics and of the saved samples.
        surface_tolerance: distance in pixels of that grid up to which surface Dice takes two outlines as equal.
        save_samples: write ``samples/<case>.npz``.
        record: further entries of the provenance.
    """

    def __init__(
        self,
        items: Sequence[dict],
        output_dir: str | Path,
        preprocessing: InvertibleTransform,
        network: nn.Module,
        inferer: EnsembleInferer,
        image_codec: CodecBase | None = None,
        score_at: str = "native",
        surface_tolerance: float = 1.0,
        save_samples: bool = False,
        record: dict[str, Any] | None = None,
    ) -> None:
        if score_at not in ("native", "network"):
            raise InputError(f"score_at must be 'native' or 'network', found {score_at!r}.")
        if not surface_tolerance >= 0:
            raise InputError(f"surface_tolerance must be a number of pixels, at least 0, found {surface_tolerance}.")
        self.items = {item["case"]: item for item in items}
        self.output_dir = Path(output_dir)
        self.network = network
        self.inferer = inferer
        self.image_codec = image_codec
        self.score_at = score_at
        self.surface_tolerance = surface_tolerance
        self.save_samples = save_samples
        self.record = record or {}
        self.cases: list[ScoredCase] = []
        mask_codec: CodecBase | None = getattr(network, "mask_codec", None)
        self.mask_codec = None if isinstance(mask_codec, IdentityCodec) else mask_codec
        self._load_label = LoadCased(keys=["label"])
        # Masks go back by linear interpolation and a threshold at 1/2, smoother than the nearest neighbour.
        self._invert = Invertd("maps", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start_clock(self, engine: Engine) -> None:
        self._started = time.perf_counter()

    def _score_batch(self, engine: Engine) -> None:
        output: Any = engine.state.output
        samples, confidence = output["pred"]["samples"].cpu(), output["pred"]["confidence_map"].cpu()
        seconds = (time.perf_counter() - self._started) / len(samples)
        labels = output["label"].cpu()
        codec = self._score_codecs(output["image"], output["label"])
        for i, item in enumerate(decollate_batch(engine.state.batch)):
            case = item["case"]
            native_label = self._load_label({"label": self.items[case]["label"]})["label"].as_tensor() > 0
            native_samples = self._to_native(samples[i], item["image"]) >= 0.5
            if self.inferer.confidence == "samples":
                native_confidence = mean_mask(native_samples[None])[0].float()
            else:
                native_confidence = self._to_native(confidence[i], item["image"]).clamp(0.0, 1.0)
            grids = {
                "native": (native_samples, native_confidence, native_label),
                "network": (samples[i], confidence[i], labels[i] > 0),
            }
            other = "network" if self.score_at == "native" else "native"
            scored, other_scored = grids[self.score_at], grids[other]
            consensus, other_consensus = self._fuse(*scored[:2]), self._fuse(*other_scored[:2])
            metrics, bins = self._score(*scored, consensus)
            overlap = self._overlap(other_consensus, other_scored[2])
            row = {"case": case, "group": self.items[case].get("group", ""), **metrics}
            row.update({f"dice_{other}": overlap["dice_all"], f"iou_{other}": overlap["iou_all"]})
            row.update({name: float(values[i]) for name, values in codec.items()})
            row["seconds"] = seconds
            self.cases.append(ScoredCase(row, bins, len(native_label)))
            if self.save_samples:
                self._save(case, *scored, consensus)

    def _to_native(self, maps: torch.Tensor, image: MetaTensor) -> torch.Tensor:
        """(N, h, w) on the network's grid → (N, H, W) float32 on the image's own, 0 where the network did not look."""
        return self._invert({"image": image, "maps": MetaTensor(maps.float())})["maps"].as_tensor()

    def _fuse(self, samples: torch.Tensor, confidence: torch.Tensor) -> torch.Tensor:
        """Samples (N, H, W) bool and confidence (1, H, W) → consensus (1, H, W) bool."""
        fused = fuse_ensemble(samples[None], confidence[None], self.inferer.threshold, self.inferer.fusion)
        return fused["consensus_mask"][0]

    def _overlap(self, consensus: torch.Tensor, raters: torch.Tensor) -> dict[str, float]:
        reference = fuse_masks(raters[None])
        return {
            "dice_all": float(dice_score(consensus[None], reference)),
            "iou_all": float(iou_score(consensus[None], reference)),
        }

    def _score(
        self, samples: torch.Tensor, confidence: torch.Tensor, raters: torch.Tensor, consensus: torch.Tensor
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """All metrics of samples (N, H, W) bool, confidence and consensus (1, H, W) against raters (R, H, W) bool."""
        overlap = self._overlap(consensus, raters)
        samples, confidence, raters, consensus = samples[None], confidence[None], raters[None], consensus[None]
        reference, target = fuse_masks(raters), mean_mask(raters)
        empty = not bool(reference.any())
        insight = collective_insight(samples, raters)
        bins = {
            name: calibration_bins(confidence, target, region, NUM_BINS)[0].numpy() for name, region in REGIONS.items()
        }
        tolerance = self.surface_tolerance
        return {
            "ged_v": float(generalized_energy_distance(samples, raters)),
            "ged_u": float(generalized_energy_distance(samples, raters, unbiased=True)),
            "hm_iou": float(hungarian_matched_iou(samples, raters)),
            "dice": math.nan if empty else overlap["dice_all"],
            "iou": math.nan if empty else overlap["iou_all"],
            **overlap,
            "samples_nonempty": float(samples.flatten(2).any(2).float().mean()),
            "raters_nonempty": float(raters.flatten(2).any(2).float().mean()),
            "ged_floor": float(energy_distance_floor(raters, samples.shape[1])),
            "d_max": float(insight["maximum_dice"]),
            "diversity": float(sample_diversity(samples)),
            "raters_diversity": float(sample_diversity(raters)),
            "ncc": float(variance_correlation(samples, raters)),
            "ci_score": float(insight["score"]),
            "ci_sensitivity": float(insight["sensitivity"]),
            "ci_agreement": float(insight["agreement"]),
            "soft_dice": float(soft_dice(confidence, target)),
            **{name: float(calibration_error(torch.from_numpy(counted))) for name, counted in bins.items()},
            "brier": float(brier_score(confidence, target)),
            "brier_band": float(brier_score(confidence, target, region="band")),
            "hd95": float(hausdorff_95(consensus, reference, ignore_empty=True)),
            "surface_dice": float(surface_dice(consensus, reference, tolerance, ignore_empty=True)),
        }, bins

    @torch.no_grad()
    def _score_codecs(self, image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per case: Dice of reconstructed non-empty masks, GED of reconstructed readers, PSNR and SSIM of the image."""
        scores = dict.fromkeys(CODEC_COLUMNS, torch.full((len(label),), torch.nan))
        codec = self.mask_codec
        if codec is not None:
            masks = label.float().flatten(0, 1)[:, None]
            rebuilt = (codec.decode(codec.encode(masks)) > 0).squeeze(1).unflatten(0, label.shape[:2])
            scores["codec_mask_dice"] = dice_score(rebuilt, label > 0, ignore_empty=True).nanmean(1)
            scores["codec_mask_ged"] = generalized_energy_distance(rebuilt, label > 0)
        if self.image_codec is not None:
            rebuilt_image = self.image_codec.to(image.device).reconstruct(image).clamp(0.0, 1.0)
            metrics = {
                "codec_image_psnr": PSNRMetric(max_val=1.0),
                "codec_image_ssim": SSIMMetric(image.ndim - 2, data_range=1.0),
            }
            for name, metric in metrics.items():
                # Of a batch, not a list of cases, MONAI's metrics give a tensor.
                scores[name] = cast(torch.Tensor, metric(rebuilt_image, image)).flatten()
        return scores

    def _save(
        self, case: str, samples: torch.Tensor, confidence: torch.Tensor, raters: torch.Tensor, consensus: torch.Tensor
    ) -> None:
        def write(handle) -> None:
            np.savez_compressed(
                handle, samples=samples.numpy(), confidence=confidence[0].numpy(),
                consensus=consensus[0].numpy(), raters=raters.numpy(),
            )  # fmt: skip

        save_bytes(write, self.output_dir / "samples" / f"{case}.npz")

    def summary(self, cases: Sequence[ScoredCase]) -> dict[str, Any]:
        """Means over the cases for which a metric is defined, ``None`` where it is for none; pooled calibration errors.

        ``ece`` and ``ece_band`` are those of the pixels of all cases together, see
        :class:`~medseglatdiff_monai.metrics.ExpectedCalibrationError`; the table's columns hold each case's own.
        """
        rows = [case.row for case in cases]
        names = [name for name in rows[0] if name not in ("case", "group", "seconds")]
        means: dict[str, Any] = {}
        for name in names:
            values = [row[name] for row in rows if math.isfinite(row[name])]
            means[name] = statistics.fmean(values) if values else None
        for name in REGIONS:
            pooled = float(calibration_error(torch.from_numpy(_pool(cases, name))))
            means[name] = pooled if math.isfinite(pooled) else None
        return {
            **means,
            "num_cases": len(rows),
            "num_nonempty_consensus": sum(math.isfinite(row["dice"]) for row in rows),
            "num_samples": self.inferer.num_samples,
            # None for a network that draws no noise and takes no steps.
            "num_inference_steps": self.inferer.num_inference_steps
            or getattr(self.network, "num_inference_steps", None),
            "seconds_per_case": statistics.fmean(row["seconds"] for row in rows),
            "score_at": self.score_at,
        }

    def not_applicable(self, summary: dict[str, Any], num_raters: int) -> dict[str, str]:
        """Why each figure of the summary that is ``None`` is missing.

        Args:
            summary: see :meth:`summary`.
            num_raters: largest number of readers of a case.
        """
        reasons = {}
        for name, value in summary.items():
            if value is not None:
                continue
            if name == "num_inference_steps":
                reasons[name] = "the network predicts in one pass"
            elif name in CODEC_COLUMNS and self.mask_codec is None:
                reasons[name] = "the network has no mask codec, it works on pixels"
            elif name in NEEDS_READERS and num_raters < 2:
                reasons[name] = "needs at least two readers, the data set has one"
            elif name in NEEDS_SAMPLES and self.inferer.num_samples < 2:
                reasons[name] = "needs at least two samples, one was drawn"
            else:
                reasons[name] = OTHERWISE.get(name, "undefined in every case")
        return reasons

    def _write(self, engine: Engine) -> None:
        cases = self.cases
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, cases)
            # Ranks hold interleaved cases; a padded sampler may repeat one, but a case counts once.
            cases = list({case.row["case"]: case for part in gathered for case in part}.values())
            if dist.get_rank() != 0:
                return
        order = {case: i for i, case in enumerate(self.items)}
        cases = sorted(cases, key=lambda case: order[case.row["case"]])
        summary = self.summary(cases)
        parameter = next(self.network.parameters(), None)
        result = {
            "version": RESULT_VERSION,
            "summary": summary,
            "not_applicable": self.not_applicable(summary, max(case.num_raters for case in cases)),
            "calibration": {name: _reliability(_pool(cases, name)) for name in REGIONS},
            "settings": {
                "threshold": self.inferer.threshold,
                "confidence": self.inferer.confidence,
                "fusion": self.inferer.fusion,
                "postprocess": self.inferer.postprocess,
                **drawing_settings(self.inferer, self.network),
                "surface_tolerance": self.surface_tolerance,
            },
            "provenance": {**self.record, **provenance("cpu" if parameter is None else parameter.device)},
        }

        rows = io.StringIO(newline="")
        writer = csv.DictWriter(rows, fieldnames=list(cases[0].row))
        writer.writeheader()
        writer.writerows(case.row for case in cases)
        # Between the two writes no old summary must stand beside new rows.
        (self.output_dir / "metrics.json").unlink(missing_ok=True)
        save_text(rows.getvalue(), self.output_dir / "cases.csv")
        save_json(result, self.output_dir / "metrics.json")
        engine.state.metrics.update({k: v for k, v in summary.items() if isinstance(v, float)})


def _pool(cases: Sequence[ScoredCase], name: str) -> np.ndarray:
    """Bins (3, NUM_BINS) of the pixels of all cases together."""
    return np.sum([case.bins[name] for case in cases], axis=0)


def _reliability(bins: np.ndarray) -> dict[str, list[float]]:
    """A reliability diagram: pixels of each bin, their mean confidence and mean reader share, NaN in empty bins."""
    count, confidence, target = bins
    means = [
        np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0) for total in (confidence, target)
    ]
    return {"count": count.tolist(), "confidence": means[0].tolist(), "target": means[1].tolist()}


def load_result(path: str | Path) -> dict[str, Any]:
    """Read a ``metrics.json`` of this version.

    Raises:
        InputError: no such file, no result, or one of another version, whose figures may mean something else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the metrics.json of an evaluation.")
    try:
        result = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON ({error}); evaluate again.") from error
    version = result.get("version") if isinstance(result, dict) else None
    if version != RESULT_VERSION or "summary" not in result:
        raise InputError(
            f"{path}: found a result of version {version}, expected {RESULT_VERSION}; the figures of two versions are "
            "not comparable: evaluate again."
        )
    return result


def evaluate(
    bundle: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    split: str = "validation",
    experiment: str | None = None,
    weights: str | Path | None = None,
    num_samples: int | None = None,
    num_inference_steps: int | None = None,
    max_cases: int | None = None,
    seed: int = 0,
    save_samples: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Score a bundle on one part of a prepared data set; returns the contents of ``metrics.json``.

    ``cases.csv`` has one row a case, ``summary`` in ``metrics.json`` the mean of each column over the cases for which
    it is defined. What is defined for none is null there and explained under ``not_applicable``. The columns:

    - ``ged_v``, ``ged_u``, ``hm_iou``: see :mod:`~medseglatdiff_monai.metrics`; ``ged_floor``: the ``ged_v`` that
      drawing so many samples from the readers themselves has on average.
    - ``dice``, ``iou``, ``hd95`` (pixels), ``surface_dice``: consensus of the samples against the pixels that at least
      half of the readers marked, in cases that have any; ``dice_all``, ``iou_all``: in all cases, both empty as 1.
    - ``d_max``, ``ci_score``, ``ci_sensitivity``, ``ci_agreement``: see
      :func:`~medseglatdiff_monai.metrics.collective_insight`; ``diversity``, ``raters_diversity``: mean distance of
      two samples and of two readers; ``ncc``: see :func:`~medseglatdiff_monai.metrics.variance_correlation`.
    - ``soft_dice``, ``ece``, ``brier``: confidence map against the mean reader map; ``ece_band``, ``brier_band``: in
      the pixels where readers or samples differ among themselves. The summary's two ``ece`` pool the pixels of all
      cases; ``calibration`` holds the bins behind them.
    - ``samples_nonempty``, ``raters_nonempty``: share of masks that hold a pixel.
    - ``dice_native``, ``iou_native`` or ``dice_network``, ``iou_network``: ``dice_all``, ``iou_all`` on the other grid.
    - ``codec_…``: the mask codec's reconstruction of the readers, the image codec's of the image.
    - ``seconds``: wall time of the forward pass.

    Args:
        bundle: folder, or name under ``bundles/``.
        dataset_dir: prepared folder.
        output_dir: receives ``metrics.json``, ``cases.csv`` and, with ``save_samples``, ``samples/<case>.npz``.
        split: ``"training"``, ``"validation"`` or ``"test"``.
        experiment: overlay that the weights were trained with.
        weights: other weights than the bundle's own.
        num_samples: samples a case; default 16.
        num_inference_steps: denoiser calls a sample; default the bundle's.
        max_cases: draw so many cases by ``seed``.
        seed: seed of the noise and of the draw of cases.
        save_samples: keep the sampled masks.
        overrides: configuration keys, such as ``fusion``, ``postprocess``, ``confidence``, ``threshold``, ``score_at``.

    Raises:
        InputError: a sample is not finite, the message names the case; see
            :func:`~medseglatdiff_monai.bundle.inference_config` and
            :func:`~medseglatdiff_monai.data.datalist.load_datalist`.
    """
    for name, value in {"--num-samples": num_samples, "--num-inference-steps": num_inference_steps}.items():
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, found {value}.")
    chosen = {
        "dataset_dir": str(Path(dataset_dir).absolute()), "output_dir": str(Path(output_dir).absolute()),
        "split": split, "num_samples": num_samples, "num_inference_steps": num_inference_steps,
        "max_cases": max_cases, "seed": seed, "save_samples": save_samples, **overrides,
    }  # fmt: skip
    parser = inference_config(bundle, "evaluate", weights, experiment, chosen)
    path = Path(parser.get_parsed_content("weights"))
    parser["recorder#record"] = {
        "bundle": Path(parser["bundle_root"]).name,
        "experiment": experiment_name(experiment),
        "dataset": Path(dataset_dir).name,
        "split": split,
        "seed": seed,
        "max_cases": max_cases,
        "weights_sha256": weights_sha256(path),
    }
    with unwrapped_errors():
        parser.get_parsed_content("evaluator").run()
    return json.loads((Path(output_dir) / "metrics.json").read_text())
