"""What the checks of input cost: their processor time as a share of a prediction's, for each kind of input.

``python benchmarks/guards.py`` writes ``benchmarks/results/guards.json``, and ``figures.py`` the table from it. The
weights are those of the shipped bundles, the images are made here.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

import nibabel
import numpy as np
from PIL import Image
from records import RESULTS, save_record

from medseglatdiff_monai.bundle.segmenter import load_segmenter
from medseglatdiff_monai.data.sources.phantom_dicom import write_phantom_dicom_series
from medseglatdiff_monai.digest import check_digest
from medseglatdiff_monai.io.dicom_headers import check_bits, read_header
from medseglatdiff_monai.io.nifti import open_nifti
from medseglatdiff_monai.io.pictures import read_picture
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.provenance import provenance

LUNG, SKIN = "lung_nodule_ct_latent_diffusion", "skin_lesion_dermoscopy_latent_diffusion"


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median processor time of calls, after one that warms up."""
    work()
    took = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return median(took)


def decode(path: Path) -> None:
    """What Pillow does without any check."""
    with Image.open(path) as image:
        image.load()


def check_series(paths: Iterable[Path]) -> None:
    """All headers, and the bits of the slices that are read."""
    for path in paths:
        read_header(path)
        check_bits(path)


def smooth(rows: int, columns: int, channels: int) -> np.ndarray:
    """A picture that compresses as photographs do."""
    y, x = np.mgrid[:rows, :columns]
    waves = np.stack([np.sin(x / (40 + 9 * c)) * np.cos(y / (30 + 7 * c)) for c in range(channels)], axis=-1)
    return (127 + 90 * waves + np.random.default_rng(0).normal(0, 8, waves.shape)).clip(0, 255).astype(np.uint8)


def measure(folder: Path, repeats: int) -> list[dict[str, Any]]:
    """One row per kind of input: seconds of its check, and of a prediction with it."""
    crop, photo, photo_png = folder / "crop.png", folder / "photo.jpg", folder / "photo.png"
    Image.fromarray(smooth(128, 128, 1)[..., 0]).save(crop)
    Image.fromarray(smooth(768, 1024, 3)).save(photo, quality=90)
    Image.fromarray(smooth(768, 1024, 3)).save(photo_png)
    scan = folder / "scan.nii.gz"
    voxels = (smooth(256, 256, 60).astype(np.int16) - 900).transpose(1, 0, 2)
    nibabel.Nifti1Image(voxels, np.diag([-0.7, -0.7, 2.0, 1.0])).to_filename(scan)
    series = write_phantom_dicom_series("LIDC-IDRI-0023", folder / "series", margin=0)
    rows = []
    for name, path, bundle, place in (
        ("PNG, 128 × 128", crop, LUNG, None), ("JPEG, 1024 × 768", photo, SKIN, None),
        ("PNG, 1024 × 768", photo_png, SKIN, None), ("NIfTI, 256 × 256 × 60", scan, LUNG, (128, 128, 30)),
        (f"DICOM, {len(list(series.iterdir()))} slices", series, LUNG, (256, 256, 2)),
    ):  # fmt: skip
        if path == series:
            check = seconds(lambda: check_series(sorted(series.iterdir())), repeats)
        elif path == scan:
            check = seconds(lambda: open_nifti(scan), repeats)
        else:
            check = seconds(lambda p=path: read_picture(p), repeats) - seconds(lambda p=path: decode(p), repeats)
        whole = seconds(
            lambda p=path, b=bundle, at=place: predict(b, p, folder / "out", index=at, dicom=False), repeats
        )
        rows.append({"name": name, "seconds": check, "prediction_seconds": whole})
    weights = load_segmenter(LUNG).weights_path
    rows.append(
        {
            "name": f"SHA-256 of weights, {weights.stat().st_size / 1e6:.0f} MB",
            "seconds": seconds(lambda: check_digest(weights), repeats),
            "prediction_seconds": rows[0]["prediction_seconds"],
        }
    )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "guards.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments.repeats)
    save_record({"rows": rows, "repeats": arguments.repeats, "provenance": provenance("cpu")}, arguments.output)


if __name__ == "__main__":
    main()
