"""What a call of a suite asks for, read and checked before anything is trained or scored."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bundle.config import find_bundle
from ..data.datalist import load_dataset_info
from ..data.sources.source import default_bundle
from ..data.splits import normalize_split
from ..errors import InputError
from ..files import read_json
from .results import SUITE_RESULT_VERSION, check_version
from .suite import Suite


@dataclass(frozen=True)
class Request:
    """A suite on a data set.

    Attributes:
        suite: systems and evaluations.
        dataset_dir: prepared folder.
        info: its ``dataset.json``.
        split: the part that is scored.
        fingerprint: SHA-256 of ``dataset.json``.
        output: folder of everything that the suite leaves.
        bundle: folder of the bundle that the systems start from.
        max_minutes: budget of training and scoring together; 0 only scores.
        max_cases: score at most this many cases.
        overrides: configuration keys of every system's training.
    """

    suite: Suite
    dataset_dir: Path
    info: Mapping[str, Any]
    split: str
    fingerprint: str
    output: Path
    bundle: Path
    max_minutes: float | None
    max_cases: int | None
    overrides: Mapping[str, Any]

    @property
    def results_path(self) -> Path:
        """The file of the results."""
        return self.output / "results.json"


def bundle_for(info: Mapping[str, Any], dataset_dir: str | Path) -> str:
    """Name of the bundle that is made for a prepared data set.

    Args:
        info: its ``dataset.json``.
        dataset_dir: its folder, for the message.

    Raises:
        InputError: there is none, or the data set does not say where it comes from.
    """
    source = info.get("source")
    bundle = default_bundle(source)
    if bundle is None:
        raise InputError(
            f"No bundle is made for {dataset_dir} ({info.get('name')}, source {source!r}): choose one with --bundle."
        )
    return bundle


def read_request(
    suite: Suite,
    dataset_dir: str | Path,
    output_dir: str | Path,
    bundle: str | Path | None,
    max_minutes: float | None,
    max_cases: int | None,
    split: str,
    overrides: Mapping[str, Any],
) -> Request:
    """Check what the caller chose; see :func:`~medseglatdiff_monai.suites.command.run_suite`.

    Raises:
        InputError: an argument is out of range, or ``output_dir`` has results of another version or suite.
    """
    if max_minutes is not None and max_minutes < 0:
        raise InputError(f"--max-minutes must be positive, found {max_minutes}.")
    if max_cases is not None and max_cases < 1:
        raise InputError(f"--max-cases must be positive, found {max_cases}.")
    folder = Path(dataset_dir).absolute()
    info = load_dataset_info(dataset_dir)
    split = normalize_split(split)
    if not info.get(split):
        raise InputError(f"The {split} part of {dataset_dir} is empty: choose another --split.")
    request = Request(
        suite=suite,
        dataset_dir=folder,
        info=info,
        split=split,
        fingerprint=hashlib.sha256((folder / "dataset.json").read_bytes()).hexdigest(),
        output=Path(output_dir).absolute(),
        bundle=find_bundle(bundle or bundle_for(info, dataset_dir)),
        max_minutes=max_minutes,
        max_cases=max_cases,
        overrides=dict(overrides),
    )
    _check_results(request)
    return request


def _check_results(request: Request) -> None:
    path = request.results_path
    if not path.is_file():
        return
    found = read_json(path)
    check_version(found, SUITE_RESULT_VERSION, path)
    if found.get("suite") != request.suite.name:
        raise InputError(
            f"{path} holds results of the suite {found.get('suite')!r}, and {request.suite.name!r} would overwrite "
            "them. Choose another --output-dir, or move the file away."
        )
