"""Fixtures shared by all tests: where the real data is, and a few members of its archives."""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

DEFAULT_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data's archives; the test is skipped where it is absent."""
    folder = Path(os.environ.get("MEDSEGLATDIFF_DATA") or DEFAULT_DATA)
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; point MEDSEGLATDIFF_DATA at the folder of the archives")
    return folder.resolve()


@pytest.fixture(scope="session")
def unpack(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Unpack a few members: ``unpack(archive name, regular expression of member names, stop_at=None) -> folder``.

    Reading ends at the first member whose name matches `stop_at`, so that the start of a large archive is cheap. Each
    selection is unpacked once a session.
    """
    folders: dict[tuple[str, str], Path] = {}

    def unpack_members(archive: str, pattern: str, stop_at: str | None = None) -> Path:
        if (archive, pattern) in folders:
            return folders[archive, pattern]
        if not (data_dir / archive).is_file():
            pytest.skip(f"no real data: {data_dir / archive} does not exist")
        folder = tmp_path_factory.mktemp("unpacked")
        with tarfile.open(data_dir / archive) as tar:
            for member in tar:
                if stop_at is not None and re.search(stop_at, member.name):
                    break
                if member.isfile() and re.search(pattern, member.name):
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as source, target.open("wb") as handle:  # type: ignore[union-attr]
                        shutil.copyfileobj(source, handle)
        assert any(folder.iterdir()), f"no member of {archive} matches {pattern}"
        folders[archive, pattern] = folder
        return folder

    return unpack_members
