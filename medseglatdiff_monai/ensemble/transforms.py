"""From the inferer's dictionary under ``pred`` to the mask that MONAI Label, Deploy and ``SaveImaged`` expect there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys

__all__ = ["SplitEnsembled", "mark_single_channel"]


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


def mark_single_channel(mask: MetaTensor) -> MetaTensor:
    """``mask`` (1, H, W[, D]) without its image's record of colour channels, for ``Invertd``'s ``post_func``.

    MONAI 1.6 derives a tensor's spatial dimensions from that record and would not save the mask of an RGB image.
    """
    mask.meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = float("nan")
    return mask
