"""The engine behind ``medseglatdiff prepare``: the cases of any source become one prepared folder.

A source finds *stubs* (cheap descriptions, one a file, nodule or scan) and reads each of them, in a worker process,
into cases; the engine writes images and masks atomically, notes every finished stub in a journal, and writes
`dataset.json` (a MONAI datalist) last. A stub that is not in the journal is done again, so an interrupted run is
continued by the same command, and the same input gives the same bytes.
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

from .. import __version__
from ..errors import InputError
from ..files import TEMPORARY_PREFIX, save_text
from .archive import unpack_archive
from .dataset_file import make_dataset, portable_name
from .journal import IGNORED_NAMES, UNPACKED_NAME, Journal
from .sources.source import CaseStub, Source, make_source, natural_key
from .splits import SPLITS, read_split_file, split_by_ratio
from .workers import read_cases

__all__ = ["prepare"]

# Raised when the same arguments give other files: a folder that an earlier version began is then not gone on with.
PREPARATION_VERSION = 1


def prepare(
    source: str,
    src: str | Path | None = None,
    output_dir: str | Path = "",
    split_file: str | Path | None = None,
    ratios: str | Sequence[float] | None = None,
    seed: int = 0,
    crop: int | None = None,
    whole_slice: int | None = None,
    workers: int | None = None,
    **source_options: Any,
) -> Path:
    """Turn a data set into a prepared folder: ``images/``, ``masks/`` and ``dataset.json``.

    Running it again with the same arguments keeps finished cases. With more than one worker, processes are spawned, so
    a script that calls this needs the usual ``if __name__ == "__main__":``.

    Args:
        source: a name of `SOURCES`.
        src: the data set's folder, or its ``.tar``, ``.tar.xz`` or ``.tar.gz``.
        output_dir: where to write; new, empty, or an earlier run of the same preparation.
        split_file: CSV with a header and two columns, the group and ``train``, ``val`` or ``test``; groups absent from
            it are left out and counted.
        ratios: training:validation:test, by groups; default 8:1:1 or the source's own split.
        seed: of the split by ratio.
        crop: side of the nodule crops (LIDC sources only).
        whole_slice: side to which whole slices are resized (``lidc`` source only).
        workers: number of processes, default one a core.
        **source_options: options of the source's constructor.

    Returns:
        The path of ``dataset.json``.

    Raises:
        InputError: an argument or an input file cannot be used; the message says which and what to do.
    """
    instance, options = make_source(source, crop=crop, whole_slice=whole_slice, **source_options)
    src_path = _check_src(source, instance, src)
    if not str(output_dir):
        raise InputError("--output-dir is missing: name the folder that is to hold the prepared data.")
    output = Path(output_dir)
    workers = _check_count("--workers", os.cpu_count() or 1 if workers is None else workers)
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise InputError(f"--seed is {seed!r}; expected an integer.")
    if split_file is not None and ratios is not None:
        raise InputError("--split-file and --ratios exclude each other: give one of them.")
    table = None if split_file is None else read_split_file(split_file)
    if ratios is not None:
        split_by_ratio([], ratios, seed)  # a bad value is an error now, not after an hour of reading

    arguments: dict[str, Any] = {
        "source": source,
        **{name: portable_name(value, name in instance.path_options) for name, value in sorted(options.items())},
    }
    if table is not None:
        arguments["split_file"] = table.path.name
    else:
        arguments.update({} if ratios is None else {"ratios": portable_name(ratios, False)}, seed=seed)
    # The header decides whether a folder holds this very preparation; it stays out of dataset.json, as it names places.
    header = {
        "version": PREPARATION_VERSION,
        "arguments": arguments,
        "src": None if src_path is None else str(src_path.resolve()),
        "options": {name: str(value) for name, value in sorted(options.items())},
        "split_sha256": None if table is None else table.sha256,
    }

    existed = output.exists()
    journal = Journal(output, header)
    kept = journal.read()
    try:
        stubs = _find(instance, src_path, output)
        left_out: Counter[str] = Counter()
        chosen: dict[str, str] = {}
        if table is not None:
            stubs, chosen, absent = table.select(stubs)
            if absent:
                left_out[f"{instance.info.group_unit}s absent from the split file"] = absent
            if not stubs:
                raise InputError(
                    f"{table.path}: none of its {len(table.splits)} groups is in {src_path or source}; the first it "
                    "lists is "
                    f"{next(iter(table.splits), None)!r}. Give the split file of this data set."
                )
        elif instance.grouping_warning is not None:
            # Before the reading, which may take an hour.
            warnings.warn(instance.grouping_warning, stacklevel=2)
        records = read_cases(instance, stubs, kept, journal, output, workers)
        dataset = make_dataset(source, instance, stubs, records, chosen, table, ratios, seed, left_out)
        dataset["provenance"] = {
            "source": None if src_path is None else src_path.name,
            "package_version": __version__,
            "arguments": arguments,
            **instance.provenance(),
            "counts": {
                split: {"cases": len(dataset[split]), "groups": len({item["group"] for item in dataset[split]})}
                for split in SPLITS
            },
            "left_out": dict(sorted(left_out.items())),
        }
        dataset_file = output / "dataset.json"
        ordered = {key: value for key, value in dataset.items() if key not in SPLITS}
        ordered.update({split: dataset[split] for split in SPLITS})
        save_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", dataset_file)
        return dataset_file
    finally:
        _remove_leftovers(output, existed, journal)


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


def _check_count(flag: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{flag} is {value!r}; expected an integer of at least 1.")
    return value


def _find(instance: Source, src: Path | None, output: Path) -> list[CaseStub]:
    output.mkdir(parents=True, exist_ok=True)
    instance.work_dir = output / UNPACKED_NAME
    folder = src
    if src is not None and src.is_file():
        folder = instance.work_dir / "archive"
        unpack_archive(src, folder, instance)
    stubs = sorted(instance.find_cases(folder), key=lambda stub: natural_key(stub.key))
    if not stubs:
        raise InputError(f"{src}: nothing of {instance.info.name} found in it.")
    twice = [key for key, count in Counter(stub.key for stub in stubs).items() if count > 1]
    if twice:
        raise InputError(f"{src}: {twice[0]!r} is there more than once; keep one of them.")
    return stubs


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
