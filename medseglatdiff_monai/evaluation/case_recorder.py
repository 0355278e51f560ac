"""Scoring a segmenter against all raters: one row for each case, a summary, and everything needed to score it again.

:class:`CaseRecorder` is the handler that ``evaluate.json`` attaches to MONAI's evaluator; the rows of
:mod:`~medseglatdiff_monai.evaluation.columns` say what is computed. Cases are scored on their native grid or on the
network's (``score_at``), Dice and IoU on the other one too.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from monai.engines.utils import IterationEvents
from monai.networks.utils import eval_mode
from monai.transforms import Invertd, InvertibleTransform
from torch import nn

from ..data.datalist import load_dataset_info
from ..ensemble.inferer import EnsembleInferer, sampling_settings
from ..files import save_with
from ..io.prepared import LoadCased
from ..metrics.masks import mean_mask
from ..networks.codecs import CodecBase, IdentityCodec
from ..networks.weights import load_weights
from ..provenance import provenance
from .arguments import check_scoring
from .codec import rebuild_image, rebuild_masks
from .columns import COLUMNS, why_undefined
from .picture import plot_cases
from .result import ScoredCase, count_cases, entries_of_all, score_case, summarize, write_result
from .scored import ScoredMasks


def load_image_codec(module: CodecBase, weights: str | Path) -> CodecBase | None:
    """Image codec with the weights ``image_codec.pt`` that lie beside ``weights``; ``None`` where there are none."""
    path = Path(weights).with_name("image_codec.pt")
    # A copy: the conditioner shares this module's encoder, which training has moved away from the codec's.
    return load_weights(copy.deepcopy(module), path).eval() if path.is_file() else None


class CaseRecorder:
    """Evaluator handler: scores every case and writes ``metrics.json``, ``cases.csv``, ``cases.png``, maybe samples.

    Args:
        items: datalist items of the evaluated cases; the native masks are read from their ``label``.
        output_dir: where the results go.
        preprocessing: the transforms that made the network's input; inverted to bring samples back.
        network: the segmenter; if it has a ``mask_codec`` that loses anything, its reconstruction is scored.
        inferer: the ensemble inferer; its threshold, confidence and fusion make the consensus on both grids.
        image_codec: codec to compute PSNR and SSIM of, or ``None``.
        score_at: ``"native"`` or ``"network"``: the grid of all metrics and of the saved samples.
        surface_tolerance: distance in pixels of that grid up to which surface Dice takes two outlines as equal.
        save_samples: write ``samples/<case>.npz``.
        record: further entries of the provenance.
        dataset_dir: prepared folder whose ``dataset.json`` may name the raters; ``metrics.json`` then says how each
            agrees with the consensus.
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
        dataset_dir: str | Path | None = None,
    ) -> None:
        check_scoring(score_at, surface_tolerance)
        self.items = {item["case"]: item for item in items}
        self.output_dir = Path(output_dir)
        self.network = network
        self.inferer = inferer
        self.image_codec = image_codec
        self.score_at = score_at
        self.surface_tolerance = surface_tolerance
        self.save_samples = save_samples
        self.record = record or {}
        self.dataset_dir = dataset_dir
        self.cases: list[ScoredCase] = []
        mask_codec: CodecBase | None = getattr(network, "mask_codec", None)
        self.mask_codec = None if isinstance(mask_codec, IdentityCodec) else mask_codec
        self._preprocessing: Any = preprocessing
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
        labels = output["label"].cpu() > 0
        codecs = self._score_codecs(output["image"], output["label"])
        for i, item in enumerate(decollate_batch(engine.state.batch)):
            case = item["case"]
            grids = {
                "network": self._masks(samples[i], labels[i], confidence[i]),
                "native": self._native_masks(case, item["image"], samples[i], confidence[i]),
            }
            found = score_case(case, self.items[case].get("group", ""), grids, self.score_at)
            found.row.update({name: float(values[i]) for name, values in codecs.items()}, seconds=seconds)
            self.cases.append(found)
            if self.save_samples:
                self._save(case, grids[self.score_at])

    def _masks(self, samples: torch.Tensor, raters: torch.Tensor, confidence: torch.Tensor) -> ScoredMasks:
        """Samples (N, H, W) and raters (R, H, W) bool, confidence (1, H, W), as this evaluation fuses them."""
        settings = (self.inferer.threshold, self.inferer.fusion, self.surface_tolerance)
        return ScoredMasks(samples[None], raters[None], confidence[None], *settings)

    def _native_masks(
        self, case: str, image: MetaTensor, samples: torch.Tensor, confidence: torch.Tensor
    ) -> ScoredMasks:
        """Samples (N, h, w) bool and confidence (1, h, w), brought from the network's grid to the image's own."""
        raters = self._load_label({"label": self.items[case]["label"]})["label"].as_tensor() > 0
        samples = self._to_native(samples, image) >= 0.5
        if self.inferer.confidence == "samples":
            confidence = mean_mask(samples[None])[0].float()
        else:
            confidence = self._to_native(confidence, image).clamp(0.0, 1.0)
        return self._masks(samples, raters, confidence)

    def _to_native(self, maps: torch.Tensor, image: MetaTensor) -> torch.Tensor:
        """(N, h, w) on the network's grid → (N, H, W) float32 on the image's own, 0 where the network did not look."""
        return self._invert({"image": image, "maps": MetaTensor(maps.float())})["maps"].as_tensor()

    @torch.no_grad()
    def _score_codecs(self, image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Columns of the codecs, (B,) each: all NaN without a mask codec, no columns without an image codec."""
        rebuilt = {}
        if self.mask_codec is not None:
            rebuilt["mask_codec"] = rebuild_masks(self.mask_codec, label)
        if self.image_codec is not None:
            rebuilt["image_codec"] = rebuild_image(self.image_codec.to(image.device), image)
        scores = {}
        for name, column in COLUMNS.items():
            if column.codec in rebuilt and column.rebuilt is not None:
                scores[name] = column.rebuilt(rebuilt[column.codec])
            elif column.codec == "mask_codec":
                scores[name] = torch.full((len(label),), torch.nan)
        return scores

    def _save(self, case: str, masks: ScoredMasks) -> None:
        arrays: dict[str, Any] = {
            "samples": masks.samples[0].numpy(), "confidence": masks.known_confidence[0, 0].numpy(),
            "consensus": masks.consensus[0, 0].numpy(), "raters": masks.raters[0].numpy(),
        }  # fmt: skip
        save_with(lambda handle: np.savez_compressed(handle, **arrays), self.output_dir / "samples" / f"{case}.npz")

    def _summary(self, cases: Sequence[ScoredCase]) -> dict[str, Any]:
        """Figures of all cases together, see :func:`~medseglatdiff_monai.evaluation.result.summarize`."""
        return {
            **summarize(cases),
            **count_cases(cases),
            "num_samples": self.inferer.num_samples,
            # None for a network that uses no noise and takes no steps.
            "num_inference_steps": self.inferer.num_inference_steps
            or getattr(self.network, "num_inference_steps", None),
            "seconds_per_case": statistics.fmean(case.row["seconds"] for case in cases),
            "score_at": self.score_at,
        }

    def _not_applicable(self, summary: dict[str, Any], num_raters: int) -> dict[str, str]:
        """Why each figure of the summary that is ``None`` is missing; at most ``num_raters`` rated a case."""
        reasons = {}
        for name in (name for name, value in summary.items() if value is None):
            if name == "num_inference_steps":
                reasons[name] = "the network predicts in one pass"
            elif COLUMNS[name].codec == "mask_codec" and self.mask_codec is None:
                reasons[name] = "the network has no mask codec, it works on pixels"
            else:
                reasons[name] = why_undefined(COLUMNS[name], num_raters, self.inferer.num_samples)
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
        summary = self._summary(cases)
        parameter = next(self.network.parameters(), None)
        names = [] if self.dataset_dir is None else load_dataset_info(self.dataset_dir).get("raters", [])
        write_result(
            self.output_dir,
            cases,
            summary,
            self._not_applicable(summary, max(len(case.rater_dice) for case in cases)),
            **entries_of_all(cases, names),
            settings={
                "threshold": self.inferer.threshold,
                "confidence": self.inferer.confidence,
                "fusion": self.inferer.fusion,
                "postprocess": self.inferer.postprocess,
                **sampling_settings(self.inferer, self.network),
                "surface_tolerance": self.surface_tolerance,
            },
            provenance={**self.record, **provenance("cpu" if parameter is None else parameter.device)},
        )
        plot_cases(cases, self._sample_again, self.output_dir / "cases.png", names)
        engine.state.metrics.update({k: v for k, v in summary.items() if isinstance(v, float)})

    def _sample_again(self, case: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Image (C, H, W[, D]), raters (R, H, W[, D]) and samples (N, H, W[, D]) bool on the network's grid.

        Noise belongs to seed and case: the samples are those that were scored. To keep all would take gigabytes.
        """
        parameter = next(self.network.parameters(), None)
        item = self._preprocessing({key: self.items[case][key] for key in ("image", "label", "case")})
        image = item["image"].as_tensor()[None].to("cpu" if parameter is None else parameter.device)
        # MONAI's evaluator has put the network back into the mode that it found.
        with eval_mode(self.network):
            samples, _ = self.inferer.sample(image, self.network, [case])
        return image[0].cpu().numpy(), item["label"].as_tensor().numpy() > 0, samples[0].cpu().numpy()
