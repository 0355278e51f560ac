"""MONAI transform from the ensemble inferer's dictionary to the keys that MONAI's tools expect.

MONAI Label, Deploy and ``SaveImaged`` take a mask under ``pred``; the inferer returns a dictionary there.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

__all__ = ["SplitEnsembled", "mark_single_channel"]


class SplitEnsembled(MapTransform):
    """``pred`` = ensemble → ``pred`` = consensus mask, beside it ``confidence_map``, ``samples`` and ``entropy``.

    Fusion by STAPLE adds ``staple_probability``.

    All become float32 MetaTensors, because ``Invertd`` inverts the image's transforms only on those. Their shape is
    (C, H, W[, D]), with C = 1 or, for ``samples``, N.

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
            item[key] = MetaTensor(ensemble["consensus_mask"].float())
            for name in {"confidence_map", "samples", "entropy", "staple_probability"} & ensemble.keys():
                item[name] = MetaTensor(ensemble[name].float())
        return item


def mark_single_channel(mask: MetaTensor) -> MetaTensor:
    """``mask`` (1, H, W[, D]) without its image's record of colour channels, for ``Invertd``'s ``post_func``.

    MONAI 1.6 derives a tensor's spatial dimensions from that record and would not save the mask of an RGB image.
    """
    mask.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan")
    return mask
