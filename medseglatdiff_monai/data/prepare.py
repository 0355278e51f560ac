"""The engine behind ``medseglatdiff prepare``: the cases of any source become one prepared folder.

A source finds *stubs* (cheap descriptions, one a file, nodule or scan) and reads each of them, in a worker process,
into cases; the engine writes images and masks atomically, notes every finished stub in a journal, and writes
`dataset.json` (a MONAI datalist) last. A stub that is not in the journal is done again, so an interrupted run is
continued by the same command, and the same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import itertools
import json
import lzma
import multiprocessing
import os
import re
import shutil
import signal
import tarfile
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from medseglatdiff_monai.data.journal import (
    IGNORED_NAMES,
    TEMPORARY_PREFIX,
    UNPACKED_NAME,
    Journal,
    stamp_files,
    write_atomically,
)
from medseglatdiff_monai.data.source import (
    SOURCES,
    CaseStub,
    LeftOut,
    PreparedCase,
    Source,
    SourceInfo,
    make_source,
    natural_key,
)
from medseglatdiff_monai.data.splits import SPLITS, SplitTable, read_split_file, split_by_ratio
from medseglatdiff_monai.errors import InputError

__all__ = ["SOURCES", "CaseStub", "LeftOut", "PreparedCase", "Source", "SourceInfo", "natural_key", "prepare"]

DEFAULT_RATIOS = "8:1:1"
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
        **{name: _portable(value, name in instance.path_options) for name, value in sorted(options.items())},
    }
    if table is not None:
        arguments["split_file"] = table.path.name
    else:
        arguments.update({} if ratios is None else {"ratios": _portable(ratios, False)}, seed=seed)
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
        records = _read_all(instance, stubs, kept, journal, output, workers)
        dataset = _make_dataset(source, instance, stubs, records, chosen, table, ratios, seed, left_out)
        dataset["provenance"] = {
            "source": None if src_path is None else src_path.name,
            "package_version": _package_version(),
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
        write_atomically(dataset_file, (json.dumps(ordered, indent=1, ensure_ascii=False) + "\n").encode())
        return dataset_file
    finally:
        _clean(output, existed, journal)


# -- arguments ---------------------------------------------------------------------------------------------------------


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


def _portable(value: Any, is_path: bool) -> Any:
    """A JSON value of an option, without folders of this machine."""
    if isinstance(value, (list, tuple)):
        return [_portable(entry, is_path) for entry in value]
    if is_path and isinstance(value, str) and "," in value:
        return [_portable(entry, True) for entry in value.split(",")]
    if is_path or isinstance(value, Path):
        return Path(value).name
    return value if isinstance(value, (bool, int, float, str)) else str(value)


def _package_version() -> str:
    try:
        return importlib.metadata.version("medseglatdiff_monai")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# -- finding and unpacking ---------------------------------------------------------------------------------------------


def _find(instance: Source, src: Path | None, output: Path) -> list[CaseStub]:
    output.mkdir(parents=True, exist_ok=True)
    instance.work_dir = output / UNPACKED_NAME
    folder = src
    if src is not None and src.is_file():
        folder = instance.work_dir / "archive"
        _unpack(src, folder, instance)
    stubs = sorted(instance.find_cases(folder), key=lambda stub: natural_key(stub.key))
    if not stubs:
        raise InputError(f"{src}: nothing of {instance.info.name} found in it.")
    twice = [key for key, count in Counter(stub.key for stub in stubs).items() if count > 1]
    if twice:
        raise InputError(f"{src}: {twice[0]!r} is there more than once; keep one of them.")
    return stubs


def _unpack(archive: Path, folder: Path, instance: Source) -> None:
    """Unpack the wanted files of a tar archive, streaming: plain files only, never outside `folder`."""
    from tqdm import tqdm

    shutil.rmtree(folder, ignore_errors=True)
    made: set[Path] = set()
    try:
        with (
            archive.open("rb") as raw,
            tqdm.wrapattr(raw, "read", total=archive.stat().st_size, desc=f"unpack {archive.name}") as stream,
            tarfile.open(fileobj=stream, mode="r|*") as tar,
        ):
            for member in tar:
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or parts[-1].startswith("._") or not instance.wants(member.name):
                    continue
                if ".." in parts or PurePosixPath(member.name).is_absolute():
                    raise InputError(
                        f"{archive}: its member {member.name!r} points outside the archive; do not trust it."
                    )
                target = folder.joinpath(*parts)
                if target.parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(target.parent)
                extracted = tar.extractfile(member)
                assert extracted is not None  # member.isfile()
                with target.open("wb") as handle:
                    shutil.copyfileobj(extracted, handle)
                os.utime(target, (member.mtime, member.mtime))  # so that a second unpacking counts as unchanged
    except (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{archive}: unreadable or truncated archive ({error}); download it again.") from error
    if not made:
        raise InputError(f"{archive}: holds no file of {instance.info.name}.")


def _clean(output: Path, existed: bool, journal: Journal) -> None:
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


# -- reading and writing -----------------------------------------------------------------------------------------------


def _read_all(
    instance: Source,
    stubs: list[CaseStub],
    kept: dict[str, dict[str, Any]],
    journal: Journal,
    output: Path,
    workers: int,
) -> dict[str, dict[str, Any]]:
    """Read and write every stub that is not finished; returns the journal's record of each stub."""
    from tqdm import tqdm

    stamps = {stub.key: stamp_files(stub.files) for stub in stubs}
    records = {key: record for key, record in kept.items() if stamps.get(key) == record["stamp"]}
    todo = [stub for stub in stubs if stub.key not in records]
    # Whatever an earlier dataset.json says, it is true again only when this run is through.
    if todo:
        (output / "dataset.json").unlink(missing_ok=True)
    owners = {item["case"]: key for key, record in records.items() for item in record["items"]}

    with journal.open(records) as handle, tqdm(total=len(stubs), initial=len(records), desc="prepare") as bar:
        for name in ("images", "masks"):
            (output / name).mkdir(exist_ok=True)

        def finish(stub: CaseStub, record: dict[str, Any]) -> None:
            for item in record["items"]:
                owner = owners.setdefault(item["case"], stub.key)
                if owner != stub.key:
                    raise InputError(f"{stub.key} and {owner} both give the case {item['case']!r}; rename one of them.")
            journal.append(handle, record)
            records[stub.key] = record
            bar.update()

        if min(workers, len(todo)) <= 1:
            for stub in todo:
                finish(stub, _do_stub(instance, stub, output))
            return records
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(instance, str(output))
        )
        try:
            # Hand out a few stubs ahead only: an interruption then waits for what is being read and for nothing else.
            waiting = iter(todo)
            running = {pool.submit(_work, stub): stub for stub in itertools.islice(waiting, 4 * workers)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    finish(running.pop(future), future.result())
                    following = next(waiting, None)
                    if following is not None:
                        running[pool.submit(_work, following)] = following
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"prepare: a worker process died (killed, or out of memory) after {len(records)} of {len(stubs)} "
                "units; the finished ones are kept: run the same command again, with fewer --workers if memory was "
                "short. A script that calls prepare() needs 'if __name__ == \"__main__\":' around it, or workers=1."
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return records


_worker_state: dict[str, Any] = {}


def _start_worker(instance: Source, output: str) -> None:
    """Set up a worker: Ctrl-C is the main process's business, and a worker does not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()
    _worker_state.update(instance=instance, output=Path(output))


def _work(stub: CaseStub) -> dict[str, Any]:
    return _do_stub(_worker_state["instance"], stub, _worker_state["output"])


def _do_stub(instance: Source, stub: CaseStub, output: Path) -> dict[str, Any]:
    """Read a stub and write its cases; its files go again if one of them fails."""
    items: list[dict[str, Any]] = []
    layouts: list[list[Any]] = []
    left_out: Counter[str] = Counter()
    written: list[Path] = []
    stamp = stamp_files(stub.files)  # before it is read: what changes meanwhile is read again next time
    try:
        for result in instance.read(stub):
            if isinstance(result, LeftOut):
                left_out[result.reason] += result.count
                continue
            item, layout = _write_case(result, stub.group, output, written)
            items.append(item)
            layouts.append(layout)
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        if isinstance(error, (InputError, KeyboardInterrupt, SystemExit)):
            raise
        raise RuntimeError(f"prepare: {stub.key}: {type(error).__name__}: {error}") from error
    return {
        "stub": stub.key,
        "stamp": stamp,
        "items": items,
        "layouts": layouts,
        "left_out": dict(sorted(left_out.items())),
    }


def _write_case(case: PreparedCase, group: str, output: Path, written: list[Path]) -> tuple[dict[str, Any], list[Any]]:
    """Write one case; returns its datalist item and what all cases must agree in.

    That is [channels, suffix, raters], and of a volume "volume" besides.
    """
    image, masks = np.asarray(case.image), np.asarray(case.masks)
    volume = masks.ndim == 4
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", case.case):
        raise InputError(f"case id {case.case!r} is no safe file name: use letters, digits, '.', '_' and '-' only.")
    if masks.ndim not in (3, 4) or masks.shape[0] < 1 or masks.shape[1:] != image.shape[: masks.ndim - 1]:
        raise InputError(f"{case.case}: masks of shape {masks.shape} do not fit the image of shape {image.shape}.")
    if masks.max(initial=0) > 1 or masks.min(initial=0) < 0:
        raise InputError(f"{case.case}: mask values run from {masks.min()} to {masks.max()}; expected 0 and 1.")
    if any(key.startswith("image_") for key in case.extra):
        raise InputError(f"{case.case}: extra keys must not start with 'image_' (MONAI takes them for metadata).")
    affine = case.affine
    if affine is None:
        affine = np.diag([*((case.spacing_mm or (1.0, 1.0)) + (1.0, 1.0))[:3], 1.0])

    if volume and image.dtype == np.int16 and image.ndim == 3:
        suffix, image_bytes = ".nii.gz", _encode_nifti(image, affine)
    elif not volume and image.dtype == np.uint8 and (image.ndim == 2 or image.shape[2:] == (3,)):
        suffix, image_bytes = ".png", _encode_png(image)
    elif not volume and image.dtype == np.int16 and image.ndim == 2:
        suffix, image_bytes = ".nii.gz", _encode_nifti(image, affine)
    else:
        raise InputError(
            f"{case.case}: image of shape {image.shape} and type {image.dtype}; expected 8-bit grey or RGB, or 16-bit "
            "grey, or a 16-bit volume."
        )
    item: dict[str, Any] = {
        "image": f"images/{case.case}{suffix}",
        "label": f"masks/{case.case}.nii.gz",
        "case": case.case,
        "group": group,
        "spacing_mm": None if case.spacing_mm is None else [float(value) for value in case.spacing_mm],
        **case.extra,
    }
    label_bytes = _encode_nifti(np.moveaxis(masks, 0, -1).astype(np.uint8), affine)
    for name, content in ((item["image"], image_bytes), (item["label"], label_bytes)):
        write_atomically(output / name, content)
        written.append(output / name)
    layout = [3 if image.ndim == 3 and not volume else 1, suffix, int(masks.shape[0])]
    return item, [*layout, "volume"] if volume else layout


def _encode_png(image: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _encode_nifti(array: np.ndarray, affine: np.ndarray) -> bytes:
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(array), np.asarray(affine, dtype=np.float64))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)  # no time stamp: same bytes every run


# -- dataset.json ------------------------------------------------------------------------------------------------------


def _make_dataset(
    source: str,
    instance: Source,
    stubs: list[CaseStub],
    records: Mapping[str, dict[str, Any]],
    chosen: Mapping[str, str],
    table: SplitTable | None,
    ratios: str | Sequence[float] | None,
    seed: int,
    left_out: Counter[str],
) -> dict[str, Any]:
    """Assemble the datalist; `chosen` maps stub keys to splits where a split file decides."""
    info = instance.info
    entries = [(stub, item) for stub in stubs for item in records[stub.key]["items"]]
    for stub in stubs:
        left_out.update(records[stub.key]["left_out"])
    if not entries:
        raise InputError(f"{info.name}: no case is left; left out were {dict(left_out) or 'none'}.")
    layouts: dict[tuple[Any, ...], str] = {}
    for stub in stubs:
        record = records[stub.key]
        for item, layout in zip(record["items"], record["layouts"], strict=True):
            layouts.setdefault(tuple(layout), item["case"])
    if len(layouts) > 1:
        found = "; ".join(
            f"{case}: {channels} channel(s), {suffix[1:]}, {raters} rater(s){', volume' if volume else ''}"
            for (channels, suffix, raters, *volume), case in layouts.items()
        )
        raise InputError(f"the cases differ in kind ({found}); prepare data of one kind at a time.")
    channels, _, raters, *volume = next(iter(layouts))
    if info.num_raters is not None and raters != info.num_raters:
        raise InputError(f"{info.name}: {raters} masks a case; expected {info.num_raters}.")

    groups = sorted({item["group"] for _, item in entries}, key=natural_key)
    if table is not None:
        split: dict[str, Any] = {
            "method": "file",
            "file": table.path.name,
            "sha256": table.sha256,
            "column": table.column,
        }
        split["listed_but_absent"] = table.count_absent(stubs)
        side = {id(item): chosen[stub.key] for stub, item in entries}
    else:
        by_group = instance.default_split(groups) if ratios is None else None
        split = {"method": "the data set's own"}
        if by_group is None:
            ratios = DEFAULT_RATIOS if ratios is None else ratios
            by_group = split_by_ratio(groups, ratios, seed)
            split = {"method": "ratios", "ratios": _portable(ratios, False), "seed": seed}
        side = {id(item): by_group[item["group"]] for _, item in entries}
    split["group_unit"] = info.group_unit
    entries.sort(key=lambda entry: natural_key(entry[1]["case"]))
    return {
        "name": info.name,
        "source": source,
        "modality": info.modality,
        "description": info.description,
        "num_channels": channels,
        "num_raters": raters,
        **({"spatial_dims": 3} if volume else {}),
        "labels": dict(info.labels),
        "consensus": {"level": 0.5, "tie": "foreground"},
        "split": split,
        **{name: [item for _, item in entries if side[id(item)] == name] for name in SPLITS},
    }
