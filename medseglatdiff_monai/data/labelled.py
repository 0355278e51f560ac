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
from .sources.source import PreparedCase, natural_key
from .splits import SPLITS

SOURCE = "labels"
# Place of the groups for validation among as many groups.
VALIDATION_PLACE, CYCLE = 1, 5


def add_labels(
    folder: str | Path, group: str, thing: str, cases: Sequence[PreparedCase], part: str | None = None
) -> Path:
    """Add the labelled cases of one thing, or put them in the place of its earlier ones.

    Args:
        folder: of the labels; made if there is none.
        group: what a split must keep together, such as a patient.
        thing: name of what is labelled, a picture or a nodule with all its slices.
        cases: images of one kind with one mask each; their `extra` may say who labelled them.
        part: ``"training"`` or ``"validation"``, of a new group.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: the folder holds another data set, or images of another kind, or cannot be written to.
    """
    folder = Path(folder)
    path = folder / "dataset.json"
    with locked(folder):
        dataset = load_dataset_info(folder) if path.is_file() else _begin()
        _check_kind(path, dataset, cases[0])
        items = {part: list(dataset[part]) for part in SPLITS}
        groups = {item["group"]: part for part in SPLITS for item in items[part]}
        if group in groups or part is None:
            part = groups.get(group, "validation" if len(groups) % CYCLE == VALIDATION_PLACE else "training")
        added = [write_case(case, group, folder, [])[0] for case in cases]
        kept = [item for item in items[part] if item.get("thing") != thing]
        items[part] = sorted(
            [*kept, *({**item, "thing": thing} for item in added)], key=lambda item: natural_key(item["case"])
        )
        channels = 3 if cases[0].image.ndim == 3 else 1
        save_json({**dataset, "num_channels": channels, **items}, path)
    return path


def crop_case(name: str, plane: MetaTensor, mask: np.ndarray, **extra: Any) -> PreparedCase:
    """The case of a plane (1, H, W) that was cut out of a volume, as 16-bit grey values, and its mask (H, W)."""
    image = np.rint(plane.as_tensor()[0].numpy()).clip(-32768, 32767).astype(np.int16)
    affine = np.asarray(plane.affine, dtype=float)
    spacing = tuple(float(value) for value in np.linalg.norm(affine[:3, :2], axis=0))
    return PreparedCase(name, image, mask[None], spacing, affine, extra)


def list_labelled(folder: str | Path) -> set[str]:
    """Names of the things that have a label in a folder; none if there is no such folder."""
    if not (Path(folder) / "dataset.json").is_file():
        return set()
    dataset = load_dataset_info(folder)
    return {str(item.get("thing")) for part in SPLITS for item in dataset.get(part, [])}


def _begin() -> dict[str, Any]:
    return {
        "name": "Labels",
        "source": SOURCE,
        "modality": "unknown",
        "description": "Masks that were outlined, accepted or corrected one by one.",
        "num_channels": None,
        "num_raters": 1,
        "labels": {"0": "background", "1": "foreground"},
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": {"method": "the second of every five groups for validation", "group_unit": "group"},
        "provenance": {"package_version": __version__},
        **{part: [] for part in SPLITS},
    }


def _check_kind(path: Path, dataset: dict[str, Any], case: PreparedCase) -> None:
    """Raise the InputError of a folder that holds something else."""
    if dataset.get("source") != SOURCE:
        raise InputError(
            f"{path}: a data set of the source {dataset.get('source')!r}; expected labels that were saved one by one. "
            "Give another folder with --labels."
        )
    first = next((item for part in SPLITS for item in dataset[part]), None)
    if first is None:
        return
    kind = 3 if case.image.ndim == 3 else 1, case.image.dtype == "uint8"
    found = dataset["num_channels"], first["image"].endswith(".png")
    if kind != found:
        names = [f"{channels} channel(s) of {'8' if small else '16'} bits" for channels, small in (found, kind)]
        raise InputError(
            f"{path}: holds images of {names[0]}, {case.case} has {names[1]}. Give another folder with --labels."
        )
