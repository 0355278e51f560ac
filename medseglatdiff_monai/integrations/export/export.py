"""Bundles for other programs, and TorchScript: (image, noise) → confidence map, sampling unrolled over the steps.

:mod:`~medseglatdiff_monai.integrations.export.onnx` writes separate networks instead. MONAI's
``ckpt_export`` traces the same network on the image alone, with the noise of the bundle's seed inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...bundle.arguments import check_device
from ...bundle.config import Bundle
from ...errors import InputError, did_you_mean
from ...extras import require
from ...startup import heavy_imports

EXPORT_FORMATS = ("torchscript", "onnx")


def export(
    bundle: str | Path,
    format: str = "torchscript",
    output_file: str | Path | None = None,
    output_dir: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    **overrides: Any,
) -> Path:
    """Write a bundle for other programs: TorchScript of (image, noise) → confidence map, or ONNX with a runner.

    Example: medseglatdiff export lung_nodule_ct_latent_diffusion --output-file lung.ts
    Example: medseglatdiff export lung_nodule_ct_latent_diffusion --format onnx --output-dir lung_onnx

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        format: torchscript or onnx.
        output_file: the TorchScript file.
        output_dir: folder of the ONNX networks, their settings and onnx_runner.py.
        weights: other weights than the bundle's own.
        device: where the TorchScript will run, cpu or cuda; ONNX runs on either.
        overrides: configuration keys, e.g. --num_samples 16: fixed in TorchScript, the runner's default in ONNX.

    Returns:
        ``output_file`` or ``output_dir``.

    Raises:
        InputError: unknown format, the place that belongs to the other one, or ONNX without its extra; and see
            :func:`~medseglatdiff_monai.integrations.export.torchscript.export_torchscript` and
            :func:`~medseglatdiff_monai.integrations.export.onnx.export_onnx`.
    """
    check_device(device)
    Bundle(bundle).config("inference", {key: value for key, value in overrides.items() if value is not None})
    if format not in EXPORT_FORMATS:
        hint = did_you_mean(str(format), EXPORT_FORMATS)
        raise InputError(f"--format must be one of {', '.join(EXPORT_FORMATS)}, found {format!r}.{hint}")
    place, other = (output_file, output_dir) if format == "torchscript" else (output_dir, output_file)
    if place is None or other is not None:
        wanted = "--output-file FILE.ts" if format == "torchscript" else "--output-dir FOLDER"
        raise InputError(f"--format {format} is written to {wanted}: give that alone.")
    if format == "torchscript":
        with heavy_imports():
            from .torchscript import export_torchscript

        return export_torchscript(bundle, place, weights, device, **overrides)
    require("onnx", "--format onnx")
    with heavy_imports():
        from .onnx import export_onnx

    return export_onnx(bundle, place, weights, **overrides)
