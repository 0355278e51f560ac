"""CVC-ClinicDB: colonoscopy frames of 29 video sequences, one polyp mask each.

Layout: ``PNG/Original/N.png`` with ``PNG/Ground Truth/N.png`` (or the same folders with TIFF files). Frames of one
sequence are near-duplicates, so groups are sequences; masks have grey edges and are cut at > 127.
"""

from __future__ import annotations

import csv
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from .images import find_images
from .source import Case, Source, SourceInfo

# First frame of sequences 1 to 29, as published with the data set; frames are numbered 1 to 612 throughout.
SEQUENCE_STARTS = (
    *(1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409, 429, 448, 467),
    *(479, 504, 529, 547, 572, 592),
)
NUM_FRAMES = 612
VALIDATION_SEQUENCES = range(19, 24)
TEST_SEQUENCES = range(24, 30)
IMAGE_FOLDER, MASK_FOLDER = "Original", "Ground Truth"


class CVCSource(Source):
    """CVC-ClinicDB; groups are video sequences.

    Without a split file or ratios, sequences 19 to 23 are for validation, 24 to 29 for test, the others for training.

    Args:
        sequences_file: CSV ``frame,sequence``; default the published sequences.
    """

    info = SourceInfo(
        name="CVC-ClinicDB",
        modality="colonoscopy",
        description="Polyp segmentation in colonoscopy frames.",
        labels={"0": "background", "1": "polyp"},
        group_unit="sequence",
        num_raters=1,
    )
    path_options = frozenset({"sequences_file"})
    suffixes = (".png", ".tif", ".tiff", ".bmp")

    def __init__(self, sequences_file: str | None = None) -> None:
        self.sequences = None if sequences_file is None else _read_sequences(Path(sequences_file))
        self.sequences_file = sequences_file

    def find_cases(self, src: Path | None) -> list[Case]:
        """One case per frame; a PNG folder is preferred to a TIF folder beside it."""
        assert src is not None  # src_required
        folders = sorted(
            (path for path in [src / IMAGE_FOLDER, *src.rglob(IMAGE_FOLDER)] if path.is_dir()),
            key=lambda path: (path.parent.name.upper() != "PNG", str(path)),
        )
        if not folders:
            raise InputError(
                f"{src}: no folder {IMAGE_FOLDER!r} in it; expected PNG/{IMAGE_FOLDER}/N.png, PNG/{MASK_FOLDER}/N.png."
            )
        images = find_images(folders[0])
        mask_folder = folders[0].parent / MASK_FOLDER
        masks = find_images(mask_folder) if mask_folder.is_dir() else {}
        if not images:
            raise InputError(f"{folders[0]}: holds no image; expected frames 1.png to {NUM_FRAMES}.png.")
        cases = []
        for name, path in images.items():
            if name not in masks:
                raise InputError(f"{path}: has no mask; expected {mask_folder / path.name}.")
            sequence = self._find_sequence(name, path)
            columns, files = {"frame": name, "image": name}, (str(path), str(masks[name]))
            cases.append(Case(f"sequence-{sequence}_frame-{name}", sequence, columns=columns, files=files))
        return cases

    def _find_sequence(self, name: str, path: Path) -> str:
        if self.sequences is not None:
            if name not in self.sequences:
                raise InputError(
                    f"{path}: the frame {name} is not listed in {self.sequences_file}; add its sequence there."
                )
            return self.sequences[name]
        if not name.isdecimal() or not 1 <= int(name) <= NUM_FRAMES:
            raise InputError(
                f"{path}: not a frame of CVC-ClinicDB (1 to {NUM_FRAMES}); give your own frames a --sequences-file "
                "(frame,sequence)."
            )
        return str(bisect_right(SEQUENCE_STARTS, int(name)))

    def default_split(self, groups: Sequence[str]) -> dict[str, str] | None:
        """Sequences 19-23 for validation, 24-29 for test; None for the user's own sequences."""
        if self.sequences is not None and not all(group.isdecimal() for group in groups):
            return None
        side = dict.fromkeys(VALIDATION_SEQUENCES, "validation") | dict.fromkeys(TEST_SEQUENCES, "test")
        return {group: side.get(int(group), "training") for group in groups}


def _read_sequences(path: Path) -> dict[str, str]:
    """Frame to sequence, of a CSV with the header ``frame,sequence``."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.reader(handle)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the sequences file ({error}).") from error
    header = rows[0][1] if rows else []
    if [cell.lower() for cell in header] != ["frame", "sequence"]:
        raise InputError(f"{path}: the header is {header or 'missing'}; expected 'frame,sequence'.")
    sequences: dict[str, str] = {}
    for number, row in rows[1:]:
        if len(row) != 2 or not row[1]:
            raise InputError(f"{path}, line {number}: {row}; expected a frame and its sequence.")
        if row[0] in sequences:
            raise InputError(f"{path}, line {number}: the frame {row[0]} is listed twice; keep one.")
        sequences[row[0]] = row[1]
    return sequences
