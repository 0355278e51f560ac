"""The engine behind ``medseglatdiff prepare``: the cases of any source become one prepared folder.

A source finds cases, which are cheap descriptions: one per file, nodule or scan. It reads each of them in a worker
process into prepared cases. The engine writes images and masks atomically, notes every finished case in a journal, and
writes `dataset.json` (a MONAI datalist) last. A case that is not in the journal is read again, so the same command
resumes an interrupted run, and the same input gives the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, check_count
from ..files import TEMPORARY_PREFIX, save_text, wait_for_disk
from ..locks import locked
from .archive import unpack_archive
from .dataset_file import Preparation, make_dataset
from .journal import IGNORED_NAMES, UNPACKED_NAME, Journal
from .sources.source import Case, Source, make_source, natural_key
from .splits import SPLITS, SplitRule
from .workers import read_cases

# Raised when the same arguments give other files, so that a folder which an earlier version began is not resumed.
PREPARATION_VERSION = 1


def prepare(
    source: str,
    src: str | Path | None = None,
    *,
    output_dir: str | Path,
    split_file: str | Path | None = None,
    ratios: str | Sequence[float] | None = None,
    seed: int = 0,
    crop: int | None = None,
    whole_slice: int | None = None,
    workers: int | None = None,
    **options: Any,
) -> Path:
    """Turn a data set into one prepared folder: images, masks with a channel per rater, dataset.json.

    Running it again with the same arguments keeps finished cases. With more than one worker, processes are spawned, so
    a script that calls this needs the usual ``if __name__ == "__main__":``.

    Example: medseglatdiff prepare cvc-clinicdb cvc.tar --output-dir data/cvc

    Args:
        source: lidc, lidc-slices, isic2018, cvc-clinicdb, chase, folder or phantom.
        src: folder or .tar, .tar.xz or .tar.gz of the data set (not for phantom).
        output_dir: the prepared folder; new, empty, or an earlier run of the same preparation.
        split_file: CSV with a header and two columns, the group and train, val or test; groups absent from it are left
            out and counted. Without it: --ratios, or the source's own split.
        ratios: shares of training, validation and test groups; by default 8:1:1 or the source's own split.
        seed: seed of the split (the phantom has its own, --phantom_seed).
        crop: side in pixels of nodule crops (LIDC).
        whole_slice: side to which whole slices are resized instead (LIDC; the paper's protocol).
        workers: number of processes; by default one per core.
        options: options of the source.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: an argument or an input file cannot be used, another process writes to the folder, or the disk is
            full; the message says which and what to do.
    """
    instance, given = make_source(source, crop=crop, whole_slice=whole_slice, **options)
    src_path = _check_src(source, instance, src)
    if not str(output_dir):
        raise InputError("--output-dir is missing: name the folder that is to hold the prepared data.")
    check_count("--workers", workers)
    preparation = Preparation(source, instance, given, src_path, SplitRule.read(split_file, ratios, seed))
    output = Path(output_dir)
    existed = output.exists()
    journal = Journal(output, _make_header(preparation))
    # A folder of something else is refused before anything is written there.
    journal.read()
    with locked(output):
        try:
            return _write_dataset(preparation, output, journal, journal.read(), workers or os.cpu_count() or 1)
        finally:
            _remove_leftovers(output, existed, journal)


def _make_header(preparation: Preparation) -> dict[str, Any]:
    """What identifies a preparation in a folder; it contains paths, so only the journal keeps it."""
    src, table = preparation.src, preparation.split.table
    return {
        "version": PREPARATION_VERSION,
        "arguments": preparation.arguments(),
        "src": None if src is None else str(src.resolve()),
        "options": {name: str(value) for name, value in sorted(preparation.options.items())},
        "split_sha256": None if table is None else table.sha256,
    }


def _write_dataset(
    preparation: Preparation, output: Path, journal: Journal, kept: dict[str, dict[str, Any]], workers: int
) -> Path:
    """Read every case that is not kept, and write ``dataset.json``; returns its path."""
    source = preparation.source
    cases = _find(source, preparation.src, output)
    left_out: Counter[str] = Counter()
    chosen: dict[str, str] = {}
    table = preparation.split.table
    if table is not None:
        cases, chosen, absent = table.select(cases)
        if absent:
            left_out[f"{source.info.group_unit}s absent from the split file"] = absent
        if not cases:
            raise InputError(
                f"{table.path}: none of its {len(table.splits)} groups is in {preparation.src or preparation.name}; "
                f"the first it lists is {next(iter(table.splits), None)!r}. Give the split file of this data set."
            )
    elif source.grouping_warning is not None:
        # Before the reading, which may take an hour.
        warnings.warn(source.grouping_warning, stacklevel=3)
    records = read_cases(source, cases, kept, journal, output, workers)
    dataset = make_dataset(preparation, cases, records, chosen, left_out)
    dataset_file = output / "dataset.json"
    written = [output / item[key] for name in SPLITS for item in dataset[name] for key in ("image", "label")]
    wait_for_disk([*written, output / "images", output / "masks"])
    save_text(json.dumps(dataset, indent=1, ensure_ascii=False) + "\n", dataset_file)
    return dataset_file


def _check_src(source: str, instance: Source, src: str | Path | None) -> Path | None:
    if src is None or not str(src):
        if instance.src_required:
            raise InputError(f"the source {source!r} needs SRC: the data set's folder or its .tar or .tar.xz.")
        return None
    path = Path(src)
    if not path.exists():
        raise InputError(f"{path}: no such folder or archive.")
    if path.is_dir() and not any(entry.name not in IGNORED_NAMES for entry in path.iterdir()):
        raise InputError(f"{path}: the folder is empty; expected {instance.info.name}.")
    if path.is_file() and not re.search(r"\.(tar(\.(xz|gz|bz2))?|tgz|txz)$", path.name, re.IGNORECASE):
        raise InputError(f"{path}: not an archive of the kinds .tar, .tar.xz, .tar.gz; unpack it and give the folder.")
    return path


def _find(instance: Source, src: Path | None, output: Path) -> list[Case]:
    output.mkdir(parents=True, exist_ok=True)
    instance.work_dir = output / UNPACKED_NAME
    folder = src
    if src is not None and src.is_file():
        folder = instance.work_dir / "archive"
        unpack_archive(src, folder, instance)
    cases = sorted(instance.find_cases(folder), key=lambda case: natural_key(case.key))
    if not cases:
        raise InputError(f"{src}: nothing of {instance.info.name} found in it.")
    twice = [key for key, count in Counter(case.key for case in cases).items() if count > 1]
    if twice:
        raise InputError(f"{src}: {twice[0]!r} is there more than once; keep one of them.")
    return cases


def _remove_leftovers(output: Path, existed: bool, journal: Journal) -> None:
    """Remove temporary files; after a failure before the first finished case, all that this run made."""
    shutil.rmtree(output / UNPACKED_NAME, ignore_errors=True)
    for folder in (output, output / "images", output / "masks"):
        for temporary in folder.glob(TEMPORARY_PREFIX + "*"):
            temporary.unlink(missing_ok=True)
    if journal.finished == 0 and output.is_dir():
        journal.path.unlink(missing_ok=True)
        for folder in (output / "images", output / "masks", *(() if existed else (output,))):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
