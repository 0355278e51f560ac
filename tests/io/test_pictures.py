"""Pictures and NIfTI files that other programs read otherwise than they are meant, or not completely."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.sources.images import read_image
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io import open_input
from medseglatdiff_monai.io.pictures import read_picture

PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def write_png(path: Path, array: np.ndarray, keep: float = 1.0, interlaced: bool = False) -> None:
    """Write (H, W) or (H, W, 3) uint8; with `keep` below 1 the last rows are missing, in a file that is whole."""
    parts = [array[top::down, left::right] for top, left, down, right in PASSES] if interlaced else [array]
    rows = [b"\0" + row.tobytes() for part in parts if part.size for row in part]
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 8, 0 if array.ndim == 2 else 2, 0, 0, interlaced)
    content = b"\x89PNG\r\n\x1a\n"
    packed = zlib.compress(b"".join(rows[: round(keep * len(rows))]))
    for kind, data in ((b"IHDR", header), (b"IDAT", packed[:9]), (b"IDAT", packed[9:]), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("shape", [(9, 13), (3, 2), (40, 31, 3)])
def test_png_with_missing_rows(tmp_path: Path, shape: tuple[int, ...], interlaced: bool):
    array = np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "whole.png", array, interlaced=interlaced)
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "whole.png")), array)
    write_png(tmp_path / "cut.png", array, keep=0.7, interlaced=interlaced)
    with pytest.raises(InputError, match=r"cut\.png: unreadable or truncated image \("):
        open_input(tmp_path / "cut.png", 1 if array.ndim == 2 else 3)
    with pytest.raises(InputError, match=r"cut\.png: unreadable or truncated image"):
        read_image(tmp_path / "cut.png")


def test_photograph_that_viewers_rotate(tmp_path: Path):
    exif = Image.Exif()
    image = Image.new("RGB", (30, 20), "red")
    for orientation in (1, 6):
        exif[0x0112] = orientation
        image.save(tmp_path / f"photo-{orientation}.jpg", exif=exif)
    assert open_input(tmp_path / "photo-1.jpg", 3).size == (20, 30)
    assert read_image(tmp_path / "photo-1.jpg").array.shape == (20, 30, 3)
    for read in (lambda path: open_input(path, 3), read_image):
        with pytest.raises(InputError, match=r"photo-6\.jpg: its EXIF tag says that viewers rotate.*orientation 6"):
            read(tmp_path / "photo-6.jpg")


def test_several_pages(tmp_path: Path):
    pages = [Image.new("L", (8, 6), value) for value in (0, 255)]
    pages[0].save(tmp_path / "one.tif")
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "two.png", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "one.tif").array.shape == (6, 8)
    for name in ("two.tif", "two.png"):
        with pytest.raises(InputError, match=rf"{name}: 2 pages; expected one image per file"):
            read_image(tmp_path / name)


def write_nifti(path: Path, affine: np.ndarray | None = None, shape: tuple[int, ...] = (8, 6), **fields) -> Path:
    """Write zeros; `fields` of the header are set after nibabel has corrected it."""
    image = nibabel.Nifti1Image(np.zeros(shape, np.int16), np.diag([0.5, 0.5, 2.0, 1.0]) if affine is None else affine)
    content = bytearray(image.to_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


PIXDIM = {"qform_code": 0, "sform_code": 0}
HEADERS = {
    "metres": ({"xyzt_units": 1}, r"lengths in metres \(xyzt_units\); expected millimetres"),
    "micrometres": ({"xyzt_units": 3 + 8}, r"lengths in micrometres"),
    "no size": ({**PIXDIM, "pixdim": [1, 0, 0.5, 1, 1, 1, 1, 1]}, r"pixdim \[0\.0, 0\.5\]; expected positive numbers"),
    "negative": ({**PIXDIM, "pixdim": [1, 0.5, -0.5, 1, 1, 1, 1, 1]}, r"pixdim \[0\.5, -0\.5\]; expected positive"),
    "not finite": ({"srow_x": [np.nan, 0, 0, 0]}, "its affine .* cannot be inverted"),
    "flat": ({"srow_x": [0, 0, 0, 0]}, "its affine .* cannot be inverted"),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_nifti_whose_sizes_cannot_be_known(tmp_path: Path, damage: str):
    fields, message = HEADERS[damage]
    path = write_nifti(tmp_path / "images" / "a.nii", **fields)
    with pytest.raises(InputError, match=rf"a\.nii: {message}"):
        open_input(path, 1)
    Image.new("L", (8, 6)).save(tmp_path / "mask.png")
    (tmp_path / "masks").mkdir()
    (tmp_path / "mask.png").rename(tmp_path / "masks" / "a.png")
    with pytest.raises(InputError, match=rf"a\.nii: {message}"):
        prepare("folder", tmp_path, output_dir=tmp_path / "out", workers=1)


def test_nifti_headers_that_are_fine(tmp_path: Path):
    """Unknown units, which are common; a slice without a thickness; sizes that an sform makes needless."""
    for number, fields in enumerate(
        ({"xyzt_units": 0}, {"xyzt_units": 2}, {**PIXDIM, "pixdim": [1, 0.5, 0.5, 0, 1, 1, 1, 1]},
         {"sform_code": 1, "pixdim": [1, 0, 0, 0, 0, 0, 0, 0]})
    ):  # fmt: skip
        source = open_input(write_nifti(tmp_path / f"{number}.nii", **fields), 1)
        np.testing.assert_allclose(np.linalg.norm(source.affine[:3, :2], axis=0), 0.5)
