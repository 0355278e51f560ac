"""Scoring a segmenter against all readers: one row a case, a summary, and everything needed to score it again.

:class:`CaseRecorder` is the handler that ``evaluate.json`` attaches to MONAI's evaluator; :func:`evaluate` is the
command, and its docstring says what each column holds. Cases are scored on their native grid or on the network's
(``score_at``), Dice and IoU on the other one too.
"""

from __future__ import annotations

import copy
import csv
import io
import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from monai.engines.utils import IterationEvents
from monai.metrics import PSNRMetric, SSIMMetric
from monai.transforms import Invertd, InvertibleTransform
from torch import nn

from ..ensemble.fusion import fuse_ensemble
from ..ensemble.inferer import EnsembleInferer, drawing_settings
from ..errors import InputError
from ..files import save_json, save_text, save_with
from ..io.prepared import LoadCased
from ..metrics.calibration import brier_score, calibration_bins, calibration_error, soft_dice
from ..metrics.energy import energy_distance_floor, generalized_energy_distance, sample_diversity
from ..metrics.insight import collective_insight
from ..metrics.masks import fuse_masks, mean_mask
from ..metrics.matching import hungarian_matched_iou
from ..metrics.overlap import dice_score, iou_score
from ..metrics.surface import hausdorff_95, surface_dice
from ..metrics.variance import variance_correlation
from ..networks.codecs import CodecBase, IdentityCodec
from ..networks.weights import load_weights
from ..provenance import provenance
from .result import NUM_BINS, REGIONS, RESULT_VERSION, ScoredCase, pool_bins, reliability

__all__ = ["CaseRecorder", "load_image_codec"]

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


def load_image_codec(module: CodecBase, weights: str | Path) -> CodecBase | None:
    """Image codec with the weights ``image_codec.pt`` that lie beside ``weights``; ``None`` where there are none."""
    path = Path(weights).with_name("image_codec.pt")
    # A copy: the conditioner shares this module's encoder, which training has moved away from the codec's.
    return load_weights(copy.deepcopy(module), path).eval() if path.is_file() else None


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

        save_with(write, self.output_dir / "samples" / f"{case}.npz")

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
            pooled = float(calibration_error(torch.from_numpy(pool_bins(cases, name))))
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
            "calibration": {name: reliability(pool_bins(cases, name)) for name in REGIONS},
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
