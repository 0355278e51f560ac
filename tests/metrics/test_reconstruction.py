from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.metrics import PSNRMetric, SSIMMetric


def test_psnr_of_a_constant_error():
    image = torch.full((2, 1, 16, 16), 0.5)
    metric = PSNRMetric(max_val=1.0)
    metric(image + 0.1, image)  # MSE 0.01: -10 log10(0.01) = 20 dB
    assert metric.aggregate().item() == pytest.approx(20, abs=1e-4)


def test_ssim_of_constant_images():
    metric = SSIMMetric(spatial_dims=2, data_range=1.0)
    a, b = torch.full((1, 1, 16, 16), 0.5), torch.full((1, 1, 16, 16), 0.6)
    metric(a, b)  # no contrast: (2 * 0.5 * 0.6 + c1) / (0.25 + 0.36 + c1) with c1 = 0.01**2
    assert metric.aggregate().item() == pytest.approx(0.6001 / 0.6101, abs=1e-3)
