"""From the inferer's dictionary under ``pred`` to the masks that MONAI Label, Deploy and savers expect there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from .fusion import fuse_ensemble


class SplitEnsembled(MapTransform):
    """``pred`` = ensemble → ``pred`` = consensus mask, beside it the other entries of the ensemble.

    All become float32 MetaTensors, because ``Invertd`` inverts the image's transforms only on those. Their shape is
    (C, H, W[, D]), with C = 1 or, for ``samples``, N.

    Args:
        keys: key of the ensemble, usually ``"pred"``.
        allow_missing_keys: see MONAI.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split the ensemble under each key of one decollated item."""
        item = dict(data)
        for key in self.key_iterator(item):
            ensemble = item[key]
            item[key] = MetaTensor(ensemble["consensus_mask"].float())
            item |= {name: MetaTensor(ensemble[name].float()) for name in ensemble if name != "consensus_mask"}
        return item


class FuseSamplesd(MapTransform):
    """Samples that were brought back to the image's grid → confidence and consensus there.

    Interpolating the consensus itself would give another mask than `predict`, which interpolates each sample.

    Args:
        keys: key of the consensus that is written, usually ``"pred"``. The item has ``samples`` (N, H, W[, D]), of
            which what reaches 1/2 is foreground, and ``confidence_map`` (1, H, W[, D]).
        threshold: see :class:`~medseglatdiff_monai.ensemble.inferer.SamplingSettings`.
        confidence: likewise.
        fusion: likewise.
    """

    def __init__(
        self, keys: KeysCollection = "pred", threshold: float = 0.5, confidence: str = "samples", fusion: str = "mean"
    ) -> None:
        super().__init__(keys)
        self.threshold, self.confidence, self.fusion = threshold, confidence, fusion

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Fuse one decollated item; ``entropy`` and ``staple_probability`` of the network's grid are dropped."""
        item = {key: value for key, value in data.items() if key not in ("entropy", "staple_probability")}
        samples = item["samples"].as_tensor() >= 0.5
        if self.confidence == "samples":
            share = samples.sum(0, keepdim=True).float() / len(samples)
        else:
            share = item["confidence_map"].as_tensor().clamp(0.0, 1.0)
        fused = fuse_ensemble(samples[None], share[None], self.threshold, self.fusion)["consensus_mask"][0]
        item["samples"], item["confidence_map"] = MetaTensor(samples.float()), MetaTensor(share)
        for key in self.key_iterator(item):
            item[key] = MetaTensor(fused.float())
        return item
