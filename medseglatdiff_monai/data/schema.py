"""What ``dataset.json`` may hold, checked where the file enters, so that no later step has to doubt it.

The file may come from somebody else, and a case id becomes a file name: one that leads out of a folder, or an image
that lies elsewhere, is refused here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from ..errors import InputError
from .splits import SPLITS

# Results are named by the case with an ending of up to 40 characters; file systems take names of 255 bytes.
CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
CASE_ID_MEANS = "at most 200 of letters, digits, '.', '_' and '-', a letter or digit first"


def make_case_id(stem: str) -> str:
    """A case id of a file's stem, as like it as can be; of several stems it may be the same one."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "case"


def _check_case(case: str) -> str:
    if not CASE_ID.fullmatch(case):
        raise PydanticCustomError("case", "{means}", {"means": f"a name for files: {CASE_ID_MEANS}"})
    return case


def _check_path(name: str) -> str:
    # On Windows a backslash separates folders, and a drive makes a path absolute; a data set is used on any system.
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or parts[0][1:2] == ":" or ".." in parts:
        raise PydanticCustomError("path", "a path below the folder of dataset.json")
    return name


CaseId = Annotated[str, AfterValidator(_check_case)]
FilePath = Annotated[str, AfterValidator(_check_path)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Item(BaseModel):
    """One case; sources may add keys."""

    model_config = ConfigDict(strict=True)
    image: FilePath
    label: FilePath
    case: CaseId
    group: str = ""
    spacing_mm: list[Positive] | None = None


class _Dataset(BaseModel):
    """What the commands read of the file; folders made by hand may hold less than ``prepare`` writes."""

    model_config = ConfigDict(strict=True)
    name: str = ""
    modality: str = ""
    num_channels: int | None = Field(None, ge=1)
    num_raters: int | None = Field(None, ge=1)
    spatial_dims: int = Field(2, ge=2, le=3)
    labels: dict[str, str] = Field(default_factory=dict)
    raters: list[str] = Field(default_factory=list)
    training: list[_Item] = Field(default_factory=list)
    validation: list[_Item] = Field(default_factory=list)
    test: list[_Item] = Field(default_factory=list)


def check_content(content: Any, path: Path) -> dict[str, Any]:
    """Content of a ``dataset.json``, unchanged.

    Args:
        content: what the file holds.
        path: the file, in the folder of the data set.

    Raises:
        InputError: a value is missing, of another kind, or names a file outside the folder; the message says which.
    """
    try:
        _Dataset.model_validate(content)
    except ValidationError as error:
        raise InputError(_describe(error.errors(include_url=False)[0], path)) from None
    for name in _find_outside(content, path.parent):
        raise InputError(
            f"{path}: {name} is a link that leads out of {path.parent}; expected files in this folder. Copy them there."
        )
    return content


def _describe(error: ErrorDetails, path: Path) -> str:
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}"
    place = place.removeprefix(".") or "the content"
    advice = "Correct the file, or prepare the data set again."
    expected = re.sub(r"^Input should be ", "", error["msg"])
    if error["type"] == "missing":
        return f"{path}: {place} is missing; expected a value there. {advice}"
    if error["type"] == "model_type":
        expected = "keys and values, {...}"
    found = repr(error["input"])
    found = found if len(found) <= 80 else f"{found[:76]} ..."
    return f"{path}: {place} is {found}; expected {expected}. {advice}"


def _find_outside(content: dict[str, Any], folder: Path) -> Iterator[str]:
    """Files of the data set that a link puts elsewhere."""
    root = os.path.realpath(folder)
    inside: dict[str, bool] = {}

    def leads_out(path: str) -> bool:
        real = os.path.realpath(path)
        return os.path.commonpath([root, real]) != root

    for name in (item[key] for part in SPLITS for item in content.get(part, []) for key in ("image", "label")):
        path = os.path.join(root, name)
        # Thousands of files lie in two folders: each folder is followed once, and of the files those that are links.
        parent = os.path.dirname(path)
        if parent not in inside:
            inside[parent] = not leads_out(parent)
        if not inside[parent] or (os.path.islink(path) and leads_out(path)):
            yield name
