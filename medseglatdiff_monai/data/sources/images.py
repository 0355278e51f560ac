"""Reading of images and masks (PNG, JPEG, TIFF, BMP, NIfTI) for `prepare`, with errors that name the file.

Arrays are row-first. A NIfTI's first axis runs along x (columns), as in MONAI and ITK, so it is transposed here. It is
one slice, or a volume (row, column, slice) where the caller asks for volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError

__all__ = ["IMAGE_SUFFIXES", "RasterImage", "find_images", "image_stem", "read_image", "read_mask", "read_masks"]

NIFTI_SUFFIXES = (".nii.gz", ".nii")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", *NIFTI_SUFFIXES)
LOSSY_SUFFIXES = (".jpg", ".jpeg")


@dataclass(frozen=True)
class RasterImage:
    """An image as read.

    Attributes:
        array: (H, W) or (H, W, 3) uint8, or (H, W) int16; volumes (H, W, D) int16.
        spacing_mm: (row, column[, slice]), NIfTI only.
        affine: (4, 4) from (row, column, slice) to RAS millimetres, NIfTI only.
    """

    array: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None


def image_stem(path: Path) -> str:
    """File name without its image suffix (``a.nii.gz`` and ``a.png`` are both ``a``)."""
    lower = path.name.lower()
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if lower.endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def find_images(folder: Path) -> dict[str, Path]:
    """Stem to path of the images directly in a folder; hidden files are skipped.

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


def read_image(path: Path, volume: bool = False) -> RasterImage:
    """Read an image as 8-bit grey or RGB, or as 16-bit grey (int16) where the file holds such values.

    Palette and CMYK images become RGB, an alpha channel is dropped. With `volume` it is a NIfTI volume, always int16.

    Raises:
        InputError: unreadable or truncated file, a volume although `volume` is False or the reverse, values that
            neither 8 bits nor int16 can hold.
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array, spacing_mm, affine = _read_nifti(path, volume)
        return RasterImage(_to_int16(array, path), spacing_mm, affine)
    _refuse_raster(path, volume)
    image = _open(path)
    if image.mode in ("L", "1", "LA", "La"):
        return RasterImage(np.array(image.convert("L")))
    if image.mode.startswith(("I", "F")):
        return RasterImage(_to_int16(np.array(image), path))
    return RasterImage(np.array(image.convert("RGB")))


def read_mask(path: Path, volume: bool = False) -> np.ndarray:
    """Read a binary mask, (H, W) or with `volume` (H, W, D), uint8 in {0, 1}.

    Where no value is above 1 the mask is value > 0 (labels 0 and 1), else value > 127 (0 and 255, grey edges included).
    For colour masks the largest channel counts.

    Raises:
        InputError: unreadable file, or values that are neither 0/1 nor 0…255 (a label map of several classes).
    """
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array = _read_nifti(path, volume)[0]
    else:
        _refuse_raster(path, volume)
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
    # Without this a map of classes 0…5 would silently become an empty mask. JPEG noise on an empty mask is no such map.
    if top <= 127 and not path.name.lower().endswith(LOSSY_SUFFIXES):
        raise InputError(
            f"{path}: mask values run up to {top}; expected 0 and 1, or 0 and 255 (threshold > 127). Save one binary "
            "mask per file."
        )
    return (array > 127).astype(np.uint8)


def read_masks(paths: list[Path], image_path: Path, image: np.ndarray, volume: bool = False) -> np.ndarray:
    """Read one mask per rater and stack them, (R, H, W[, D]) uint8.

    Raises:
        InputError: as `read_mask`, or a mask whose size is not the image's (names both files and both sizes).
    """
    masks = []
    for path in paths:
        mask = read_mask(path, volume)
        expected = image.shape if volume else image.shape[:2]
        if mask.shape != expected:
            raise InputError(
                f"{path} is {_size_text(mask.shape)} (width×height{'×slices' if volume else ''}), its image "
                f"{image_path} is {_size_text(expected)}; expected the same size: outline or resample the mask on the "
                "image's grid."
            )
        masks.append(mask)
    return np.stack(masks)


def _size_text(shape: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in (shape[1], shape[0], *shape[2:]))


def _refuse_raster(path: Path, volume: bool) -> None:
    if volume:
        raise InputError(f"{path}: a single image; expected NIfTI volumes, as --volumes was given. Leave it out.")


def _open(path: Path):
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: unreadable or truncated image ({error}); replace the file.") from error


def _read_nifti(path: Path, volume: bool = False) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    import nibabel

    try:
        image = nibabel.Nifti1Image.from_filename(path)
        shape = image.shape
        dims = 3 if volume else 2
        if volume and (len(shape) < 3 or shape[2] == 1 or any(size != 1 for size in shape[3:])):
            raise InputError(f"{path}: a NIfTI of shape {shape}; expected a volume of several slices (--volumes).")
        if len(shape) < dims or any(size != 1 for size in shape[dims:]):
            raise InputError(
                f"{path}: a NIfTI of shape {shape}; expected one 2D slice. Write the slices of a volume as single "
                "files (group them by patient with --group-pattern), or give --volumes to keep volumes whole."
            )
        array = np.asarray(image.dataobj).reshape(shape[:dims]).swapaxes(0, 1)
        affine = np.asarray(image.affine, dtype=np.float64)[:, [1, 0, 2, 3]]
    except InputError:
        raise
    except Exception as error:  # nibabel raises many kinds: ImageFileError, EOFError, zlib.error, HeaderDataError
        raise InputError(f"{path}: unreadable or truncated NIfTI ({error}); replace the file.") from error
    return array, tuple(float(width) for width in np.linalg.norm(affine[:3, :dims], axis=0)), affine


def _to_int16(array: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers as uint8 where the file of an image says so, else as int16."""
    if array.dtype == np.uint8 and array.ndim == 2:
        return np.ascontiguousarray(array)
    if array.ndim not in (2, 3) or array.dtype.kind not in "iufb":
        raise InputError(
            f"{path}: {array.dtype} image of shape {array.shape}; expected grey values: save it as 8-bit PNG."
        )
    low, high = array.min(), array.max()
    limits = np.iinfo(np.int16)
    whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
    if not (whole and limits.min <= low and high <= limits.max):
        raise InputError(
            f"{path}: values from {low} to {high} ({array.dtype}); expected whole numbers from {limits.min} to "
            f"{limits.max}. Rescale the image to 8 or 15 bits first."
        )
    return np.ascontiguousarray(array.astype(np.int16))
