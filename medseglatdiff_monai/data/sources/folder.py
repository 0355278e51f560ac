"""Anyone's own images, or NIfTI volumes, with one mask folder per rater, matched by file name.

Either ``--images DIR --masks DIR1,DIR2,…``, or SRC with ``images/`` and ``masks/`` (one rater), ``masks-0/``,
``masks-1/``, … or ``masks/<rater>/``. A mask has its image's name, whatever the suffix, or the name followed by
``_mask``, ``_segmentation`` or ``_seg``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import InputError
from ..schema import CASE_ID, CASE_ID_MEANS, make_case_id
from .images import IMAGE_SUFFIXES, find_images, read_image, read_masks
from .source import Case, PreparedCase, Source, SourceInfo, natural_key

MASK_ENDINGS = ("", "_mask", "_segmentation", "_seg")


class FolderSource(Source):
    r"""The user's own images and masks; every image is its own group unless `group_pattern` says otherwise.

    Masks: labels 0 and 1 (value > 0), or 0 to 255 (value > 127); those in NIfTI files must lie where their image does.
    Images of 8 bits (grey or RGB) become PNG, grey images of 16 bits and 2D NIfTI become NIfTI. With `volumes` every
    file is a NIfTI volume of grey values and is kept whole, as the experiment ``volumetric`` takes it; volumes of one
    spacing are expected, none is resampled.

    Args:
        images: image folder, if not SRC/images.
        masks: mask folders, one per rater, as a list or separated by commas.
        group_pattern: regular expression searched in the image's name without suffix; its first group, or the whole
            match, is the case's group, e.g. ``^(patient\d+)_``.
        volumes: the images are NIfTI volumes.

    Raises:
        InputError: only one of `images` and `masks` given, or a faulty pattern.
    """

    info = SourceInfo(
        name="folder",
        modality="unknown",
        description="Images and masks of a folder.",
        labels={"0": "background", "1": "foreground"},
        group_unit="group",
    )
    src_required = False
    suffixes = IMAGE_SUFFIXES
    path_options = frozenset({"images", "masks"})

    def __init__(
        self,
        images: str | None = None,
        masks: str | Sequence[str] | None = None,
        group_pattern: str | None = None,
        volumes: bool = False,
    ) -> None:
        if not isinstance(volumes, bool):
            raise InputError(f"--volumes is {volumes!r}; expected true or false.")
        self.volumes = volumes
        if (images is None) != (masks is None):
            raise InputError(
                "the source 'folder' needs --images and --masks together, or SRC with images/ and masks/ in it."
            )
        names = masks.split(",") if isinstance(masks, str) else list(masks or [])
        self.images = images
        self.masks = [str(name).strip() for name in names if str(name).strip()]
        if masks is not None and not self.masks:
            raise InputError("--masks is empty; give one folder per rater, separated by commas.")
        try:
            self.group_pattern = None if group_pattern is None else re.compile(str(group_pattern))
        except re.error as error:
            raise InputError(f"--group-pattern {group_pattern!r}: no regular expression ({error}).") from error
        if self.group_pattern is None:
            self.grouping_warning = (
                "No --group-pattern: every image counts as another patient, so images of one patient may land in "
                "training and in validation, and scores would be too good. Say where a name holds the patient, e.g. "
                r"--group-pattern '^(p\d+)_' for p07_1.png and p07_2.png, or give a --split-file; where every image is "
                "of another patient, --group-pattern '.+' says so."
            )

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per image."""
        if src is not None and self.images is not None:
            raise InputError("the source 'folder' takes SRC or --images with --masks, not both.")
        if self.images is not None:
            image_folder, mask_folders = Path(self.images), [Path(path) for path in self.masks]
        elif src is not None:
            image_folder, mask_folders = _find_layout(src)
        else:
            raise InputError("the source 'folder' needs SRC with images/ and masks/ in it, or --images and --masks.")
        for folder in (image_folder, *mask_folders):
            if not folder.is_dir():
                raise InputError(f"{folder}: no such folder.")
        if len(set(mask_folders)) < len(mask_folders):
            raise InputError(f"--masks names {mask_folders[0]} or another folder twice; give one folder per rater.")
        self.rater_names = tuple(folder.name for folder in mask_folders)
        images = find_images(image_folder)
        if not images:
            raise InputError(f"{image_folder}: holds no image; expected {', '.join(IMAGE_SUFFIXES)} files.")
        masks = [find_images(folder) for folder in mask_folders]
        cases = []
        for stem, path in images.items():
            found = []
            for folder, names in zip(mask_folders, masks, strict=True):
                mask = next((names[stem + ending] for ending in MASK_ENDINGS if stem + ending in names), None)
                if mask is None:
                    raise InputError(
                        f"{path}: has no mask in {folder}; expected {stem}.png there (all black where the rater saw "
                        "nothing)."
                    )
                found.append(str(mask))
            if not CASE_ID.fullmatch(make_case_id(stem)):
                raise InputError(f"{path}: its name is no name of a case; expected {CASE_ID_MEANS}. Rename it.")
            group = self._find_group(stem, path)
            cases.append(Case(stem, group, columns={"image": stem}, files=(str(path), *found)))
        return cases

    def _find_group(self, stem: str, path: Path) -> str:
        if self.group_pattern is None:
            return stem
        match = self.group_pattern.search(stem)
        if match is None:
            raise InputError(
                f"{path}: --group-pattern {self.group_pattern.pattern!r} does not match {stem!r}; fix the pattern."
            )
        group = match[1] if match.re.groups else match[0]
        if not group:
            raise InputError(
                f"{path}: --group-pattern {self.group_pattern.pattern!r} finds an empty group in {stem!r}."
            )
        return group

    def read(self, case: Case) -> Iterator[PreparedCase]:
        """The image at native size."""
        image_path, *mask_paths = (Path(file) for file in case.files)
        image = read_image(image_path, self.volumes)
        masks = read_masks(mask_paths, image_path, image.array, self.volumes, image.affine)
        yield PreparedCase(make_case_id(case.key), image.array, masks, image.spacing_mm, image.affine)


def _find_layout(src: Path) -> tuple[Path, list[Path]]:
    """Image folder and mask folders of SRC, or of the only folder in it (as archives have)."""
    if not (src / "images").is_dir():
        inner = [path for path in src.iterdir() if path.is_dir() and (path / "images").is_dir()]
        if len(inner) != 1:
            raise InputError(f"{src}: no images/ in it; expected images/ and masks/, or give --images and --masks.")
        src = inner[0]
    numbered = [path for path in src.glob("masks-*") if path.is_dir()]
    masks = src / "masks"
    if not numbered and not masks.is_dir():
        raise InputError(
            f"{src}: no masks/ in it; expected masks/, masks-0/, masks-1/, … or masks/<rater>/, one per rater."
        )
    if numbered and masks.is_dir():
        raise InputError(f"{src}: has masks/ and {numbered[0].name}/; keep one layout, or give --images and --masks.")
    # __MACOSX: what a Mac adds to its zip files.
    found = [path for path in masks.glob("[!.]*") if path.is_dir() and path.name != "__MACOSX"]
    raters = numbered or found or [masks]
    return src / "images", sorted(raters, key=lambda path: natural_key(path.name))
