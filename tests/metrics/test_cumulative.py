from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

from medseglatdiff_monai import metrics
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import (
    BrierScore,
    CollectiveInsight,
    ConsensusDice,
    ConsensusHausdorff95,
    ConsensusSurfaceDice,
    EnsembleMetric,
    ExpectedCalibrationError,
    GeneralizedEnergyDistance,
    HungarianMatchedIoU,
    MaximumDice,
    SampleDiversity,
    SoftDice,
    VarianceCorrelation,
    brier_score,
    calibration_bins,
    calibration_error,
    collective_insight,
    dice_score,
    fuse_masks,
    generalized_energy_distance,
    hausdorff_95,
    hungarian_matched_iou,
    maximum_dice,
    mean_mask,
    sample_diversity,
    soft_dice,
    surface_dice,
    variance_correlation,
)

METRICS = [
    (GeneralizedEnergyDistance(), generalized_energy_distance),
    (GeneralizedEnergyDistance(unbiased=True), lambda s, y: generalized_energy_distance(s, y, unbiased=True)),
    (HungarianMatchedIoU(), hungarian_matched_iou),
    (ConsensusDice(), lambda s, y: dice_score(fuse_masks(s), fuse_masks(y))[:, 0]),
    (MaximumDice(), maximum_dice),
    (SampleDiversity(), lambda s, y: sample_diversity(s)),
    (CollectiveInsight(), lambda s, y: collective_insight(s, y)["score"]),
    (VarianceCorrelation(), variance_correlation),
    (SoftDice(), lambda s, y: soft_dice(mean_mask(s), mean_mask(y))),
    (BrierScore(), lambda s, y: brier_score(mean_mask(s), mean_mask(y))),
    (BrierScore("band"), lambda s, y: brier_score(mean_mask(s), mean_mask(y), "band")),
    (ConsensusHausdorff95(), lambda s, y: hausdorff_95(fuse_masks(s), fuse_masks(y))),
    (ConsensusSurfaceDice(), lambda s, y: surface_dice(fuse_masks(s), fuse_masks(y))),
]


def draw(cases: int, masks: int, seed: int) -> torch.Tensor:
    return torch.rand((cases, masks, 6, 6), generator=torch.Generator().manual_seed(seed)) < 0.4


@pytest.mark.parametrize(("metric", "function"), METRICS)
def test_batches_and_lists_give_the_mean_over_cases(metric, function):
    samples, raters = draw(5, 3, seed=0), draw(5, 4, seed=1)
    expected = function(samples, raters)
    metric.reset()
    first = metric(samples[:2], raters[:2])
    metric(list(samples[2:].float()), list(raters[2:].to(torch.uint8)))
    torch.testing.assert_close(first, expected[:2, None])
    torch.testing.assert_close(metric.get_buffer(), expected[:, None])
    torch.testing.assert_close(metric.aggregate(), expected.mean())
    assert len(metric) == 5
    metric.reset()
    metric(samples[:1], raters[:1])
    torch.testing.assert_close(metric.aggregate(), expected[0])


def test_lists_may_hold_different_numbers_of_masks():
    metric = GeneralizedEnergyDistance()
    pairs = [(draw(1, n, seed=n), draw(1, r, seed=10 + r)) for n, r in ((3, 4), (5, 2))]
    metric([s[0] for s, _ in pairs], [y[0] for _, y in pairs])
    expected = np.mean([generalized_energy_distance(s, y).item() for s, y in pairs])
    assert metric.aggregate().item() == pytest.approx(expected, abs=1e-12)


def test_undefined_cases_are_left_out_of_the_mean():
    metric = GeneralizedEnergyDistance(unbiased=True)
    metric(draw(1, 3, seed=0), draw(1, 1, seed=1))
    assert metric.aggregate().isnan()
    metric(draw(1, 3, seed=0), draw(1, 4, seed=1))
    assert metric.aggregate() == generalized_energy_distance(draw(1, 3, seed=0), draw(1, 4, seed=1), unbiased=True)


def test_bad_calls_are_named():
    metric = HungarianMatchedIoU()
    with pytest.raises(InputError, match="HungarianMatchedIoU: found no case"):
        metric.aggregate()
    with pytest.raises(InputError, match="HungarianMatchedIoU: found no y"):
        metric(draw(2, 3, seed=0))
    with pytest.raises(InputError, match="2 cases in y_pred and 1 in y"):
        metric(list(draw(2, 3, seed=0)), list(draw(1, 3, seed=0)))


def test_the_pooled_metric_gathers_batches_and_lists():
    samples, raters = draw(5, 3, seed=0), draw(5, 4, seed=1)
    bins = calibration_bins(mean_mask(samples), mean_mask(raters))
    metric = ExpectedCalibrationError()
    metric(samples[:2], raters[:2])
    metric(list(samples[2:].float()), list(raters[2:].to(torch.uint8)))
    torch.testing.assert_close(metric.aggregate(), calibration_error(bins.sum(0)))
    metric.reset()
    with pytest.raises(InputError, match="found no case"):
        metric.aggregate()


class Thresholds(nn.Module):
    """Samples (B, 3, H, W) of an image (B, 1, H, W): three thresholds."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image > torch.tensor([0.3, 0.5, 0.7]).view(1, 3, 1, 1)


OTHERS = {
    "BrierScore": {"region": "band"},
    "CollectiveInsight": {},
    "ConsensusHausdorff95": {"spacing": 0.7},
    "ConsensusSurfaceDice": {"tolerance": 2.0},
    "ExpectedCalibrationError": {"region": "band", "num_bins": 10},
    "MaximumDice": {},
    "SampleDiversity": {},
    "SoftDice": {},
    "VarianceCorrelation": {},
}


@pytest.mark.parametrize("decollate", [True, False])
def test_handlers_of_a_plain_evaluator(decollate):
    images = torch.rand((5, 1, 6, 6), generator=torch.Generator().manual_seed(0))
    raters = draw(5, 4, seed=1).to(torch.uint8)

    def handler(name: str, **arguments: object) -> dict:
        return {
            "_target_": "IgniteMetricHandler",
            "metric_fn": {"_target_": f"medseglatdiff_monai.metrics.{name}", **arguments},
            "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
        }

    parser = ConfigParser(
        {
            "imports": ["$import monai.handlers"],
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "cpu",
                "val_data_loader": {"_target_": "DataLoader", "dataset": "@data", "batch_size": 2},
                "network": "@network",
                "decollate": decollate,
                "key_val_metric": {"ged_v": handler("GeneralizedEnergyDistance")},
                "additional_metrics": {
                    "ged_u": handler("GeneralizedEnergyDistance", unbiased=True),
                    "hm_iou": handler("HungarianMatchedIoU"),
                    "dice": handler("ConsensusDice", ignore_empty=True),
                    "iou": handler("ConsensusIoU", ignore_empty=True),
                    **{name: handler(name, **arguments) for name, arguments in OTHERS.items()},
                },
            },
        }
    )
    parser["data"] = [{"image": i, "label": r} for i, r in zip(images, raters, strict=True)]
    parser["network"] = Thresholds()
    parser.get_parsed_content("imports")
    evaluator = parser.get_parsed_content("evaluator")
    evaluator.run()
    expected = generalized_energy_distance(Thresholds()(images), raters)
    assert evaluator.state.metrics["ged_v"] == pytest.approx(expected.mean().item(), abs=1e-12)
    torch.testing.assert_close(evaluator.state.metric_details["ged_v"], expected[:, None])
    dice = dice_score(fuse_masks(Thresholds()(images)), fuse_masks(raters), ignore_empty=True)
    assert evaluator.state.metrics["dice"] == pytest.approx(dice.nanmean().item(), abs=1e-12)
    assert set(evaluator.state.metrics) >= {"ged_v", "ged_u", "hm_iou", "dice", "iou"}
    for name, arguments in OTHERS.items():
        metric = getattr(metrics, name)(**arguments)
        metric(Thresholds()(images), raters)
        assert evaluator.state.metrics[name] == pytest.approx(metric.aggregate().item(), abs=1e-12), name


def test_every_metric_is_among_those_tested_in_an_evaluator():
    classes = {name for name in metrics.__all__ if isinstance(getattr(metrics, name), type)}
    classes = {name for name in classes if issubclass(getattr(metrics, name), EnsembleMetric)}
    consensus = {"ConsensusDice", "ConsensusIoU"}
    assert classes - {"EnsembleMetric", "GeneralizedEnergyDistance", "HungarianMatchedIoU"} - consensus == set(OTHERS)


RANK_PROGRAM = """
import json, sys
import torch, torch.distributed as dist
from medseglatdiff_monai.metrics import ExpectedCalibrationError, GeneralizedEnergyDistance
rank, folder, counts = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
samples = torch.rand((3, 3, 6, 6), generator=torch.Generator().manual_seed(0)) < 0.4
raters = torch.rand((3, 4, 6, 6), generator=torch.Generator().manual_seed(1)) < 0.4
metric, pooled = GeneralizedEnergyDistance(), ExpectedCalibrationError()
start = sum(counts[:rank])
for i in range(start, start + counts[rank]):
    metric(samples[i : i + 1], raters[i : i + 1])
    pooled(samples[i : i + 1], raters[i : i + 1])
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump([metric.aggregate().item(), pooled.aggregate().item(), len(metric)], file)
dist.destroy_process_group()
"""


@pytest.mark.integration
@pytest.mark.parametrize("counts", [[2, 1], [3, 0]], ids=["uneven", "a rank without cases"])
def test_two_ranks_agree_on_the_mean_of_all_cases(tmp_path, counts):
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        env.pop(name, None)
    commands = [[sys.executable, "-c", RANK_PROGRAM, str(rank), str(tmp_path), json.dumps(counts)] for rank in (0, 1)]
    ranks = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=180)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
    samples, raters = draw(3, 3, seed=0), draw(3, 4, seed=1)
    expected = generalized_energy_distance(samples, raters).mean().item()
    bins = calibration_bins(mean_mask(samples), mean_mask(raters)).sum(0)
    for rank in (0, 1):
        mean, error, cases = json.loads((tmp_path / f"{rank}.json").read_text())
        assert mean == pytest.approx(expected, abs=1e-12)
        assert error == pytest.approx(calibration_error(bins).item(), abs=1e-12)
        assert cases == 3
