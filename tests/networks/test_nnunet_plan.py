"""nnU-Net's plan against values worked by hand, and against plans that nnU-Net has published."""

from __future__ import annotations

import re

import pytest
import torch

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import PlannedUNet
from medseglatdiff_monai.networks.baselines.nnunet_plan import head_strides, plan_unet, training_spacing


@pytest.mark.parametrize(
    ("side", "pools", "features"),
    [
        # 64 → 32 → 16 → 8 → 4, where 4 < 2 · 4 ends it.
        (64, 4, (32, 64, 128, 256, 512)),
        (128, 5, (32, 64, 128, 256, 512, 512)),
        (256, 6, (32, 64, 128, 256, 512, 512, 512)),
        # 72 → 36 → 18 → 9 → 5 (rounded up).
        (72, 4, (32, 64, 128, 256, 512)),
    ],
)
def test_squares(side: int, pools: int, features: tuple[int, ...]) -> None:
    plan = plan_unet((side, side), (0.7, 0.7))
    assert plan.strides == ((1, 1), *[(2, 2)] * pools)
    assert plan.kernels == ((3, 3),) * (pools + 1)
    assert plan.features == features
    assert plan.divisible_by == (2**pools, 2**pools)


def test_long_side_goes_on_alone() -> None:
    # (96, 40) → (48, 20) → (24, 10) → (12, 5): 12 ≥ 3 · 4 alone → (6, 5).
    assert plan_unet((96, 40), (1, 1)).strides == ((1, 1), (2, 2), (2, 2), (2, 2), (2, 1))
    # (88, 40) → ... → (11, 5): 11 < 12, so the axis is not halved alone.
    assert plan_unet((88, 40), (1, 1)).strides == ((1, 1), (2, 2), (2, 2), (2, 2))


def test_coarse_axis_waits_in_two_dimensions() -> None:
    # Spacing 3:1 → only the fine axis until 3 / 2 < 2; kernels of 1 along the coarse axis until then.
    plan = plan_unet((32, 64), (3.0, 1.0))
    # (32, 64) → (32, 32) → (16, 16) → (8, 8) → (4, 4); spacings (3, 1) (3, 2) (6, 4) (12, 8).
    assert plan.strides == ((1, 1), (1, 2), (2, 2), (2, 2), (2, 2))
    assert plan.kernels == ((1, 3), (3, 3), (3, 3), (3, 3), (3, 3))


def test_published_plan_of_the_prostate_task() -> None:
    """3D full resolution of Task005, patch 20 × 320 × 256, spacing 3.6 × 0.62 × 0.62 (supplement of the paper)."""
    plan = plan_unet((20, 320, 256), (3.6, 0.62, 0.62))
    assert plan.strides[1:] == ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))
    assert plan.kernels == ((1, 3, 3), (1, 3, 3), *[(3, 3, 3)] * 5)
    assert plan.features == (32, 64, 128, 256, 320, 320, 320)
    assert plan.divisible_by == (4, 64, 64)


def test_network_has_the_plan_and_its_heads() -> None:
    torch.manual_seed(0)
    network = PlannedUNet((64, 64), 3, base_features=4)
    assert network.filters == (4, 8, 16, 32, 64)
    image = torch.rand(2, 3, 64, 64)
    output = network.train()(image)
    # 64, 32 and 16: the coarsest of the decoder's four resolutions has weight 0 in nnU-Net.
    assert output.shape == (2, 3, 1, 64, 64)
    for head, stride in zip(output.unbind(1), head_strides((64, 64)), strict=True):
        small = head[..., ::stride, ::stride]
        assert torch.equal(small.repeat_interleave(stride, -1).repeat_interleave(stride, -2), head)
        # No coarser than that: the next stride would lose something.
        coarse = head[..., :: 2 * stride, :: 2 * stride]
        assert not torch.equal(coarse.repeat_interleave(2 * stride, -1).repeat_interleave(2 * stride, -2), head)
    output.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    assert network.eval()(image).shape == (2, 1, 64, 64)


def test_checkpoint_holds_every_tensor_once() -> None:
    network = PlannedUNet((64, 64), 1, base_features=4)
    state = network.state_dict()
    assert len({value.data_ptr() for value in state.values()}) == len(state)
    assert sum(value.numel() for value in state.values()) == sum(weight.numel() for weight in network.parameters())


def test_size_of_the_network_of_64_pixels() -> None:
    """Convolutions of 3 × 3 without bias, two a stage and decoder level, with affine instance norm."""
    features, count = (32, 64, 128, 256, 512), 0
    before = 1
    for width in features:
        count += 9 * before * width + 9 * width * width + 4 * width
        before = width
    for wide, narrow in zip(features[:0:-1], features[-2::-1], strict=True):
        count += 4 * wide * narrow + 9 * 2 * narrow * narrow + 9 * narrow * narrow + 4 * narrow
    # Three heads of 1 × 1 with bias: 32, 64 and 128 channels.
    count += 33 + 65 + 129
    assert sum(weight.numel() for weight in PlannedUNet((64, 64), 1).parameters()) == count


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        # Halved four times; 64 and 80 are as near.
        ((72, 72), [80, 80]),
        # Five times: 32 · 3.75.
        ((120, 120), [128, 128]),
        # (36, 9) → (18, 5) → (9, 5): multiples of 4 and 2; 8 and 10 are as near.
        ((36, 9), [36, 10]),
    ],
)
def test_sizes_that_do_not_divide_name_the_nearest(size: tuple[int, int], nearest: list[int]) -> None:
    with pytest.raises(InputError, match=re.escape(f"Set it to {nearest}.")):
        PlannedUNet(size, 1, base_features=2)
    network = PlannedUNet(nearest, 1, base_features=2).eval()
    assert network(torch.zeros(1, 1, *nearest)).shape == (1, 1, *nearest)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        plan_unet((8, 8), (1, 1))
    with pytest.raises(InputError, match="2 or 3 positive numbers"):
        plan_unet((64, 64), (1, 0))
    with pytest.raises(InputError, match="square pixels"):
        head_strides((32, 64), (3.0, 1.0))


def test_spacing_of_a_data_set_is_the_median_of_the_known() -> None:
    items = [{"spacing_mm": [0.5, 0.6]}, {"spacing_mm": None}, {}, {"spacing_mm": [0.7, 0.6]}, {"spacing_mm": [0.9, 2]}]
    assert training_spacing(items) == [0.7, 0.6]
    assert training_spacing([{}, {"spacing_mm": None}]) is None
    with pytest.raises(InputError, match="expected 3 numbers"):
        training_spacing(items, dims=3)
