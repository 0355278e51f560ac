"""Reading of images and masks (PNG, JPEG, TIFF, BMP, NIfTI) for `prepare`, with errors that name the file.

Arrays are row-first. A NIfTI's first axis runs along x (columns), as in MONAI and ITK, so it is transposed here. It is
one slice, or a volume (row, column, slice) where the caller asks for volumes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...console import count
from ...errors import InputError
from ...io.formats import NIFTI_SUFFIXES
from ...io.nifti import open_nifti
from ...io.pictures import read_picture

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", *NIFTI_SUFFIXES)
LOSSY_SUFFIXES = (".jpg", ".jpeg")
# Values of a mask that are neither dark nor bright are its edges. Where they are more than this share of all, and so
# many different ones, it is an image.
MAX_EDGES, MANY_VALUES = 0.25, 16
# Share of a pixel by which the grids of a mask and of its image may differ: affines are rounded.
SAME_PLACE = 0.1

logger = logging.getLogger(__name__)


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
    """Stem to path of the images directly in a folder; hidden files are skipped, other files passed over with a word.

    Raises:
        InputError: two files of one stem, such as ``a.png`` and ``a.jpg``.
    """
    found: dict[str, Path] = {}
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            (images if path.name.lower().endswith(IMAGE_SUFFIXES) else others).append(path)
    if others:
        number, expected = count(len(others), "file"), ", ".join(IMAGE_SUFFIXES)
        logger.warning("%s: passed over %s, such as %s; images are %s.", folder, number, others[0].name, expected)
    for path in images:
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
        return RasterImage(to_int16(array, path), spacing_mm, affine)
    _refuse_raster(path, volume)
    image = read_picture(path)
    if image.mode in ("L", "1", "LA", "La"):
        return RasterImage(np.array(image.convert("L")))
    if image.mode.startswith(("I", "F")):
        return RasterImage(to_int16(np.array(image), path))
    return RasterImage(np.array(image.convert("RGB")))


def read_mask(path: Path, volume: bool = False) -> np.ndarray:
    """Read a binary mask, (H, W) or with `volume` (H, W, D), uint8 in {0, 1}.

    Where no value is above 1 the mask is value > 0 (labels 0 and 1), else value > 127 (0 and 255, grey edges included),
    of 16 bits more than half of the largest.
    Of colour masks the largest channel counts, whether a palette gives the colours or the file itself; of masks with
    transparency what is opaque, if the colours do not say otherwise.

    Raises:
        InputError: unreadable file, or values that are neither 0/1 nor 0…255: a label map of several classes, a
            picture, a CT.
    """
    return _read_mask(path, volume)[0]


def read_masks(
    paths: list[Path], image_path: Path, image: np.ndarray, volume: bool = False, affine: np.ndarray | None = None
) -> np.ndarray:
    """Read one mask per rater and stack them, (R, H, W[, D]) uint8.

    Args:
        paths: the masks' files.
        image_path: file of their image, for messages.
        image: its pixels, (H, W[, 3]), or with `volume` (H, W, D).
        volume: see `read_mask`.
        affine: the image's, with which those of NIfTI masks are compared; None: it has none.

    Raises:
        InputError: as `read_mask`, or a mask whose size, or place in space, is not the image's (names both files).
    """
    masks = []
    expected = image.shape if volume else image.shape[:2]
    for path in paths:
        mask, own = _read_mask(path, volume)
        if mask.shape != expected:
            raise InputError(
                f"{path} is {_size_text(mask.shape)} (width×height{'×slices' if volume else ''}), its image "
                f"{image_path} is {_size_text(expected)}; expected the same size: outline or resample the mask on the "
                "image's grid."
            )
        if own is not None and affine is not None:
            distance_mm = _measure_shift(own, affine, expected)
            if distance_mm > SAME_PLACE * np.linalg.norm(affine[:3, : len(expected)], axis=0).min():
                raise InputError(
                    f"{path}: its affine puts voxels up to {distance_mm:.2f} mm from those of {image_path}; expected "
                    "one grid. Resample the mask on the image's grid, or flip it, or fix the affine that is wrong."
                )
        masks.append(mask)
    return np.stack(masks)


def _read_mask(path: Path, volume: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The mask, and of a NIfTI its affine from (row, column, slice)."""
    affine = None
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        array, _, affine = _read_nifti(path, volume)
    else:
        _refuse_raster(path, volume)
        array = _read_brightness(path)
    top = array.max(initial=0)
    whole = array.dtype.kind != "f" or np.array_equal(array, np.rint(array))
    if array.min(initial=0) < 0 or not np.isfinite(top) or not whole:
        raise InputError(f"{path}: mask values from {array.min()} to {top}; expected 0 and 1, or 0 and 255.")
    if top <= 1:
        return (array > 0).astype(np.uint8), affine
    # Without this a map of classes 0…5 would silently become an empty mask. JPEG noise on an empty mask is no such map.
    if top <= 127 and not path.name.lower().endswith(LOSSY_SUFFIXES):
        raise InputError(
            f"{path}: mask values run up to {top}; expected 0 and 1, or 0 and 255 (threshold > 127). Save one binary "
            "mask per file."
        )
    scale = max(255, int(top))
    between = array[(array > scale / 8) & (array < scale * 7 / 8)]
    if between.size > MAX_EDGES * array.size and len(np.unique(between)) >= MANY_VALUES:
        raise InputError(
            f"{path}: {100 * between.size / array.size:.0f}% of its values are between dark and bright (up to {top}); "
            "expected a mask of 0 and 1, or 0 and 255, with grey at most along its edges. Is it an image? Give the "
            "folder of the masks."
        )
    return (array > scale / 2).astype(np.uint8), affine


def _read_brightness(path: Path) -> np.ndarray:
    """Values (H, W) of a picture that is to be a mask."""
    image = read_picture(path)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _read_transparent(path, np.array(image.convert("RGBA")))
    if image.mode == "P":
        return _read_palette(path, np.array(image), np.array(image.getpalette("RGB"), dtype=np.uint8).reshape(-1, 3))
    if image.mode in ("CMYK", "YCbCr", "RGBX", "LAB", "HSV"):
        image = image.convert("RGB")
    array = np.array(image)
    return array.max(axis=2) if array.ndim == 3 else array


def _read_palette(path: Path, indices: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of the colours that indices stand for: index 1 may well be black."""
    # An index beyond the palette is black, as viewers show it.
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(palette)] = palette
    used = colours[np.unique(indices)]
    is_grey = (used == used[:, :1]).all()
    if not is_grey and (len(used) > 2 or (used.max(axis=1) > 127).all()):
        raise InputError(
            f"{path}: a palette of {len(used)} colours, {used[:4].tolist()}; expected black and one other: a mask of "
            "one class. Save one binary mask per file."
        )
    return colours.max(axis=1)[indices]


def _read_transparent(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Brightness (H, W) of a mask (H, W, 4) with transparency, or its opacity."""
    colours, opacity = pixels[..., :3], pixels[..., 3]
    brightness = colours.max(axis=2)
    if opacity.min(initial=255) == 255:
        return brightness
    on_black = brightness * (opacity / 255.0)
    if (colours == colours[:1, :1]).all() or np.array_equal(opacity > 127, on_black > 127):
        return opacity
    raise InputError(
        f"{path}: its colours and its transparency are different masks; expected one. Save the mask as a grey PNG, "
        "0 and 255, without transparency."
    )


def _measure_shift(one: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """Largest distance in millimetres between a corner of a grid under two affines."""
    corners = np.array([[*(place * (np.array(shape) - 1)), *[0] * (3 - len(shape)), 1.0]
                        for place in np.ndindex(*(2,) * len(shape))])  # fmt: skip
    return float(np.linalg.norm(corners @ (one - other).T, axis=1).max())


def _size_text(shape: tuple[int, ...]) -> str:
    return "×".join(str(side) for side in (shape[1], shape[0], *shape[2:]))


def _refuse_raster(path: Path, volume: bool) -> None:
    if volume:
        raise InputError(f"{path}: a single image; expected NIfTI volumes, as --volumes was given. Leave it out.")


def _read_nifti(path: Path, volume: bool = False) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    image = open_nifti(path)
    shape = image.shape
    dims = 3 if volume else 2
    if volume and (len(shape) < 3 or shape[2] == 1 or any(size != 1 for size in shape[3:])):
        raise InputError(f"{path}: a NIfTI of shape {shape}; expected a volume of several slices (--volumes).")
    if len(shape) < dims or any(size != 1 for size in shape[dims:]):
        raise InputError(
            f"{path}: a NIfTI of shape {shape}; expected one 2D slice. Write the slices of a volume as single "
            "files (group them by patient with --group-pattern), or give --volumes to keep volumes whole."
        )
    try:
        array = np.asarray(image.dataobj).reshape(shape[:dims]).swapaxes(0, 1)
    except Exception as error:  # nibabel raises many kinds: EOFError, zlib.error, OSError
        raise InputError(f"{path}: unreadable or truncated NIfTI ({error}); replace the file.") from error
    affine = np.asarray(image.affine, dtype=np.float64)[:, [1, 0, 2, 3]]
    return array, tuple(float(width) for width in np.linalg.norm(affine[:3, :dims], axis=0)), affine


def round_hu(values: np.ndarray) -> np.ndarray:
    """Hounsfield units, of which half a one is noise, as the nearest int16."""
    limits = np.iinfo(np.int16)
    return np.rint(values).clip(limits.min, limits.max).astype(np.int16)


def to_int16(array: np.ndarray, path: Path) -> np.ndarray:
    """Whole numbers as uint8 where the file of an image says so, else as int16.

    Raises:
        InputError: values that are no whole numbers, or that int16 cannot hold.
    """
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
