"""How well a codec reproduces an image: PSNR = 20 log10(max) - 10 log10(MSE), and SSIM, both MONAI's own.

Images here are float in [0, 1]: `PSNRMetric(max_val=1.0)` and `SSIMMetric(spatial_dims=2, data_range=1.0)`. A perfect
reconstruction has PSNR = inf, which makes the mean over cases inf; SSIM's window of 11 asks for sides of at least 11.
"""

from __future__ import annotations

from monai.metrics import PSNRMetric, SSIMMetric

__all__ = ["PSNRMetric", "SSIMMetric"]
