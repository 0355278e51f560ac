from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import distances, pairwise_iou, pairwise_iou_distance

ROWS = torch.tensor(  # one case of 2 x 2 pixels: full, top row, left column, empty
    [[[[1, 1], [1, 1]], [[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]], dtype=torch.uint8
)


def test_hand_worked_values():
    expected = [[0, 1 / 2, 1 / 2, 1], [1 / 2, 0, 2 / 3, 1], [1 / 2, 2 / 3, 0, 1], [1, 1, 1, 0]]
    distance = pairwise_iou_distance(ROWS, ROWS)
    assert distance.dtype == torch.float64
    torch.testing.assert_close(distance, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(20))
def test_equals_a_loop_over_pairs(seed, random_case, loop_iou):
    a, b = random_case(seed)
    expected = [[[loop_iou(x, y) for y in case_b] for x in case_a] for case_a, case_b in zip(a, b, strict=True)]
    np.testing.assert_allclose(pairwise_iou(a, b).numpy(), expected, rtol=0, atol=1e-12)


def test_blocks_of_pixels_change_nothing(monkeypatch, random_case):
    a, b = random_case(3)
    whole = pairwise_iou(a, b)
    monkeypatch.setattr(distances, "PIXELS_PER_BLOCK", 4)
    assert torch.equal(pairwise_iou(a, b), whole)


def test_one_pixel_counts_beyond_float32():
    size = 2**24 + 3
    a = torch.ones((1, 1, 1, size), dtype=torch.bool)
    b = a.clone()
    b[..., 0] = False
    assert pairwise_iou_distance(a, b).item() == pytest.approx(1 / size, rel=1e-6)


def test_autocast_does_not_round_the_counts():
    a = torch.ones((1, 1, 101, 103), dtype=torch.bool)
    b = a.clone()
    b[..., 0, 0] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert pairwise_iou(a, b).item() == pytest.approx(10402 / 10403, rel=1e-12)


@pytest.mark.parametrize("convert", [torch.Tensor.bool, torch.Tensor.float, torch.Tensor.numpy, MetaTensor])
def test_every_kind_of_array_gives_a_plain_tensor(convert):
    distance = pairwise_iou_distance(convert(ROWS), ROWS)
    assert type(distance) is torch.Tensor
    assert torch.equal(distance, pairwise_iou_distance(ROWS, ROWS))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu(random_case):
    a, b = (torch.as_tensor(x) for x in random_case(1))
    on_gpu = pairwise_iou(a.cuda(), b)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), pairwise_iou(a, b))


@pytest.mark.parametrize(
    ("a", "match"),
    [
        (ROWS[0], r"a: found shape \(4, 2, 2\), expected \(B, N, H, W\)"),
        (ROWS[:, :0], r"a: found shape \(1, 0, 2, 2\), expected at least one mask"),
        (ROWS[..., :0], "at least one mask of one pixel"),
        (ROWS * 255, "a: found the value 255, expected only 0 and 1"),
        (ROWS * 0.5, "a: found the value 0.5"),
        (ROWS * torch.nan, "a: found the value nan"),
        (ROWS.tolist(), "a: found list"),
    ],
)
def test_bad_masks_are_named(a, match):
    with pytest.raises(InputError, match=match):
        pairwise_iou_distance(a, ROWS)


@pytest.mark.parametrize("b", [ROWS[..., :1], ROWS.repeat(2, 1, 1, 1), ROWS[..., None]])
def test_sizes_that_differ_are_named(b):
    with pytest.raises(InputError, match=r"b: found shape .* beside a \(1, 4, 2, 2\)"):
        pairwise_iou_distance(ROWS, b)
