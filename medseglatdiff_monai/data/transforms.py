"""MONAI dictionary transforms for images with the masks of several raters.

Images are (C, H, W), raters' masks (R, H, W) with one slot per rater; a rater who marked nothing is an all-zero slot.
Each transform has an array form and, with a trailing ``d``, a dictionary form, and works in any MONAI ``Compose``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.config.type_definitions import NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCropd, Compose, MapTransform, RandomizableTransform, SpatialPadd, Transform
from monai.utils import convert_to_dst_type, convert_to_tensor

from ..errors import InputError
from ..metrics.masks import check_fusion, fuse_masks


class WindowHU(Transform):
    """Clip CT values to a window in Hounsfield units.

    Args:
        lower: lower bound in HU.
        upper: upper bound in HU, above `lower`.
    """

    def __init__(self, lower: float, upper: float) -> None:
        if not lower < upper:
            raise InputError(f"WindowHU: lower {lower} is not below upper {upper}; give a window like -1000, 400.")
        self.lower, self.upper = float(lower), float(upper)

    def __call__(self, image: NdarrayOrTensor) -> torch.Tensor:
        """Clip `image`, (C, H, W[, D]) in HU, to [lower, upper]; keeps its type and metadata."""
        return torch.clamp(convert_to_tensor(image, track_meta=isinstance(image, MetaTensor)), self.lower, self.upper)


# Share of the values that may be outliers at one end, and of the range that outliers take up at least.
OUTLIERS, OUTLIER_SPAN = 0.001, 0.55


class NormalizeCrop(Transform):
    """Min-max of the crop itself, quantised to 8 bits and divided by 255: the grey scale of the public LIDC crops.

    x -> floor(255 (x - min x) / (max x - min x) + 1/2) / 255. An 8-bit crop that runs from 0 to 255 becomes x / 255.

    A few voxels of metal, or of a value that stands for "outside", would leave the tissue a few grey values: where the
    last thousandth of the values takes more than 55% of the range, at either end, it is clipped. That is so in none of
    the 12,041 public LIDC crops.
    """

    def __call__(self, image: NdarrayOrTensor) -> torch.Tensor:
        """Normalise the crop.

        Args:
            image: (C, H, W[, D]), HU or any other finite grey values.

        Returns:
            The same shape, float32 in {0, 1/255, …, 1}; all 0 for a constant crop.

        Raises:
            InputError: the crop holds values that are not finite.
        """
        crop = convert_to_tensor(image, track_meta=isinstance(image, MetaTensor))
        # In double precision, so that the rounding to 8 bits does not depend on the input's type.
        values = crop.to(torch.float64)
        low, high = values.amin().item(), values.amax().item()
        few = int(values.numel() * OUTLIERS)
        if few:
            ordered = values.flatten().sort().values
            span = high - low
            if ordered[few].item() - low > OUTLIER_SPAN * span:
                low = ordered[few].item()
            if high - ordered[-few - 1].item() > OUTLIER_SPAN * span:
                high = ordered[-few - 1].item()
            values = values.clamp(low, high)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise InputError("NormalizeCrop: the crop holds values that are not finite; fix the image.")
        if high == low:
            return torch.zeros_like(crop, dtype=torch.float32)
        # Halves go up, as in the public crops; torch.round would send them to the even neighbour.
        return (torch.floor((values - low) * (255.0 / (high - low)) + 0.5) / 255.0).to(torch.float32)


class RaterConsensus(Transform):
    """The raters' consensus: foreground where the share of slots that say so reaches a level.

    Absent raters count as slots that say background. With four raters and level 0.5: two of them, or three where ties
    are background.

    Args:
        level: share of the slots, see :func:`~medseglatdiff_monai.metrics.fuse_masks`.
        tie: what a share of exactly `level` is, "foreground" or "background".
    """

    def __init__(self, level: float = 0.5, tie: str = "foreground") -> None:
        check_fusion(level, tie)
        self.level, self.tie = level, tie

    def __call__(self, masks: NdarrayOrTensor) -> torch.Tensor:
        """Fuse `masks`, (R, H, W[, D]), foreground where > 0, to (1, H, W[, D]) of the same type in {0, 1}."""
        stack = convert_to_tensor(masks, track_meta=isinstance(masks, MetaTensor))
        return convert_to_dst_type(fuse_masks((stack > 0)[None], self.level, self.tie)[0], stack)[0]


class RandomRater(RandomizableTransform):
    """Pick one rater's mask at random, empty slots included: whether there is a nodule is for a rater to say."""

    def __init__(self) -> None:
        super().__init__(prob=1.0, do_transform=True)
        self._slot = 0

    def randomize(self, num_raters: int) -> None:
        """Choose the slot, uniformly from `num_raters`."""
        super().randomize(None)
        self._slot = int(self.R.randint(num_raters))

    def __call__(self, masks: NdarrayOrTensor, randomize: bool = True) -> torch.Tensor:
        """Pick of `masks`, (R, H, W[, D]), one slot, (1, H, W[, D]); `randomize=False` picks the last one again.

        Raises:
            InputError: there is no such slot (no mask at all, or fewer than when the slot was chosen).
        """
        stack = convert_to_tensor(masks, track_meta=isinstance(masks, MetaTensor))
        if stack.shape[0] == 0:
            raise InputError("RandomRater: no mask to pick from; expected (R, H, W) with at least one rater.")
        if randomize:
            self.randomize(stack.shape[0])
        if self._slot >= stack.shape[0]:
            raise InputError(f"RandomRater: rater {self._slot} was chosen, but there are only {stack.shape[0]} masks.")
        return stack[self._slot : self._slot + 1]


class _OverKeys(MapTransform):
    def __init__(self, keys: KeysCollection, of_array: Transform, allow_missing_keys: bool) -> None:
        super().__init__(keys, allow_missing_keys)
        self.of_array = of_array

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the array form to each key."""
        changed = dict(data)
        for key in self.key_iterator(changed):
            changed[key] = self.of_array(changed[key])
        return changed


class WindowHUd(_OverKeys):
    """Dictionary form of `WindowHU`."""

    def __init__(self, keys: KeysCollection, lower: float, upper: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, WindowHU(lower, upper), allow_missing_keys)


class NormalizeCropd(_OverKeys):
    """Dictionary form of `NormalizeCrop`."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, NormalizeCrop(), allow_missing_keys)


class PadWithMinimumd(SpatialPadd):
    """Pad images to at least ``spatial_size`` with their own minimum, which `NormalizeCrop` makes 0."""

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:
        """Pad the images."""
        padded = dict(data)
        for key in self.key_iterator(padded):
            padded[key] = self.padder(padded[key], value=float(padded[key].min()))
        return padded


def without_window(preprocessing: Compose) -> Compose:
    """Preprocessing without its last step, which cuts the window out of a crop: training cuts it after augmentation.

    Raises:
        InputError: the last step is not a ``CenterSpatialCropd``.
    """
    *steps, last = preprocessing.transforms
    if not isinstance(last, CenterSpatialCropd):
        raise InputError(
            f"The last step of preprocessing_transforms is {type(last).__name__}; expected CenterSpatialCropd, in "
            'whose place the augmentation cuts its window. Set training_preprocessing to "@preprocessing", and an '
            "augmentation without window."
        )
    return Compose(steps)


class RaterConsensusd(_OverKeys):
    """Dictionary form of `RaterConsensus`."""

    def __init__(
        self, keys: KeysCollection, level: float = 0.5, tie: str = "foreground", allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, RaterConsensus(level, tie), allow_missing_keys)


class RandomRaterd(RandomizableTransform, MapTransform):
    """Dictionary form of `RandomRater`; all keys get the same slot."""

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob=1.0, do_transform=True)
        self.pick = RandomRater()

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandomRaterd:
        """Seed this transform and the array form it uses."""
        super().set_random_state(seed, state)
        self.pick.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Pick one rater's mask."""
        picked = dict(data)
        for number, key in enumerate(self.key_iterator(picked)):
            picked[key] = self.pick(picked[key], randomize=number == 0)
        return picked
