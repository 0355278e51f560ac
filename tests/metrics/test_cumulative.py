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

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import (
    ConsensusDice,
    GeneralizedEnergyDistance,
    HungarianMatchedIoU,
    dice_score,
    fuse_masks,
    generalized_energy_distance,
    hungarian_matched_iou,
)

METRICS = [
    (GeneralizedEnergyDistance(), generalized_energy_distance),
    (GeneralizedEnergyDistance(unbiased=True), lambda s, y: generalized_energy_distance(s, y, unbiased=True)),
    (HungarianMatchedIoU(), hungarian_matched_iou),
    (ConsensusDice(), lambda s, y: dice_score(fuse_masks(s), fuse_masks(y))[:, 0]),
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


class Thresholds(nn.Module):
    """Samples (B, 3, H, W) of an image (B, 1, H, W): three thresholds."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image > torch.tensor([0.3, 0.5, 0.7]).view(1, 3, 1, 1)


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


RANK_PROGRAM = """
import json, sys
import torch, torch.distributed as dist
from medseglatdiff_monai.metrics import GeneralizedEnergyDistance
rank, folder, counts = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
samples = torch.rand((3, 3, 6, 6), generator=torch.Generator().manual_seed(0)) < 0.4
raters = torch.rand((3, 4, 6, 6), generator=torch.Generator().manual_seed(1)) < 0.4
metric = GeneralizedEnergyDistance()
start = sum(counts[:rank])
for i in range(start, start + counts[rank]):
    metric(samples[i : i + 1], raters[i : i + 1])
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump([metric.aggregate().item(), len(metric)], file)
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
    expected = generalized_energy_distance(draw(3, 3, seed=0), draw(3, 4, seed=1)).mean().item()
    for rank in (0, 1):
        mean, cases = json.loads((tmp_path / f"{rank}.json").read_text())
        assert mean == pytest.approx(expected, abs=1e-12)
        assert cases == 3
