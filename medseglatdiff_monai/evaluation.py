"""Scoring a bundle against all readers: one row a case, a summary, and everything needed to score it again.

:class:`CaseRecorder` is the handler that ``evaluate.json`` attaches to MONAI's evaluator; :func:`evaluate` is the
command. Cases are scored on their native grid or on the network's (``score_at``), Dice and IoU on the other one too.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch
from monai.engines.utils import IterationEvents
from monai.metrics import PSNRMetric, SSIMMetric
from monai.transforms import Invertd
from torch import nn

from .bundle import inference_config
from .checkpoints import load_weights, save_bytes, weights_sha256
from .data.transforms import LoadCased
from .errors import InputError, unwrapped_errors
from .metrics import dice_score, fuse_masks, generalized_energy_distance, hungarian_matched_iou, iou_score
from .networks import LatentDiffusionSegmenter

__all__ = ["CaseRecorder", "evaluate", "load_image_codec", "provenance"]

RESULT_VERSION = 1


def load_image_codec(module: nn.Module, weights: str | Path) -> nn.Module | None:
    """Image codec with the weights ``image_codec.pt`` that lie beside ``weights``; ``None`` where there are none."""
    path = Path(weights).with_name("image_codec.pt")
    # A copy: the conditioner shares this module's encoder, which training has moved away from the codec's.
    return load_weights(copy.deepcopy(module), path).eval() if path.is_file() else None


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions and hardware that a result was made with."""
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
    }


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
        network: composite network, for the mask codec's figures.
        image_codec: codec whose PSNR and SSIM are wanted, or ``None``.
        inferer: the ensemble inferer, for the record.
        score_at: ``"native"`` or ``"network"``: the grid of all metrics and of the saved samples.
        threshold: confidence from which a pixel belongs to the consensus.
        save_samples: write ``samples/<case>.npz``.
        record: further entries of the provenance.
    """

    def __init__(
        self,
        items: Sequence[dict],
        output_dir: str | Path,
        preprocessing: Callable,
        network: LatentDiffusionSegmenter,
        image_codec: nn.Module | None = None,
        inferer: Any = None,
        score_at: str = "native",
        threshold: float = 0.5,
        save_samples: bool = False,
        record: dict[str, Any] | None = None,
    ) -> None:
        if score_at not in ("native", "network"):
            raise InputError(f"score_at must be 'native' or 'network', found {score_at!r}.")
        self.items = {item["case"]: item for item in items}
        self.output_dir = Path(output_dir)
        self.network = network
        self.image_codec = image_codec
        self.inferer = inferer
        self.score_at = score_at
        self.threshold = threshold
        self.save_samples = save_samples
        self.record = record or {}
        self.rows: list[dict[str, Any]] = []
        self._load_label = LoadCased(keys=["label"])
        # Samples go back by linear interpolation and a threshold at 1/2, smoother than the nearest neighbour.
        self._invert = Invertd("samples", preprocessing, orig_keys="image", nearest_interp=False, to_tensor=True)
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_clock)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._score_batch)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start_clock(self, engine: Engine) -> None:
        self._started = time.perf_counter()

    def _score_batch(self, engine: Engine) -> None:
        output = engine.state.output
        samples = output["pred"]["samples"].cpu()
        seconds = (time.perf_counter() - self._started) / len(samples)
        labels = output["label"].cpu()
        codec = self._score_codecs(output["image"], output["label"])
        for i, item in enumerate(decollate_batch(engine.state.batch)):
            case = item["case"]
            native_samples = self._to_native(samples[i], item["image"])
            native_label = self._load_label({"label": self.items[case]["label"]})["label"].as_tensor() > 0
            grids = {"native": (native_samples, native_label), "network": (samples[i], labels[i] > 0)}
            row = {"case": case, "group": self.items[case].get("group", "")}
            row.update(self._score(*grids[self.score_at]))
            other = "network" if self.score_at == "native" else "native"
            overlap = self._overlap(*grids[other])
            row.update({f"dice_{other}": overlap["dice_all"], f"iou_{other}": overlap["iou_all"]})
            row.update({name: float(values[i]) for name, values in codec.items()})
            row["seconds"] = seconds
            self.rows.append(row)
            if self.save_samples:
                self._save(case, *grids[self.score_at])

    def _to_native(self, samples: torch.Tensor, image: MetaTensor) -> torch.Tensor:
        data = {"image": image, "samples": MetaTensor(samples.float())}
        return self._invert(data)["samples"].as_tensor() >= 0.5

    def _overlap(self, samples: torch.Tensor, raters: torch.Tensor) -> dict[str, float]:
        consensus = samples.float().mean(0, keepdim=True)[None] >= self.threshold - 1e-6
        reference = fuse_masks(raters[None])
        return {
            "dice_all": float(dice_score(consensus, reference)),
            "iou_all": float(iou_score(consensus, reference)),
            "consensus_empty": not bool(reference.any()),
        }

    def _score(self, samples: torch.Tensor, raters: torch.Tensor) -> dict[str, Any]:
        """All metrics of samples (N, H, W) bool against raters (R, H, W) bool."""
        overlap = self._overlap(samples, raters)
        empty = overlap.pop("consensus_empty")
        return {
            "ged_v": float(generalized_energy_distance(samples[None], raters[None])),
            "ged_u": float(generalized_energy_distance(samples[None], raters[None], unbiased=True)),
            "hm_iou": float(hungarian_matched_iou(samples[None], raters[None])),
            "dice": math.nan if empty else overlap["dice_all"],
            "iou": math.nan if empty else overlap["iou_all"],
            **overlap,
            "samples_nonempty": float(samples.flatten(1).any(1).float().mean()),
            "raters_nonempty": float(raters.flatten(1).any(1).float().mean()),
        }

    @torch.no_grad()
    def _score_codecs(self, image: torch.Tensor, label: torch.Tensor) -> dict[str, torch.Tensor]:
        """Per case: Dice of reconstructed non-empty masks, GED of reconstructed readers, PSNR and SSIM of the image."""
        codec = self.network.mask_codec
        masks = label.float().flatten(0, 1)[:, None]
        rebuilt = (codec.decode(codec.encode(masks)) > 0).squeeze(1).unflatten(0, label.shape[:2])
        scores = {
            "codec_mask_dice": dice_score(rebuilt, label > 0, ignore_empty=True).nanmean(1),
            "codec_mask_ged": generalized_energy_distance(rebuilt, label > 0),
        }
        if self.image_codec is not None:
            rebuilt_image = self.image_codec.to(image.device).reconstruct(image).clamp(0.0, 1.0)
            scores["codec_image_psnr"] = PSNRMetric(max_val=1.0)(rebuilt_image, image).flatten()
            scores["codec_image_ssim"] = SSIMMetric(spatial_dims=2, data_range=1.0)(rebuilt_image, image).flatten()
        return scores

    def _save(self, case: str, samples: torch.Tensor, raters: torch.Tensor) -> None:
        confidence = samples.float().mean(0).numpy()

        def write(handle) -> None:
            np.savez_compressed(
                handle, samples=samples.numpy(), confidence=confidence,
                consensus=confidence >= self.threshold - 1e-6, raters=raters.numpy(),
            )  # fmt: skip

        save_bytes(write, self.output_dir / "samples" / f"{case}.npz")

    def summary(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Means over the cases for which a metric is defined; ``None`` where it is for none."""
        names = [name for name in rows[0] if name not in ("case", "group", "seconds")]
        means: dict[str, Any] = {}
        for name in names:
            values = [row[name] for row in rows if math.isfinite(row[name])]
            means[name] = statistics.fmean(values) if values else None
        return {
            **means,
            "num_cases": len(rows),
            "num_nonempty_consensus": sum(math.isfinite(row["dice"]) for row in rows),
            "num_samples": self.inferer.num_samples,
            "num_inference_steps": self.inferer.num_inference_steps or self.network.num_inference_steps,
            "seconds_per_case": statistics.fmean(row["seconds"] for row in rows),
            "score_at": self.score_at,
        }

    def _write(self, engine: Engine) -> None:
        rows = self.rows
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, rows)
            # Ranks hold interleaved cases; a padded sampler may repeat one, but a case counts once.
            rows = list({row["case"]: row for part in gathered for row in part}.values())
            if dist.get_rank() != 0:
                return
        order = {case: i for i, case in enumerate(self.items)}
        rows = sorted(rows, key=lambda row: order[row["case"]])
        device = next(self.network.parameters()).device
        result = {
            "version": RESULT_VERSION,
            "summary": self.summary(rows),
            "provenance": {**self.record, **provenance(device)},
        }

        def write_rows(handle) -> None:
            import io

            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
            handle.write(text.getvalue().encode())

        save_bytes(write_rows, self.output_dir / "cases.csv")
        save_bytes(lambda handle: handle.write(_to_json(result).encode()), self.output_dir / "metrics.json")
        engine.state.metrics.update({k: v for k, v in result["summary"].items() if isinstance(v, float)})


def _to_json(result: dict) -> str:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(entry) for key, entry in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(clean(result), indent=2, allow_nan=False) + "\n"


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
        overrides: configuration keys.

    Raises:
        InputError: see :func:`~medseglatdiff_monai.bundle.inference_config` and
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
        "experiment": None if experiment is None else Path(experiment).stem,
        "dataset": Path(dataset_dir).name,
        "split": split,
        "seed": seed,
        "max_cases": max_cases,
        "weights_sha256": weights_sha256(path),
    }
    with unwrapped_errors():
        parser.get_parsed_content("evaluator").run()
    return json.loads((Path(output_dir) / "metrics.json").read_text())
