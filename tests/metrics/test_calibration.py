"""Confidence against the mean rater map: hand-worked figures, MONAI's own calibration error, degenerate maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.losses import DiceLoss
from monai.metrics import CalibrationErrorMetric

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.metrics import (
    BrierScore,
    ExpectedCalibrationError,
    SoftDice,
    brier_score,
    calibration_bins,
    calibration_error,
    mean_mask,
    soft_dice,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


# Six pixels: background right, band in the samples alone, in the raters alone, in both, a miss, a hit.
CONFIDENCE = row(0, 0.5, 0, 0.75, 0, 1)
TARGET = row(0, 0, 0.25, 0.5, 1, 1)


def draw(seed: int, cases: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand((cases, 7, 6, 9), generator=generator) < torch.rand((cases, 1, 6, 9), generator=generator)
    raters = torch.rand((cases, 4, 6, 9), generator=generator) < torch.rand((cases, 1, 6, 9), generator=generator)
    return samples, raters


def test_hand_worked_values():
    product, squares = 0.75 * 0.5 + 1, (0.25 + 0.5625 + 1) + (0.0625 + 0.25 + 1 + 1)
    assert soft_dice(CONFIDENCE, TARGET).item() == pytest.approx(2 * product / squares, abs=1e-12)
    errors = [0, 0.25, 0.0625, 0.0625, 1, 0]
    assert brier_score(CONFIDENCE, TARGET).item() == pytest.approx(sum(errors) / 6, abs=1e-12)
    # The band: pixels 1, 2 and 3.
    assert brier_score(CONFIDENCE, TARGET, "band").item() == pytest.approx(sum(errors[1:4]) / 3, abs=1e-12)
    # Four bins: {0, 0, 0}, {0.5}, {0.75, 1} with mean rater shares 1.25/3, 0 and 1.5/2.
    bins = calibration_bins(CONFIDENCE, TARGET, num_bins=4)
    assert bins[0].tolist() == [[3, 0, 1, 2], [0, 0, 0.5, 1.75], [1.25, 0, 0, 1.5]]
    assert calibration_error(bins).item() == pytest.approx((1.25 + 0.5 + 0.25) / 6, abs=1e-12)
    band = calibration_bins(CONFIDENCE, TARGET, "band", num_bins=4)
    assert calibration_error(band).item() == pytest.approx((0.25 + 0.5 + 0.25) / 3, abs=1e-12)


def test_a_share_falls_into_the_bin_that_begins_with_it():
    for number in (15, 30):
        votes = torch.arange(number + 1)
        masks = (torch.arange(number)[:, None] < votes)[None, :, None]
        count = calibration_bins(mean_mask(masks), mean_mask(masks))[0, 0]
        assert count.tolist() == [number // 15] * 14 + [number // 15 + 1]


@pytest.mark.parametrize("seed", range(5))
def test_equal_monai_where_the_target_is_binary(seed):
    confidence = torch.rand((2, 1, 8, 9), generator=torch.Generator().manual_seed(seed))
    target = (torch.rand((2, 1, 8, 9), generator=torch.Generator().manual_seed(seed + 100)) < confidence).float()
    expected = CalibrationErrorMetric(num_bins=15)(confidence, target)[:, 0]
    torch.testing.assert_close(
        calibration_error(calibration_bins(confidence, target)).float(), expected, rtol=0, atol=1e-5
    )
    loss = DiceLoss(squared_pred=True, smooth_nr=0, smooth_dr=0, reduction="none")(confidence, target).flatten()
    torch.testing.assert_close(soft_dice(confidence, target).float(), 1 - loss, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_equal_a_loop_over_pixels(seed):
    samples, raters = draw(seed)
    for case in range(3):
        c, m = samples[case].double().mean(0).flatten().numpy(), raters[case].double().mean(0).flatten().numpy()
        for region in ("image", "band"):
            pixels = [i for i in range(len(c)) if region == "image" or 0 < c[i] < 1 or 0 < m[i] < 1]
            expected_brier = np.mean([(c[i] - m[i]) ** 2 for i in pixels])
            expected_ece = 0.0
            for k in range(15):
                # 15 k/7 is whole for k = 0 and 7 alone: rounding cannot move a share of seven samples across an edge.
                held = [i for i in pixels if k / 15 <= c[i] < (k + 1) / 15 or (k == 14 and c[i] == 1)]
                if held:
                    expected_ece += len(held) / len(pixels) * abs(np.mean(c[held]) - np.mean(m[held]))
            pair = samples[case : case + 1], raters[case : case + 1]
            assert BrierScore(region)(*pair).item() == pytest.approx(expected_brier, abs=1e-12)
            assert ExpectedCalibrationError(region).compute_cases(*pair).item() == pytest.approx(
                expected_ece, abs=1e-12
            )


def test_identical_and_empty_sets():
    _, raters = draw(0, cases=1)
    nothing = torch.zeros_like(raters)
    for region in ("image", "band"):
        # Four copies of every rater are the same map.
        assert BrierScore(region)(raters.repeat(1, 4, 1, 1), raters).item() == 0
        assert ExpectedCalibrationError(region).compute_cases(raters.repeat(1, 4, 1, 1), raters).item() == 0
    assert SoftDice()(raters.repeat(1, 4, 1, 1), raters).item() == 1
    assert SoftDice()(nothing, nothing).item() == 1
    assert SoftDice()(nothing, ~nothing).item() == 0
    assert BrierScore()(nothing, nothing).item() == 0
    assert BrierScore()(nothing, ~nothing).item() == 1
    assert ExpectedCalibrationError().compute_cases(nothing, ~nothing).item() == 1


def test_one_sample_and_one_rater():
    full, empty = torch.ones((1, 1, 2, 2), dtype=torch.bool), torch.zeros((1, 1, 2, 2), dtype=torch.bool)
    # Nobody disagrees with himself: there is no band.
    for metric in (BrierScore("band"), ExpectedCalibrationError("band")):
        metric(full, empty)
        assert metric.aggregate().isnan()
    assert BrierScore()(full, torch.cat([full, empty], 1)).item() == 0.25
    assert BrierScore("band")(full, torch.cat([full, empty], 1)).item() == 0.25


def test_calibration_error_pools_the_pixels_of_all_cases():
    # Half of the samples mark everything; in one case all raters do, in the other none: calibrated on the whole only.
    half = torch.zeros((2, 2, 2, 2), dtype=torch.bool)
    half[:, 0] = True
    raters = torch.zeros((2, 3, 2, 2), dtype=torch.bool)
    raters[0] = True
    metric = ExpectedCalibrationError()
    assert metric.compute_cases(half, raters).tolist() == [0.5, 0.5]
    assert metric(half[:1], raters[:1]).shape == (1, 45)
    metric(list(half[1:]), list(raters[1:]))
    assert metric.aggregate().item() == 0
    metric.reset()
    metric(half[:1], raters[:1])
    assert metric.aggregate().item() == 0.5


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="region: found 'rim'"):
        BrierScore("rim")
    with pytest.raises(InputError, match="region: found 'rim'"):
        ExpectedCalibrationError("rim")
    with pytest.raises(InputError, match="num_bins: found 0"):
        ExpectedCalibrationError(num_bins=0)
    with pytest.raises(InputError, match="num_bins: found 0"):
        calibration_bins(CONFIDENCE, TARGET, num_bins=0)
    with pytest.raises(InputError, match=r"confidence: found the value 1.125, expected values in \[0, 1\]"):
        soft_dice(CONFIDENCE * 1.5, TARGET)
    with pytest.raises(InputError, match="target: found the value nan"):
        brier_score(CONFIDENCE, TARGET * torch.nan)
    with pytest.raises(InputError, match="target: found shape"):
        soft_dice(CONFIDENCE, TARGET[..., :2])
    with pytest.raises(InputError, match="average the masks with mean_mask"):
        soft_dice(CONFIDENCE.repeat(1, 2, 1, 1), TARGET)
    with pytest.raises(InputError, match="confidence: found list"):
        soft_dice(CONFIDENCE.tolist(), TARGET)
