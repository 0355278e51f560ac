"""Where in a volume to look: ``--point``, ``--index`` and ``--roi``, made into one LPS point an input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.nodule_crop import index_to_point, point_to_index
from ..errors import InputError
from .reading import NiftiInput, RasterInput, VolumeInput

__all__ = ["Place", "find_point", "parse_places"]

# Name of the argument and its numbers.
Place = tuple[str, tuple[float, ...]]
FORMS = {"point": (3, "X,Y,Z"), "index": (3, "I,J,K"), "roi": (6, "X0,Y0,Z0,X1,Y1,Z1")}


def parse_places(given: Mapping[str, Any], number: int) -> list[Place | None]:
    """The place in each of `number` inputs, or ``None`` where none is given.

    Args:
        given: values of the arguments point, index and roi: numbers, text such as "1,2,3", a list with an entry an
            input, or ``None``.
        number: of inputs.

    Raises:
        InputError: two arguments at once, not the right count of numbers, or not one place an input.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        return [None] * number
    if len(named) > 1:
        both = " and ".join(f"--{name}" for name in named)
        raise InputError(f"{both} are given; expected one of them: leave the others out.")
    name, value = next(iter(named.items()))
    length, form = FORMS[name]
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.ndim not in (1, 2) or array.shape[-1] != length or not np.isfinite(array).all():
        raise InputError(f"--{name} is {given[name]!r}; expected {length} numbers, {form}.")
    if name == "index" and not np.array_equal(array, np.rint(array)):
        raise InputError(f"--index is {given[name]!r}; expected whole numbers, {form}. Millimetres go to --point.")
    rows = array.reshape(-1, length)
    if len(rows) != number:
        raise InputError(
            f"--{name} names {len(rows)} place(s) for {number} input(s); expected one an input. "
            "Call predict once for each volume, or from Python give a list of places."
        )
    return [(name, tuple(float(entry) for entry in row)) for row in rows]


def find_point(source: RasterInput | VolumeInput, place: Place | None, crops: bool, bundle: str) -> np.ndarray | None:
    """LPS point at which a volume is to be cut.

    Args:
        source: the opened input.
        place: what the user said.
        crops: whether the bundle works on crops around a place.
        bundle: its name, for messages.

    Returns:
        (x, y, z) in millimetres; ``None`` for an image that is taken whole.

    Raises:
        InputError: a place is missing, outside the volume, or of no use here.
    """
    if isinstance(source, RasterInput):
        if place is not None:
            raise InputError(
                f"{source.path}: --{place[0]} is given, but a PNG or JPEG has no position in space; leave it out."
            )
        return None
    if not crops:
        if source.needs_place:
            raise InputError(f"{source.path}: a volume of shape {source.shape}; the bundle {bundle} takes 2D images.")
        return None if place is None else _check_inside(source, place)
    if place is not None:
        if isinstance(source, NiftiInput) and len(source.file_shape) == 2:
            raise InputError(
                f"{source.path}: --{place[0]} is given, but the NIfTI is a 2D image, taken as a crop; leave it out."
            )
        return _check_inside(source, place)
    if source.needs_place:
        x, y, z = index_to_point([(side - 1) / 2 for side in source.shape], source.affine)
        raise InputError(
            f"{source.path}: a volume of shape {source.shape}; the bundle {bundle} needs to know where the nodule is. "
            "Give --point X,Y,Z or --roi X0,Y0,Z0,X1,Y1,Z1 (LPS millimetres; the volume's middle is "
            f"{x:.1f},{y:.1f},{z:.1f}) or --index I,J,K (column, row, slice from 0)."
        )
    return None


def _check_inside(source: VolumeInput, place: Place) -> np.ndarray:
    name, numbers = place
    if name == "index":
        point = index_to_point(numbers, source.affine)
    elif name == "roi":
        point = (np.array(numbers[:3]) + np.array(numbers[3:])) / 2
    else:
        point = np.array(numbers)
    voxel = point_to_index(point, source.affine)
    # A voxel reaches half a voxel around its centre; the tolerance is for rounded millimetres.
    if np.all(voxel >= -0.501) and np.all(voxel <= np.array(source.shape) - 0.499):
        return point
    written = ",".join(f"{number:g}" for number in numbers)
    if name == "index":
        last = ",".join(str(side - 1) for side in source.shape)
        raise InputError(f"{source.path}: --index {written} is outside the volume; expected 0,0,0 to {last}.")
    corners = np.array(
        [index_to_point(np.array(corner) * source.shape - 0.5, source.affine) for corner in np.ndindex(2, 2, 2)]
    )
    extent = ", ".join(
        f"{axis} {low:.1f} to {high:.1f}" for axis, low, high in zip("xyz", corners.min(0), corners.max(0), strict=True)
    )
    what = f"--roi {written}: its centre is" if name == "roi" else f"--point {written} is"
    raise InputError(
        f"{source.path}: {what} outside the volume, which extends over {extent} mm (LPS). Give a place inside it; "
        "RAS coordinates need the signs of x and y turned."
    )
