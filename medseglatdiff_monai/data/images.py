"""Reading of 2D images and masks (PNG, JPEG, TIFF, BMP, 2D NIfTI) for `prepare`, with errors that name the file.

Arrays are row-first. A NIfTI's first axis runs along x (columns), as in MONAI and ITK, so it is transposed here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseglatdiff_monai.errors import InputError

__all__ = ["IMAGE_SUFFIXES", "RasterImage", "find_images", "image_stem", "read_image", "read_mask", "read_masks"]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", *NIFTI_SUFFIXES)
LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class RasterImage:
    """An image as read.

    Attributes:
        array: (H, W) or (H, W, 3) uint8, or (H, W) int16.
        spacing_mm: (row, column), NIfTI only.
        affine: (4, 4) from (row, column, 0) to RAS millimetres, NIfTI only.
    """

    array: np.ndarray
    spacing_mm: tuple[float, float] | None = None
    affine: np.ndarray | None = None


def image_stem(path: Path) -> str:
    """File name without its image suffix (``a.nii.gz`` and ``a.png`` are both ``a``)."""
    lower = path.name.lower()
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if lower.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def find_images(folder: Path) -> dict[str, Path]:
    """Stem to path of the images right in a folder; hidden files are skipped.

    Raises:
        InputError: two files of one stem, such as ``a.png`` and ``a.jpg``.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.lower().endswith(IMAGE_SUFFIXES) or not path.is_file():
            continue
        other = found.setdefault(image_stem(path), path)
        if other != path:
            raise InputError(f"{path} and {other.name}: two files of one name; keep one of them.")
    return found


def read_image(path: Path) -> RasterImage:
    """Read an image as 8-bit grey or RGB, or as 16-bit grey (int16) where the file holds such values.

    Palette and CMYK images become RGB, an alpha channel is dropped.

    Raises:
        InputError: unreadable or truncated file, a volume, values that neither 8 bits nor int16 can hold.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array, spacing_mm, affine = _read_nifti(path)
        return RasterImage(_to_int16(array, path), spacing_mm, affine)
    image = _open(path)
    if image.mode in ("L", "1", "LA", "La"):
        return RasterImage(np.array(image.convert("L")))
    if image.mode.startswith(("I", "F")):
        return RasterImage(_to_int16(np.array(image), path))
    return RasterImage(np.array(image.convert("RGB")))


def read_mask(path: Path) -> np.ndarray:
    """Read a binary mask, (H, W) uint8 in {0, 1}.

    Where no value is above 1 the mask is value > 0 (labels 0 and 1), else value > 127 (0 and 255, grey edges included).
    Of colour masks the largest channel counts.

    Raises:
        InputError: unreadable file, or values that are neither 0/1 nor 0…255 (a label map of several classes).
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array = _read_nifti(path)[0]
    else:
        image = _open(path)
        if image.mode in ("LA", "La", "PA"):
            image = image.convert("L")
        elif image.mode in ("RGBA", "CMYK", "YCbCr", "RGBa", "RGBX", "LAB", "HSV"):
            image = image.convert("RGB")
        array = np.array(image)  # a palette image gives its indices, which are the labels
        array = array.max(axis=2) if array.ndim == 3 else array
    top = array.max(initial=0)
    whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
    if array.min(initial=0) < 0 or not np.isfinite(top) or not whole:
        raise InputError(f"{path}: mask values from {array.min()} to {top}; expected 0 and 1, or 0 and 255.")
    if top <= 1:
        return (array > 0).astype(np.uint8)
    # Without this a map of classes 0…5 would become an empty mask in silence. JPEG noise on an empty mask is none.
    if top <= 127 and not path.name.lower().endswith(LOSSY_SUFFIXES):
        raise InputError(
            f"{path}: mask values run up to {top}; expected 0 and 1, or 0 and 255 (threshold > 127). Save one binary "
            "mask a file."
        )
    return (array > 127).astype(np.uint8)


def read_masks(paths: list[Path], image_path: Path, image: np.ndarray) -> np.ndarray:
    """Read one mask a rater and stack them, (R, H, W) uint8.

    Raises:
        InputError: as `read_mask`, or a mask whose size is not the image's (names both files and both sizes).
    """
    masks = []
    for path in paths:
        mask = read_mask(path)
        if mask.shape != image.shape[:2]:
            raise InputError(
                f"{path} is {mask.shape[1]}×{mask.shape[0]} (width×height), its image {image_path} is "
                f"{image.shape[1]}×{image.shape[0]}; expected the same size: draw or resample the mask on the image's "
                "grid."
            )
        masks.append(mask)
    return np.stack(masks)


def _open(path: Path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: unreadable or truncated image ({error}); replace the file.") from error


def _read_nifti(path: Path) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    import nibabel

    try:
        image = nibabel.Nifti1Image.from_filename(path)
        shape = image.shape
        if len(shape) < 2 or any(size != 1 for size in shape[2:]):
            raise InputError(
                f"{path}: a NIfTI of shape {shape}; expected one 2D slice. Write the slices of a volume as single "
                "files (group "
                "them by patient with --group-pattern)."
            )
        array = np.asarray(image.dataobj).reshape(shape[:2]).T
        affine = np.asarray(image.affine, dtype=np.float64)[:, [1, 0, 2, 3]]
    except InputError:
        raise
    except Exception as error:  # nibabel raises many kinds: ImageFileError, EOFError, zlib.error, HeaderDataError
        raise InputError(f"{path}: unreadable or truncated NIfTI ({error}); replace the file.") from error
    row, column = np.linalg.norm(affine[:3, :2], axis=0)
    return array, (float(row), float(column)), affine


def _to_int16(array: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers as uint8 where the file says so, else as int16."""
    if array.dtype == np.uint8 and array.ndim == 2:
        return np.ascontiguousarray(array)
    if array.ndim != 2 or array.dtype.kind not in "iufb":
        raise InputError(
            f"{path}: {array.dtype} image of shape {array.shape}; expected grey values: save it as 8-bit PNG."
        )
    low, high = array.min(), array.max()
    limits = np.iinfo(np.int16)
    whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
    if not (whole and limits.min <= low and high <= limits.max):
        raise InputError(
            f"{path}: values from {low} to {high} ({array.dtype}); expected whole numbers from {limits.min} to "
            f"{limits.max}. "
            "Rescale the image to 8 or 15 bits first."
        )
    return np.ascontiguousarray(array.astype(np.int16))
