"""The command ``info``: what is installed here, for whoever looks for a cause or reports one."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .bundle.folders import bundle_folders, known_bundles
from .digest import named_digest
from .errors import InputError
from .extras import EXTRAS, install_command
from .files import file_sha256, read_keys
from .startup import heavy_imports

# Packages whose versions matter for what a prediction is, or for whether it can be read and written.
PACKAGES = (
    "torch",
    "monai",
    "numpy",
    "scipy",
    "pytorch-ignite",
    "nibabel",
    "pydicom",
    "itk-io",
    "pillow",
    "matplotlib",
)


def info(json: bool = False) -> dict[str, Any]:
    """Say what is installed here: versions, devices, bundles and their weights, extras and what they would give.

    Example: medseglatdiff info

    Args:
        json: print JSON, to be read by programs.

    Returns:
        What is printed with ``json``: ``medseglatdiff_monai``, ``python``, ``git_commit``, ``folder``, ``processor``,
        ``threads``, ``packages``, ``devices``, ``bundles``, ``bundle_folders`` and ``extras``.
    """
    with heavy_imports():
        import torch

        from .provenance import provenance

    found = provenance()
    devices = {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    devices["cpu"] = found["processor"]
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return {
        **{key: found[key] for key in ("medseglatdiff_monai", "python", "git_commit")},
        "folder": str(Path(__file__).parent),
        **{key: found[key] for key in ("processor", "threads")},
        "packages": {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "bundles": {name: _describe_bundle(root) for name, root in known_bundles().items()},
        "bundle_folders": [str(folder) for folder in bundle_folders()],
        "extras": {
            name: {"installed": extra.is_installed(), "gives": extra.gives, "install": install_command(name)}
            for name, extra in EXTRAS.items()
        },
    }


def describe_info(found: Mapping[str, Any]) -> list[str]:
    """What the command prints without ``--json``."""
    commit = f", commit {found['git_commit']}" if found["git_commit"] else ""
    lines = [f"medseglatdiff {found['medseglatdiff_monai']} in {found['folder']}{commit}", f"Python {found['python']}"]
    lines.append(", ".join(f"{name} {version or 'missing'}" for name, version in found["packages"].items()))
    lines += ["", "Devices, the first is the default:"]
    lines += [f"  {device}: {name}" for device, name in found["devices"].items()]
    lines += ["", "Bundles:" if found["bundles"] else "Bundles: none"]
    for name, bundle in found["bundles"].items():
        lines += [f"  {name} {bundle['version']}, {bundle['weights']}", f"    {bundle['folder']}"]
    lines += ["  Looked for in:", *(f"    {folder}" for folder in found["bundle_folders"])]
    lines += ["", "Extras:"]
    width = max(map(len, found["extras"]))
    for name, extra in found["extras"].items():
        state = "installed" if extra["installed"] else f"missing; {extra['install']} gives {extra['gives']}"
        lines.append(f"  {name:{width}}  {state}")
    return lines


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_bundle(root: Path) -> dict[str, str]:
    weights = root / "models" / "model.pt"
    try:
        version = read_keys(root / "configs" / "metadata.json").get("version", "")
    except InputError as error:
        return {"version": "", "weights": f"broken: {error}", "folder": str(root)}
    if not weights.is_file():
        state = "no weights"
    elif named_digest(weights) in (None, file_sha256(weights)):
        state = "weights"
    else:
        state = "weights that are not those which metadata.json names"
    return {"version": version, "weights": state, "folder": str(root)}
