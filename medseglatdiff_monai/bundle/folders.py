"""Where configurations and bundles are: beside the package in a clone, in installed packages elsewhere.

A wheel carries ``configs/`` within the package, where ``setup.py`` puts it. The shipped bundles are a distribution of
their own, ``medseglatdiff-monai-bundles``, since other bundles can be used without them.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from ..errors import InputError, did_you_mean
from ..files import SOURCE_TREE

# Folders of bundles, separated as in PATH.
BUNDLES_VARIABLE = "MEDSEGLATDIFF_BUNDLES"
BUNDLES_PACKAGE = "medseglatdiff_monai_bundles"
PACKAGED_CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def in_clone() -> bool:
    """Whether the package runs from a clone of the repository, or an editable installation of one."""
    return not PACKAGED_CONFIGS.is_dir()


def configs_dir() -> Path:
    """Folder of the fragments and overlays that come with the package."""
    return SOURCE_TREE / "configs" if in_clone() else PACKAGED_CONFIGS


def bundles_dir() -> Path:
    """Folder of the bundles of a clone."""
    return SOURCE_TREE / "bundles"


def bundle_folders() -> list[Path]:
    """Folders in which bundles are found by name, in this order.

    ``bundles/`` of the current folder, those of ``MEDSEGLATDIFF_BUNDLES``, that of the clone, and that of the installed
    distribution of bundles.
    """
    listed = [folder for folder in os.environ.get(BUNDLES_VARIABLE, "").split(os.pathsep) if folder]
    folders = [Path("bundles"), *map(Path, listed)]
    if in_clone():
        folders.append(bundles_dir())
    spec = importlib.util.find_spec(BUNDLES_PACKAGE)
    if spec is not None:
        folders += map(Path, spec.submodule_search_locations or ())
    return list(dict.fromkeys(folder.expanduser().resolve() for folder in folders))


def known_bundles() -> dict[str, Path]:
    """Name of each bundle that is found by name → its folder, sorted by name."""
    found: dict[str, Path] = {}
    for folder in bundle_folders():
        for path in folder.glob("*/configs/metadata.json"):
            found.setdefault(path.parents[1].name, path.parents[1])
    return dict(sorted(found.items()))


def find_bundle(bundle: str | Path) -> Path:
    """Folder of a bundle given as a folder or by name.

    Raises:
        InputError: there is none; the message names the nearest known name and the folders that were searched.
    """
    folder = Path(bundle)
    if (folder / "configs" / "metadata.json").is_file():
        return folder.resolve()
    known = known_bundles()
    if str(bundle) in known:
        return known[str(bundle)].resolve()
    names = f"or one of {', '.join(known)}" if known else "and no bundles are installed"
    beside = [str(path.parents[1]) for path in folder.parent.glob("*/configs/metadata.json")]
    hint = did_you_mean(str(bundle), [*known, *beside])
    raise InputError(
        f"No bundle {str(bundle)!r}: expected a folder with configs/metadata.json, {names}.{hint} Looked in "
        f"{', '.join(map(str, bundle_folders()))}; {BUNDLES_VARIABLE} takes more folders, and the package "
        f"{BUNDLES_PACKAGE.replace('_', '-')} brings four bundles."
    )
