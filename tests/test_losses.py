"""Losses against values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from medseglatdiff_monai.networks import VQVAECodec
from medseglatdiff_monai.training.losses import (
    CodecLoss,
    DenoisingLoss,
    automatic_positive_weight,
    settle_positive_weight,
    weighted_cross_entropy,
)

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
    assert automatic_positive_weight([masks]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("reconstruction", "expected"),
    [
        ("mse", (0 - 1) ** 2 / 2 + math.log(3) ** 2 / 2),
        ("mask_mse", (0.5**2 + 0.75**2) / 2),
        ("wce", (5 * math.log(2) + math.log(4)) / 2),
        # (1 - p_t)^2 · -log p_t with p_t = 1/2 for the first pixel and 1/4 for the second.
        ("focal", (0.25 * math.log(2) + 0.5625 * math.log(4)) / 2),
        # 1 - 2 · (1/2) / (1/2 + 3/4 + 1)
        ("dice", 1 - 1 / 2.25),
    ],
)
def test_codec_loss_is_scaled_reconstruction_plus_quantizer(reconstruction: str, expected: float) -> None:
    output = {"reconstruction": LOGITS, "quantizer_loss": torch.tensor(0.25)}
    weight = 5.0 if reconstruction == "wce" else 1.0
    loss = CodecLoss(reconstruction, weight, scale=10.0)(output, torch.tensor([1.0, 0.0]).view(1, 1, 1, 2))
    assert float(loss) == pytest.approx(10 * expected + 0.25, abs=1e-4)


def test_unknown_reconstruction_is_refused() -> None:
    with pytest.raises(ValueError, match="'lovasz'"):
        CodecLoss("lovasz")


@pytest.mark.parametrize("reconstruction", ["focal", "dice", "mask_mse", "mse"])
def test_weight_that_a_loss_does_not_use_is_refused(reconstruction: str) -> None:
    with pytest.raises(ValueError, match=f"'{reconstruction}' has no positive weight, found 5.0"):
        CodecLoss(reconstruction, positive_weight=5.0)


def test_dice_loss_is_that_of_the_batch_so_that_empty_masks_teach() -> None:
    logits = torch.zeros(2, 1, 1, 2, requires_grad=True)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    loss = CodecLoss("dice")({"reconstruction": logits, "quantizer_loss": torch.zeros(())}, target)
    # All probabilities are 1/2: 1 - 2 · 1 / (2 + 2), and d/dp of an empty mask's pixel is 2 · 1 / 4^2.
    assert float(loss) == pytest.approx(0.5, abs=1e-5)
    loss.backward()
    assert logits.grad[1].flatten().tolist() == pytest.approx([0.125 * 0.25] * 2, rel=1e-4)


def test_automatic_weight_of_a_sequence_is_that_of_all_its_pixels() -> None:
    masks = [torch.zeros(1, 2, 5), torch.ones(2, 1, 5), torch.zeros(3, 10).bool()]
    assert automatic_positive_weight(masks) == pytest.approx((40 / 10) ** 0.5)
    assert automatic_positive_weight(iter(masks)) == pytest.approx(2.0)


class Labels(torch.utils.data.Dataset):
    """Two cases of 4 × 4 pixels: raters who marked 1, 3 and 0 pixels, and 2 pixels."""

    def __init__(self) -> None:
        self.read = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read += 1
        label = torch.zeros(3 - 2 * index, 16, dtype=torch.uint8)
        label[0, : 1 + index] = 1
        label[1:2, :3] = 1
        return {"label": label.view(-1, 4, 4)}


def test_automatic_weight_lands_in_the_codec_and_a_given_one_stays() -> None:
    codec = VQVAECodec(2, 1, (8,), positive_weight="automatic")
    assert bool(codec.positive_weight.isnan())
    assert settle_positive_weight(codec, Labels()) is codec
    # Three masks are not empty: 48 pixels, 6 of them foreground.
    assert float(codec.positive_weight) == pytest.approx(math.sqrt(42 / 6))
    given, dataset = VQVAECodec(2, 1, (8,), positive_weight=5.0), Labels()
    assert float(settle_positive_weight(given, dataset).positive_weight) == 5.0
    assert dataset.read == 0


def test_automatic_weight_comes_back_from_the_checkpoint() -> None:
    codec = settle_positive_weight(VQVAECodec(2, 1, (8,), positive_weight="automatic"), Labels()).eval()
    other = VQVAECodec(2, 1, (8,), positive_weight="automatic").eval()
    z = torch.randn(1, 4, 8, 8)
    assert bool(other.decode(z).isnan().all())
    other.load_state_dict(codec.state_dict())
    assert torch.equal(other.decode(z), codec.decode(z))


def test_denoising_loss_weighs_each_draw() -> None:
    output = {
        "prediction": torch.tensor([[1.0, 3.0], [0.0, 2.0]])[..., None, None],
        "target": torch.tensor([[0.0, 1.0], [0.0, 0.0]])[..., None, None],
        "weight": torch.tensor([2.0, 0.5]),
    }
    # Means over each draw: (1 + 4) / 2 and (0 + 4) / 2.
    assert float(DenoisingLoss()(output)) == pytest.approx((2.0 * 2.5 + 0.5 * 2.0) / 2)
