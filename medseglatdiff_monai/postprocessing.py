"""MONAI transform that turns the ensemble inferer's dictionary into the keys that MONAI's tools expect.

MONAI Label, Deploy and ``SaveImaged`` take a mask under ``pred``; the inferer returns a dictionary there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SplitEnsembled"]


class SplitEnsembled(MapTransform):
    """``pred`` = ensemble → ``pred`` = consensus mask, beside it ``confidence_map``, ``samples`` and ``entropy``.

    All become float32 tensors of shape (C, H, W[, D]), C = 1 or, for ``samples``, N.

    Args:
        keys: key of the ensemble, usually ``"pred"``.
        allow_missing_keys: see MONAI.
    """

    def __init__(self, keys: KeysCollection = "pred", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Split the ensemble under each key of one decollated item."""
        item = dict(data)
        for key in self.key_iterator(item):
            ensemble = item[key]
            item[key] = ensemble["consensus_mask"].float()
            for name in ("confidence_map", "samples", "entropy"):
                item[name] = ensemble[name].float()
        return item
