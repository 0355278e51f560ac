"""One-to-one networks as ensembles of one mask, and the loss that trains them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medseglatdiff_monai.ensemble.inferer import EnsembleInferer, sampling_settings
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import OneToOneSegmenter, SegmentationLoss, SegmentingNetwork
from medseglatdiff_monai.predict.record import describe_steps


class Scaled(nn.Module):
    """Logits 10 · (x - 1/2), so that what comes out can be told from what went in."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10.0 * (x - 0.5)


class CoarseThenFine(nn.Module):
    """A list of outputs, the finest last, as MONAI's UNet++ returns them."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [-x, x]


def test_samples_are_the_mask_n_times() -> None:
    image = torch.rand(5, 1, 6, 4)
    segmenter = OneToOneSegmenter(Scaled())
    logits = segmenter.ensemble_logits(image, 3, chunk_size=2)
    assert logits.shape == (5, 3, 6, 4)
    for sample in logits.unbind(1):
        torch.testing.assert_close(sample, 10.0 * (image[:, 0] - 0.5))
    torch.testing.assert_close(segmenter(image), logits[:, :1].sigmoid())
    assert segmenter.mask_codec is None


def test_inferer_takes_it_for_a_segmenter_without_disagreement() -> None:
    image = torch.rand(2, 1, 4, 4)
    result = EnsembleInferer(num_samples=4, num_inference_steps=7, sampler="ddim")(
        image, OneToOneSegmenter(Scaled()), cases=["a", "b"]
    )
    assert torch.equal(result["consensus_mask"][:, 0], image[:, 0] > 0.5)
    assert torch.equal(result["confidence_map"][:, 0], (image[:, 0] > 0.5).float())
    assert not result["entropy"].any()


def test_record_says_that_there_is_no_sampler_whatever_the_settings() -> None:
    """And so does the panel, which is made from the record."""
    record = sampling_settings(EnsembleInferer(num_inference_steps=7, sampler="dpm++"), OneToOneSegmenter(Scaled()))
    assert (record["sampler"], record["num_inference_steps"], record["noise_scale"]) == (None, 1, None)
    assert describe_steps({**record, "seed": 0}) == "one mask, no steps"


def test_finest_of_several_outputs_is_the_mask() -> None:
    image = torch.rand(2, 1, 4, 4)
    segmenter = OneToOneSegmenter(CoarseThenFine())
    heads = segmenter.head_logits(image)
    assert heads.shape == (2, 2, 1, 4, 4)
    assert torch.equal(heads[:, 0], image)
    assert torch.equal(segmenter.ensemble_logits(image, 1), image)


def test_size_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(20, 16\) is not a multiple of 8.*\(24, 16\)"):
        OneToOneSegmenter(Scaled(), downsampling=8).ensemble_logits(torch.rand(1, 1, 20, 16), 1)


def test_several_targets_share_one_pass() -> None:
    image, masks = torch.rand(2, 1, 4, 4), torch.rand(2, 3, 4, 4) > 0.5
    output = SegmentingNetwork(OneToOneSegmenter(Scaled()))(image, masks)
    assert output["logits"].shape == (6, 1, 1, 4, 4)
    for i in range(2):
        for j in range(3):
            assert torch.equal(output["logits"][3 * i + j, 0, 0], 10.0 * (image[i, 0] - 0.5))
            assert torch.equal(output["target"][3 * i + j, 0], masks[i, j].float())


def dice_ce(logits: torch.Tensor, target: torch.Tensor) -> float:
    p = logits.sigmoid()
    dice = 1.0 - float((2 * (p * target).sum() + 1e-5) / (p.sum() + target.sum() + 1e-5))
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    return dice + float(entropy.mean())


def test_loss_by_hand() -> None:
    # Two pixels, p = 3/4 inside and 1/4 outside: Dice loss 1 - 2·(3/4) / (1 + 1), cross-entropy -log(3/4).
    logits = torch.tensor([math.log(3.0), -math.log(3.0)]).view(1, 1, 1, 1, 2)
    target = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    loss = SegmentationLoss()({"logits": logits, "target": target})
    assert float(loss) == pytest.approx(0.25 - math.log(0.75), abs=1e-4)


def test_heads_are_compared_at_their_own_resolution() -> None:
    torch.manual_seed(0)
    heads = [torch.randn(2, 1, side, side) for side in (8, 4, 2)]
    enlarged = [nn.functional.interpolate(head, (8, 8)) for head in heads]
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    expected = [
        dice_ce(head, nn.functional.interpolate(target, head.shape[2:])) for head in heads
    ]  # fmt: skip
    loss = SegmentationLoss((1, 2, 4))({"logits": torch.stack(enlarged, dim=1), "target": target})
    assert float(loss) == pytest.approx((4 * expected[0] + 2 * expected[1] + expected[2]) / 7, abs=1e-4)
    even = SegmentationLoss((1, 2, 4), halve_weights=False)
    assert float(even({"logits": torch.stack(enlarged, dim=1), "target": target})) == pytest.approx(
        sum(expected) / 3, abs=1e-4
    )


def test_loss_of_an_empty_batch_is_finite_and_low_where_right() -> None:
    logits = torch.full((2, 1, 1, 4, 4), -20.0, requires_grad=True)
    loss = SegmentationLoss()({"logits": logits, "target": torch.zeros(2, 1, 4, 4)})
    loss.backward()
    assert logits.grad.isfinite().all()
    assert float(loss) < 0.01


def test_loss_names_a_wrong_number_of_heads() -> None:
    with pytest.raises(InputError, match="has 2 heads, head_strides names 1"):
        SegmentationLoss()({"logits": torch.zeros(1, 2, 1, 4, 4), "target": torch.zeros(1, 1, 4, 4)})
