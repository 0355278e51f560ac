"""nnU-Net's network, planned from spacing and size by its published rules.

Isensee et al., Nature Methods 18, 203 (2021), supplementary note 2, and nnU-Net v2's default planner: axes are halved
while at least 4 pixels remain, the coarser ones only once the finer ones have come within a factor of 2 of their
spacing; kernels are 3 along axes within that factor and 1 along others; features start at 32, double with each stage
and stop at 512 (2D) or 320 (3D). Patch size and batch size are not planned here: the network sees whole images at the
bundle's size, and the batch size is the bundle's.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from monai.networks.nets import DynUNet

from ...errors import InputError

# Shortest side of a feature map, and how far a spacing may be from the finest one to be treated like it.
MIN_SIDE = 4
ANISOTROPY = 2.0
BASE_FEATURES = 32
MAX_FEATURES = {2: 512, 3: 320}


@dataclass(frozen=True)
class UNetPlan:
    """Topology of a U-Net, one entry per stage, the finest first.

    Attributes:
        strides: how much each stage reduces each axis; 1 throughout in the first.
        kernels: kernel sides along each axis.
        features: channels.
        divisible_by: sides of the image must be multiples of these.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    divisible_by: tuple[int, ...]

    @property
    def num_supervised(self) -> int:
        """Resolutions that the loss compares: all of the decoder's but the coarsest, whose weight is 0 in nnU-Net."""
        return max(1, len(self.strides) - 2)


def plan_unet(
    image_size: Sequence[int], spacing: Sequence[float] | None, base_features: int = BASE_FEATURES
) -> UNetPlan:
    """Plan a U-Net.

    Args:
        image_size: sides in pixels, e.g. (64, 64).
        spacing: pixel spacing along the same axes, in any unit: only the ratios count. ``None``: square pixels.
        base_features: channels of the first stage; nnU-Net's is 32.

    Raises:
        InputError: sizes and spacings of different length, not positive, or an image too small for three stages.
    """
    spacing = [1.0] * len(image_size) if spacing is None else spacing
    sides, steps = [float(side) for side in image_size], [float(step) for step in spacing]
    if len(sides) != len(steps) or len(sides) not in (2, 3) or min(sides) < 1 or min(steps) <= 0:
        raise InputError(
            f"image_size and spacing must be 2 or 3 positive numbers each, found {list(image_size)} and "
            f"{list(spacing)}."
        )
    axes = range(len(sides))
    kernel = [1] * len(sides)
    strides, kernels = [(1,) * len(sides)], []
    while True:
        large = [axis for axis in axes if sides[axis] >= 2 * MIN_SIDE]
        finest = min((steps[axis] for axis in large), default=0.0)
        halved = [axis for axis in large if steps[axis] / finest < ANISOTROPY]
        # An axis is not reduced to the minimum on its own.
        if not halved or (len(halved) == 1 and sides[halved[0]] < 3 * MIN_SIDE):
            break
        # Once an axis has a kernel of 3 it keeps it.
        kernel = [3 if kernel[axis] == 3 or steps[axis] / min(steps) < ANISOTROPY else 1 for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in axes))
        for axis in halved:
            sides[axis] = math.ceil(sides[axis] / 2)
            steps[axis] *= 2
    kernels.append((3,) * len(sides))
    if len(strides) < 3:
        raise InputError(
            f"An image of {list(image_size)} is too small for nnU-Net's rules: they give {len(strides)} stages, and at "
            "least 3 are needed. Enlarge image_size to 16 or more."
        )
    features = tuple(min(base_features * 2**stage, MAX_FEATURES[len(sides)]) for stage in range(len(strides)))
    divisible_by = tuple(math.prod(stride[axis] for stride in strides) for axis in axes)
    return UNetPlan(tuple(strides), tuple(kernels), features, divisible_by)


def _divides(plan: UNetPlan, image_size: Sequence[int]) -> bool:
    return all(side % factor == 0 for side, factor in zip(image_size, plan.divisible_by, strict=True))


def _nearest_size(image_size: Sequence[int], spacing: Sequence[float] | None) -> list[int]:
    """The size nearest to ``image_size`` that its own plan divides; of two equally near ones, the larger."""
    plan = plan_unet(image_size, spacing)
    size = [
        max(1, int(side / factor + 0.5)) * factor for side, factor in zip(image_size, plan.divisible_by, strict=True)
    ]
    # Another size may have another plan. Rounding up ends at a power of 2 at the latest.
    while not _divides(plan := plan_unet(size, spacing), size):
        size = [math.ceil(side / factor) * factor for side, factor in zip(size, plan.divisible_by, strict=True)]
    return size


def head_strides(image_size: Sequence[int], spacing_mm: Sequence[float] | None = None) -> list[int]:
    """Stride of each resolution that :class:`PlannedUNet` supervises, for the loss, e.g. [1, 2, 4] for 64 × 64.

    Raises:
        InputError: an anisotropic plan, whose heads have different strides along the axes.
    """
    plan = plan_unet(image_size, spacing_mm)
    heads = [1]
    for stride in plan.strides[1 : plan.num_supervised]:
        if len(set(stride)) > 1:
            raise InputError(
                f"Spacing {spacing_mm} of an image of {list(image_size)} gives strides {stride}, and deep supervision "
                "needs the same stride along all axes: resample the images to square pixels."
            )
        heads.append(heads[-1] * stride[0])
    return heads


class PlannedUNet(DynUNet):
    """MONAI's DynUNet with the topology of :func:`plan_unet` and deep supervision.

    In training it returns the logits of all supervised resolutions, (B, K, 1, H, W[, D]), the coarser ones enlarged by
    repetition; else (B, 1, H, W[, D]).

    Args:
        image_size: sides in pixels.
        in_channels: channels of the image.
        spacing_mm: pixel spacing; ``None`` means square pixels.
        base_features: channels of the first stage.

    Raises:
        InputError: a side that the plan's strides do not divide; the message names the nearest size. See also
            :func:`plan_unet`.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int,
        spacing_mm: Sequence[float] | None = None,
        base_features: int = BASE_FEATURES,
    ) -> None:
        plan = plan_unet(image_size, spacing_mm, base_features)
        if not _divides(plan, image_size):
            raise InputError(
                f"image_size {list(image_size)} is not a multiple of {list(plan.divisible_by)}, by which nnU-Net's "
                f"plan reduces it. Set it to {_nearest_size(image_size, spacing_mm)}."
            )
        super().__init__(
            spatial_dims=len(image_size), in_channels=in_channels, out_channels=1, kernel_size=plan.kernels,
            strides=plan.strides, upsample_kernel_size=plan.strides[1:], filters=plan.features,
            deep_supervision=plan.num_supervised > 1, deep_supr_num=max(1, plan.num_supervised - 1),
        )  # fmt: skip
        # DynUNet holds its blocks twice, here and in its chain of skip layers: checkpoints would have every tensor
        # twice. The forward pass takes the chain.
        for name in ("input_block", "downsamples", "bottleneck", "upsamples", "deep_supervision_heads"):
            if name in self._modules:
                delattr(self, name)


def training_spacing(items: Sequence[dict], dims: int = 2) -> list[float] | None:
    """Median spacing along each axis over the items of a datalist that have a ``spacing_mm``; ``None`` if none has.

    Raises:
        InputError: an item's spacing has another number of axes than ``dims``.
    """
    known = [item["spacing_mm"] for item in items if item.get("spacing_mm")]
    wrong = [spacing for spacing in known if len(spacing) != dims]
    if wrong:
        raise InputError(f"dataset.json has a spacing_mm of {wrong[0]}, expected {dims} numbers.")
    return [float(statistics.median(spacing[axis] for spacing in known)) for axis in range(dims)] if known else None
