"""Where in a volume to segment: ``--point``, ``--index`` and ``--roi``, converted to the LPS points of each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    from .reading import RasterInput, VolumeInput

# Name of the argument and its numbers.
Place = tuple[str, tuple[float, ...]]
FORMS = {"point": (3, "X,Y,Z"), "index": (3, "I,J,K"), "roi": (6, "X0,Y0,Z0,X1,Y1,Z1")}


class MissingPlace(InputError):
    """A volume is given without a place, and the bundle needs one."""


def parse_places(given: Mapping[str, Any], number: int) -> list[list[Place]]:
    """Parse the places in each of `number` inputs; an empty list where none is given.

    Args:
        given: values of the arguments point, index and roi, or ``None``. A place is numbers or text such as "1,2,3".
            For a single input it may be a list of places, or text with semicolons between them. For several inputs it
            is a list with one entry per input: a place or a list of places.
        number: of inputs.

    Raises:
        InputError: two arguments at once, not the right count of numbers, a place twice, or not one entry per input.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if not named:
        return [[] for _ in range(number)]
    if len(named) > 1:
        both = " and ".join(f"--{name}" for name in named)
        raise InputError(f"{both} are given; expected one of them: leave the others out.")
    name, value = next(iter(named.items()))
    length, form = FORMS[name]
    wrong = InputError(
        f"--{name} is {value!r}; expected {length} numbers, {form}, or several such with semicolons between."
    )
    if isinstance(value, str):
        value = [part.replace(",", " ").split() for part in value.split(";") if part.strip()]
    depth = _depth(value)
    # One place, the places of one input, or a list with one entry per input.
    if depth == 1:
        value = [value]
    if number == 1 and depth < 3:
        value = [value]
    if not isinstance(value, Sequence | np.ndarray) or not len(value):
        raise wrong
    if len(value) != number:
        raise InputError(
            f"--{name} names {len(value)} place(s) for {number} input(s); expected one entry per input. "
            "Call predict once for each volume, or from Python give a list with the places of each."
        )
    result = []
    for entry in value:
        try:
            rows = np.asarray(entry, dtype=float)
        except (TypeError, ValueError):
            raise wrong from None
        if rows.ndim not in (1, 2) or rows.shape[-1] != length or not rows.size or not np.isfinite(rows).all():
            raise wrong
        if name == "index" and not np.array_equal(rows, np.rint(rows)):
            raise InputError(
                f"--index is {given[name]!r}; expected whole numbers, {form}. Give millimetres to --point."
            )
        places = [(name, tuple(float(number) for number in row)) for row in rows.reshape(-1, length)]
        if len(set(places)) < len(places):
            raise InputError(f"--{name} is {given[name]!r}; it names a place twice. Give every nodule once.")
        result.append(places)
    return result


def _depth(value: Any) -> int:
    """How deep numbers are nested: 1 for a place, 2 for a list of places, 3 for a list of such lists."""
    depth = 0
    while isinstance(value, Sequence | np.ndarray) and not isinstance(value, str) and len(value):
        value, depth = value[0], depth + 1
    return depth


def find_points(source: RasterInput | VolumeInput, places: Sequence[Place], crops: bool, bundle: str) -> np.ndarray:
    """Find the LPS points at which a volume is cut.

    Args:
        source: the opened input.
        places: what the user gave.
        crops: whether the bundle works on crops around a place.
        bundle: its name, for messages.

    Returns:
        (K, 3), x, y, z in millimetres, one row per place; no row for an image that is taken whole.

    Raises:
        MissingPlace: the bundle needs a place, and none is given.
        InputError: a place is outside the volume, or of no use here.
    """
    # Imported here: they import MONAI, which takes seconds, and `parse_places` does not need it.
    from .planes import index_to_point
    from .reading import NiftiInput, RasterInput

    nothing = np.empty((0, 3))
    argument = f"--{places[0][0]}" if places else ""
    if isinstance(source, RasterInput):
        if places:
            raise InputError(
                f"{source.path}: {argument} is given, but a PNG or JPEG has no position in space; leave it out."
            )
        return nothing
    if not crops:
        if source.needs_place:
            raise InputError(f"{source.path}: a volume of shape {source.shape}; the bundle {bundle} takes 2D images.")
        if places:
            raise InputError(f"{source.path}: {argument} is given, but the bundle {bundle} takes the image whole.")
        return nothing
    if places:
        if isinstance(source, NiftiInput) and len(source.file_shape) == 2:
            raise InputError(
                f"{source.path}: {argument} is given, but the NIfTI is a 2D image, taken as a crop; leave it out."
            )
        return np.array([_check_inside(source, place) for place in places])
    if source.needs_place:
        x, y, z = index_to_point([(side - 1) / 2 for side in source.shape], source.affine)
        raise MissingPlace(
            f"{source.path}: a volume of shape {source.shape}; the bundle {bundle} needs to know where the nodule is. "
            "Give --point X,Y,Z or --roi X0,Y0,Z0,X1,Y1,Z1 (LPS millimetres; the volume's middle is "
            f"{x:.1f},{y:.1f},{z:.1f}) or --index I,J,K (column, row, slice from 0)."
        )
    return nothing


def _check_inside(source: VolumeInput, place: Place) -> np.ndarray:
    from .planes import describe_extent, index_to_point, is_inside, point_to_index

    name, numbers = place
    if name == "index":
        point = index_to_point(numbers, source.affine)
    elif name == "roi":
        point = (np.array(numbers[:3]) + np.array(numbers[3:])) / 2
    else:
        point = np.array(numbers)
    if is_inside(point_to_index(point, source.affine), source.shape):
        return point
    written = ",".join(f"{number:g}" for number in numbers)
    if name == "index":
        last = ",".join(str(side - 1) for side in source.shape)
        raise InputError(f"{source.path}: --index {written} is outside the volume; expected 0,0,0 to {last}.")
    what = f"--roi {written}: its centre is" if name == "roi" else f"--point {written} is"
    raise InputError(
        f"{source.path}: {what} outside the volume, which extends over {describe_extent(source.shape, source.affine)} "
        "mm (LPS). Give a place inside it; for RAS coordinates change the signs of x and y."
    )
