"""The ensemble inferer, also inside a plain user-written MONAI pipeline that knows no bundle of ours."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import IgniteMetricHandler
from monai.transforms import CenterSpatialCropd, Compose, EnsureChannelFirstd

from medseglatdiff_monai.data import NormalizeCropd, RandomRaterd, RaterConsensusd, WindowHUd
from medseglatdiff_monai.ensemble.inferer import EnsembleInferer
from medseglatdiff_monai.ensemble.summary import summarize_ensemble
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import GeneralizedEnergyDistance


def test_summary_by_hand():
    logits = torch.tensor([[3.0, 3.0, -1.0], [2.0, -2.0, -1.0]]).view(1, 2, 1, 3)
    out = summarize_ensemble(logits)
    assert out["confidence_map"].flatten().tolist() == [1.0, 0.5, 0.0]
    assert out["consensus_mask"].flatten().tolist() == [True, True, False]
    assert out["entropy"].flatten().tolist() == pytest.approx([0.0, 1.0, 0.0])
    strict = summarize_ensemble(logits, threshold=0.75)
    assert strict["consensus_mask"].flatten().tolist() == [True, False, False]
    mean = summarize_ensemble(logits, confidence="probabilities")["confidence_map"]
    assert float(mean[0, 0, 0, 1]) == pytest.approx((torch.sigmoid(torch.tensor([3.0, -2.0]))).mean().item())


@pytest.mark.parametrize("number", [3, 5, 6, 7, 9, 12])
def test_half_of_the_samples_is_consensus_at_any_number(number):
    logits = -torch.ones(1, number, 1, number + 1)
    for votes in range(number + 1):
        logits[0, :votes, 0, votes] = 1.0
    consensus = summarize_ensemble(logits)["consensus_mask"].flatten().tolist()
    assert consensus == [2 * votes >= number for votes in range(number + 1)]


def test_damaged_weights_are_noticed():
    logits = torch.zeros(2, 3, 2, 2)
    for value in (float("nan"), float("inf")):
        logits[1, 2, 0, 1] = value
        with pytest.raises(InputError, match="Sample 2 of image 1 of the batch is not finite"):
            summarize_ensemble(logits)
        with pytest.raises(InputError, match="Sample 2 of case 'b' is not finite"):
            summarize_ensemble(logits, cases=["a", "b"])


def test_the_inferer_names_the_damaged_case(make_segmenter):
    network = make_segmenter()
    image = torch.rand(2, 1, 32, 32)
    image[1] = float("nan")
    with pytest.raises(InputError, match="Sample 0 of case 'b' is not finite"):
        EnsembleInferer(num_samples=2)(image, network, ["a", "b"])


@pytest.mark.parametrize("sampler", ["direct", "dpm++", "ddim", "ddpm", "pndm"])
def test_masks_are_the_same_at_any_batch_and_chunk_size(make_segmenter, sampler):
    network = make_segmenter()
    image = torch.rand(3, 1, 32, 32)
    cases = ["a", "b", "c"]
    arguments = {"num_samples": 5, "num_inference_steps": 4, "sampler": sampler}
    together = EnsembleInferer(**arguments)(image, network, cases)["samples"]
    chunked = EnsembleInferer(**arguments, chunk_size=2)(image, network, cases)["samples"]
    inferer = EnsembleInferer(**arguments)
    alone = torch.cat([inferer(image[i : i + 1], network, [cases[i]])["samples"] for i in range(3)])
    assert together.shape == (3, 5, 32, 32)
    assert 0.1 < float(together.float().mean()) < 0.9
    # Sums run in another order at another batch size, so a pixel exactly on the edge may differ.
    assert float((together != chunked).float().mean()) < 1e-3
    assert float((together != alone).float().mean()) < 1e-3
    other = EnsembleInferer(**arguments)(image, network, ["b", "a", "c"])["samples"]
    assert float((together[0] != other[0]).float().mean()) > 1e-3


def test_more_samples_extend_the_ensemble(make_segmenter):
    network = make_segmenter()
    image = torch.rand(1, 1, 32, 32)
    few = EnsembleInferer(num_samples=2)(image, network, ["a"])["samples"]
    many = EnsembleInferer(num_samples=6)(image, network, ["a"])["samples"]
    assert float((few != many[:, :2]).float().mean()) < 1e-3


def test_without_cases_it_draws_what_the_network_itself_draws(make_segmenter):
    network = make_segmenter(num_samples=4, seed=3)
    image = torch.rand(2, 1, 32, 32)
    out = EnsembleInferer(num_samples=4, seed=3)(image, network)
    torch.testing.assert_close(out["confidence_map"], network(image), atol=0.26, rtol=0)
    assert float((out["confidence_map"] != network(image)).float().mean()) < 1e-3


def test_settings_are_checked_and_do_not_change():
    inferer = EnsembleInferer(num_samples=4)
    other = dataclasses.replace(inferer, seed=3)
    assert (other.seed, other.num_samples, inferer.seed) == (3, 4, 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        inferer.num_samples = 5
    for wrong in (
        {"num_samples": 0},
        {"num_inference_steps": 0},
        {"chunk_size": 0},
        {"threshold": 0.0},
        {"fusion": "median"},
    ):
        with pytest.raises(InputError, match=next(iter(wrong))):
            dataclasses.replace(inferer, **wrong)


def test_wrong_number_of_cases_is_refused(make_segmenter):
    with pytest.raises(ValueError, match="each of the 2 images"):
        EnsembleInferer()(torch.rand(2, 1, 32, 32), make_segmenter(), ["a"])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 1, 32, 32), np.float32), r"inputs is a ndarray; expected a tensor of images \(B, C, H, W\)"),
        ({"image": torch.zeros(1, 1, 32, 32)}, "inputs is a dict; expected a tensor"),
        (torch.zeros(1, 32, 32), r"shape \(1, 32, 32\); expected images \(B, C, H, W\)\. Add the batch axis"),
        (torch.zeros(1, 1, 32, 32, dtype=torch.uint8), r"inputs is of type torch\.uint8; expected images in \[0, 1\]"),
        (torch.zeros(32, 32), r"shape \(32, 32\); expected images \(B, C, H, W\)\.$"),
    ],
    ids=["array", "dictionary", "no batch axis", "integers", "no axes"],
)
def test_what_is_no_batch_of_images_is_refused(make_segmenter, inputs, message):
    with pytest.raises(InputError, match=message):
        EnsembleInferer()(inputs, make_segmenter())


def test_public_pieces_in_a_users_own_pipeline(make_segmenter):
    """Arrays in Hounsfield units and four raters, through transforms, inferer and metric by plain MONAI."""
    rng = np.random.default_rng(0)
    items = [
        {
            "image": rng.normal(-700, 200, (48, 48)).astype(np.float32),
            "label": (rng.random((4, 48, 48)) < 0.2).astype(np.uint8),
        }
        for _ in range(4)
    ]
    items = [{**item, "one": item["label"], "all": item["label"]} for item in items]
    transforms = Compose([
        EnsureChannelFirstd("image", channel_dim="no_channel"),
        WindowHUd("image", lower=-1000, upper=400),
        CenterSpatialCropd(["image", "label", "one", "all"], (32, 32)),
        NormalizeCropd("image"),
        RandomRaterd("one"),
        RaterConsensusd("all"),
    ])  # fmt: skip
    loader = DataLoader(Dataset(items, transforms), batch_size=2)
    batch = next(iter(loader))
    assert batch["one"].shape == batch["all"].shape == (2, 1, 32, 32)
    assert float(batch["image"].min()) == 0.0
    assert float(batch["image"].max()) == 1.0
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=loader,
        network=make_segmenter(),
        inferer=EnsembleInferer(num_samples=3),
        key_val_metric={
            "ged": IgniteMetricHandler(
                metric_fn=GeneralizedEnergyDistance(),
                output_transform=lambda output: (output["pred"]["samples"], output["label"]),
            )
        },
        decollate=False,
    )
    evaluator.run()
    assert 0.0 < evaluator.state.metrics["ged"] < 2.0
