"""Unpacking the archive of a data set."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath

from ..console import Progress
from ..errors import InputError
from ..files import find_full_disk
from .sources.source import Source

MEGABYTE = 1_000_000


def unpack_archive(archive: Path, folder: Path, instance: Source) -> None:
    """Unpack the wanted files of a tar archive, streaming: plain files only, never outside `folder`."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with (
            archive.open("rb") as raw,
            Progress(f"Unpacking {archive.name}", archive.stat().st_size // MEGABYTE, "MB") as progress,
            tarfile.open(fileobj=raw, mode="r|*") as tar,
        ):
            for member in tar:
                progress.update(raw.tell() // MEGABYTE - progress.done)
                parts = PurePosixPath(member.name).parts
                if not member.isfile() or parts[-1].startswith("._") or not instance.wants(member.name):
                    continue
                if ".." in parts or PurePosixPath(member.name).is_absolute():
                    raise InputError(
                        f"{archive}: its member {member.name!r} points outside the archive; do not trust it."
                    )
                # With its time of modification, so that a second unpacking counts as unchanged.
                tar.extract(member, folder, filter="data")
    except InputError:
        raise
    except Exception as error:  # tarfile raises many kinds: TarError, EOFError, LZMAError, zlib.error, ValueError, …
        if find_full_disk(error) is not None:
            raise
        raise InputError(f"{archive}: unreadable or truncated archive ({error}); download it again.") from error
    if not folder.exists():
        raise InputError(f"{archive}: holds no file of {instance.info.name}.")
