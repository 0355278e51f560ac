"""Losses against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseglatdiff_monai.losses import CodecLoss, DenoisingLoss, automatic_positive_weight, weighted_cross_entropy

LOGITS = torch.tensor([0.0, math.log(3.0)]).view(1, 1, 1, 2)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        # sigmoid(0) = 1/2, sigmoid(log 3) = 3/4; foreground weighs 5.
        ([1.0, 0.0], (5 * math.log(2) + math.log(4)) / 2),
        ([0.0, 1.0], (math.log(2) + 5 * math.log(4 / 3)) / 2),
        ([0.0, 0.0], (math.log(2) + math.log(4)) / 2),
    ],
)
def test_weighted_cross_entropy(target: list[float], expected: float) -> None:
    loss = weighted_cross_entropy(LOGITS, torch.tensor(target).view(1, 1, 1, 2), 5.0)
    assert float(loss) == pytest.approx(expected)


def test_optimum_of_the_weighted_loss_is_moved_by_log_w() -> None:
    """Half of the targets are foreground, and the best logit is log w: what the decoder's correction undoes."""
    target = torch.tensor([0.0, 1.0])
    grid = torch.linspace(-1, 4, 501)
    losses = [float(weighted_cross_entropy(logit.expand(2), target, 7.0)) for logit in grid]
    assert float(grid[losses.index(min(losses))]) == pytest.approx(math.log(7), abs=0.006)


@pytest.mark.parametrize(
    ("pixels", "foreground", "expected"),
    [(100, 20, 2.0), (100, 1, math.sqrt(99)), (100_001, 1, 50.0), (100, 90, 1.0), (100, 0, 50.0)],
)
def test_automatic_positive_weight(pixels: int, foreground: int, expected: float) -> None:
    masks = (torch.arange(pixels) < foreground).float()
    assert automatic_positive_weight(masks) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reconstruction", "expected"),
    [
        ("mse", (0 - 1) ** 2 / 2 + math.log(3) ** 2 / 2),
        ("mask_mse", (0.5**2 + 0.75**2) / 2),
        ("wce", (5 * math.log(2) + math.log(4)) / 2),
    ],
)
def test_codec_loss_is_scaled_reconstruction_plus_quantizer(reconstruction: str, expected: float) -> None:
    output = {"reconstruction": LOGITS, "quantizer_loss": torch.tensor(0.25)}
    loss = CodecLoss(reconstruction, positive_weight=5.0, scale=10.0)(output, torch.tensor([1.0, 0.0]).view(1, 1, 1, 2))
    assert float(loss) == pytest.approx(10 * expected + 0.25)


def test_unknown_reconstruction_is_refused() -> None:
    with pytest.raises(ValueError, match="'dice'"):
        CodecLoss("dice")


def test_denoising_loss_weighs_each_draw() -> None:
    output = {
        "prediction": torch.tensor([[1.0, 3.0], [0.0, 2.0]])[..., None, None],
        "target": torch.tensor([[0.0, 1.0], [0.0, 0.0]])[..., None, None],
        "weight": torch.tensor([2.0, 0.5]),
    }
    # Means over each draw: (1 + 4) / 2 and (0 + 4) / 2.
    assert float(DenoisingLoss()(output)) == pytest.approx((2.0 * 2.5 + 0.5 * 2.0) / 2)
