"""A prepared folder that grows label by label, from the page of `view` or from MONAI Label; `train` takes it any time.

Unless the caller says so, of every five groups the second goes to validation, the others to training, in the order in
which they come; a group stays where it is. What is labelled again replaces its earlier label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from .. import __version__
from ..errors import InputError
from ..files import save_json
from ..locks import locked
from .case_files import write_case
from .datalist import load_dataset_info
from .sources.images import round_hu, to_int16
from .sources.source import PreparedCase, natural_key
from .splits import SPLITS

SOURCE = "labels"
# Place of the groups for validation among as many groups.
VALIDATION_PLACE, CYCLE = 1, 5
SPLIT_METHOD = "the second of every five groups for validation"


def add_labels(
    folder: str | Path,
    group: str,
    thing: str,
    cases: Sequence[PreparedCase],
    file: tuple[str, str],
    part: str | None = None,
    split: str = SPLIT_METHOD,
) -> Path:
    """Add the labelled cases of one thing, or put them in the place of its earlier ones.

    Args:
        folder: of the labels; made if there is none.
        group: what a split must keep together, such as a patient.
        thing: name of what is labelled, a picture or a nodule with all its slices.
        cases: images of one kind with one mask each; their `extra` may say who labelled them.
        file: name of the file that they come from, and a digest that tells it from others of that name.
        part: ``"training"`` or ``"validation"``, of a new group.
        split: how parts are chosen, for ``dataset.json``.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the folder holds another data set, or images of another kind, or the thing or its cases from
            another file; or it cannot be written to.
    """
    folder = Path(folder)
    path = folder / "dataset.json"
    with locked(folder):
        dataset = load_dataset_info(folder) if path.is_file() else _begin(split)
        _check_kind(path, dataset, cases[0])
        _check_origin(path, dataset, thing, cases, file)
        items = {part: list(dataset[part]) for part in SPLITS}
        groups = {item["group"]: part for part in SPLITS for item in items[part]}
        if group in groups or part is None:
            part = groups.get(group, "validation" if len(groups) % CYCLE == VALIDATION_PLACE else "training")
        origin = {"thing": thing, "file": file[0], "file_sha256": file[1]}
        added = [{**write_case(case, group, folder, [])[0], **origin} for case in cases]
        kept = [item for item in items[part] if item.get("thing") != thing]
        before = [item for item in items[part] if item.get("thing") == thing]
        items[part] = sorted([*kept, *added], key=lambda item: natural_key(item["case"]))
        channels = 3 if cases[0].image.ndim == 3 else 1
        save_json({**dataset, "num_channels": channels, **items}, path)
        # Only now: until dataset.json is saved they belong to the earlier label.
        for name in _list_files(before) - _list_files(added):
            (folder / name).unlink(missing_ok=True)
    return path


def crop_case(
    name: str, plane: MetaTensor, mask: np.ndarray, path: Path, hounsfield: bool = False, **extra: Any
) -> PreparedCase:
    """The case of a plane that was cut out of a volume, as 16-bit grey values.

    Args:
        name: case id.
        plane: (1, H, W).
        mask: (H, W).
        path: of the volume, for messages.
        hounsfield: the values are Hounsfield units, which may be rounded.
        extra: of the case.

    Raises:
        InputError: values that are no whole numbers of 16 bits.
    """
    values = plane.as_tensor()[0].numpy()
    image = round_hu(values) if hounsfield else to_int16(values, path)
    affine = np.asarray(plane.affine, dtype=float)
    spacing = tuple(float(value) for value in np.linalg.norm(affine[:3, :2], axis=0))
    return PreparedCase(name, image, mask[None], spacing, affine, extra)


def list_labelled(folder: str | Path) -> set[str]:
    """Names of the things that have a label in a folder; none if there is no such folder."""
    if not (Path(folder) / "dataset.json").is_file():
        return set()
    dataset = load_dataset_info(folder)
    return {str(item.get("thing")) for part in SPLITS for item in dataset.get(part, [])}


def _begin(split: str) -> dict[str, Any]:
    return {
        "name": "Labels",
        "source": SOURCE,
        "modality": "unknown",
        "description": "Masks that were outlined, accepted or corrected one by one.",
        "num_channels": None,
        "num_raters": 1,
        "labels": {"0": "background", "1": "foreground"},
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": {"method": split, "group_unit": "group"},
        "provenance": {"package_version": __version__},
        **{part: [] for part in SPLITS},
    }


def _check_kind(path: Path, dataset: dict[str, Any], case: PreparedCase) -> None:
    """Raise the InputError of a folder that holds something else."""
    if dataset.get("source") != SOURCE:
        raise InputError(
            f"{path}: a data set of the source {dataset.get('source')!r}; expected labels that were saved one by one. "
            "Choose another folder."
        )
    first = next((item for part in SPLITS for item in dataset[part]), None)
    if first is None:
        return
    kind = 3 if case.image.ndim == 3 else 1, case.image.dtype == "uint8"
    found = dataset["num_channels"], first["image"].endswith(".png")
    if kind != found:
        names = [f"{channels} channel(s) of {'8' if small else '16'} bits" for channels, small in (found, kind)]
        raise InputError(f"{path}: holds images of {names[0]}, {case.case} has {names[1]}. Choose another folder.")


def _check_origin(
    path: Path, dataset: dict[str, Any], thing: str, cases: Sequence[PreparedCase], file: tuple[str, str]
) -> None:
    """Raise the InputError of a label that would overwrite that of another file."""
    names = {case.case for case in cases}
    for item in (item for part in SPLITS for item in dataset[part]):
        same = item.get("thing") == thing
        if item["case"] in names and not same:
            raise InputError(
                f"{path}: {item['case']} is a label of {item.get('thing')!r}, and would be one of {thing!r} as well. "
                "Rename the image, or choose another folder."
            )
        if same and item.get("file_sha256") != file[1]:
            raise InputError(
                f"{path}: {thing} is labelled already, from another file {item.get('file')!r} than this {file[0]!r}: "
                "its content differs. Rename the image, or choose another folder."
            )


def _list_files(items: Sequence[dict[str, Any]]) -> set[str]:
    return {item[key] for item in items for key in ("image", "label")}
