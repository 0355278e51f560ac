"""Bundles for other programs, and TorchScript: (image, noise) → confidence map, sampling unrolled over the steps.

:mod:`~medseglatdiff_monai.integrations.export.onnx` writes the networks apart from each other instead. MONAI's
``ckpt_export`` traces the same network on the image alone, with the noise of the bundle's seed inside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError, did_you_mean
from .torchscript import export_torchscript

__all__ = ["EXPORT_FORMATS", "export"]

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
    """Export a bundle to ``output_file`` (``"torchscript"``) or ``output_dir`` (``"onnx"``); returns that path.

    ``device`` is where TorchScript will run, see :func:`export_torchscript`; ONNX runs wherever its runner is told to.

    Raises:
        InputError: unknown format, or the place that belongs to the other one; and see :func:`export_torchscript` and
            :func:`~medseglatdiff_monai.integrations.export.onnx.export_onnx`.
    """
    if format not in EXPORT_FORMATS:
        hint = did_you_mean(str(format), EXPORT_FORMATS)
        raise InputError(f"--format must be one of {', '.join(EXPORT_FORMATS)}, found {format!r}.{hint}")
    place, other = (output_file, output_dir) if format == "torchscript" else (output_dir, output_file)
    if place is None or other is not None:
        wanted = "--output-file FILE.ts" if format == "torchscript" else "--output-dir FOLDER"
        raise InputError(f"--format {format} is written to {wanted}: give that alone.")
    if format == "torchscript":
        return export_torchscript(bundle, place, weights, device, **overrides)
    from .onnx import export_onnx

    return export_onnx(bundle, place, weights, **overrides)
