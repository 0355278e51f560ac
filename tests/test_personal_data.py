"""What a header says of a patient stays in it."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import nibabel
import numpy as np
from tiny_dicom import POINT

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.report import report

CANARY = b"Canary^Patient"


def mark(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Put the canary into every field of the header that takes text, and into an extension."""
    for field, length in (("descrip", 80), ("aux_file", 24), ("intent_name", 16), ("db_name", 18), ("data_type", 10)):
        image.header[field] = CANARY[:length]
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY))
    return image


def find(content: bytes, folder: Path) -> list[str]:
    """Files below a folder that hold these bytes, compressed or not."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts = [path.read_bytes()]
        if path.suffix == ".gz":
            parts = [gzip.decompress(parts[0])]
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts += [archive.read(name) for name in archive.namelist()]
        if any(content[:10] in part for part in parts):
            found.append(path.name)
    return found


def test_nothing_of_a_nifti_header_but_its_geometry_reaches_a_prediction(lung: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    affine = np.array([[0.0, -0.7, 0, 10], [0.6, 0, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    image = mark(nibabel.Nifti1Image(rng.integers(-900, 200, (140, 150, 3)).astype(np.int16), affine))
    image.set_qform(affine, 1)
    image.set_sform(affine, 2)
    path = tmp_path / "scan.nii.gz"
    image.to_filename(path)
    assert find(CANARY, tmp_path) == [path.name]
    predict(lung, path, tmp_path / "out", point="0,0,32.5", num_samples=2)
    report(tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"scan_consensus.nii.gz", "report.html"}
    assert find(CANARY, tmp_path / "out") == []
    written = nibabel.load(tmp_path / "out" / "scan_consensus.nii.gz")
    assert written.header.extensions.count("comment") == 0
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code"):
        np.testing.assert_array_equal(written.header[field], image.header[field])


def test_nothing_of_a_dicom_header_reaches_json_png_nifti_and_report(lung: Path, series: Path, tmp_path: Path) -> None:
    assert len(find(b"Test^Series", series)) == len(list(series.iterdir()))
    predict(lung, series, tmp_path, point=POINT, num_samples=2, dicom=False)
    report(tmp_path)
    assert len(list(tmp_path.iterdir())) >= 5
    assert find(b"Test^Series", tmp_path) == []


def test_nothing_of_a_header_reaches_a_prepared_folder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        for name, array in (
            ("images", rng.integers(-900, 200, (20, 30)).astype(np.int16)),
            ("masks", rng.integers(0, 2, (20, 30)).astype(np.uint8)),
        ):
            (tmp_path / "src" / name).mkdir(parents=True, exist_ok=True)
            mark(nibabel.Nifti1Image(array, np.eye(4))).to_filename(tmp_path / "src" / name / f"p{number}_0.nii.gz")
    assert len(find(CANARY, tmp_path)) == 6
    prepare(
        "folder", tmp_path / "src", output_dir=tmp_path / "out", group_pattern=r"^(p\d+)_", ratios="1:1:1", workers=1
    )
    assert find(CANARY, tmp_path / "out") == []
