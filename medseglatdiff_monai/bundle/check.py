"""What a bundle still lacks before it is given to others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..digest import DIGEST_KEY, named_digest
from ..files import file_sha256
from .build import build_stages
from .config import STAGES, Bundle
from .folders import bundles_dir, configs_dir, in_clone
from .metadata import PLACEHOLDER
from .trust import find_untrusted

NECESSARY = (
    "LICENSE", "docs/README.md", "docs/data_license.txt", "configs/metadata.json", "configs/logging.conf",
    *(f"configs/{stage}.json" for stage in STAGES),
)  # fmt: skip
# What MONAI's metadata schema (20240725) asks for.
REQUIRED_METADATA = (
    "schema", "version", "changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version",
    "task", "description", "authors", "copyright", "network_data_format",
)  # fmt: skip


def check_bundle(bundle: str | Path) -> list[str]:
    """Say what a bundle still lacks before it is given to others; the exit status is 1 if there is anything.

    Looked for: missing files; FILL IN in metadata, model card and data licence; metadata without a required entry,
    whose version has no changelog entry, or that speaks of other weights or sizes than the network's; code that the
    package's own configurations do not run; in a clone, stage files that differ from configs/.

    Example: medseglatdiff check-bundle my_bundles/my_cells

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.

    Returns:
        One line for each thing that is missing.

    Raises:
        InputError: no such bundle.
    """
    opened = Bundle(bundle)
    root = opened.root
    found = [f"{name}: is missing or empty" for name in NECESSARY if not _has_content(root / name)]
    for name in ("configs/metadata.json", "docs/README.md", "docs/data_license.txt"):
        if _has_content(root / name):
            lines = (root / name).read_text(encoding="utf-8", errors="replace").splitlines()
            found += [f"{name}, line {i}: {line.strip()}" for i, line in enumerate(lines, 1) if PLACEHOLDER in line]
    metadata = opened.metadata
    found += [f"configs/metadata.json: no {key!r}" for key in REQUIRED_METADATA if key not in metadata]
    version = metadata.get("version")
    changelog = metadata.get("changelog")
    if not isinstance(changelog, dict) or str(version) not in changelog:
        found.append(f"configs/metadata.json: the changelog has no entry for version {version}")
    weights = root / "models" / "model.pt"
    if weights.is_file() and named_digest(weights) not in (None, file_sha256(weights)):
        found.append(f"configs/metadata.json: {DIGEST_KEY} is that of other weights than models/model.pt")
    for stage, config in opened.stages.items():
        found += [f"configs/{stage}.json: runs code of its own, {line}" for line in find_untrusted(config)]
    if _has_content(root / "configs" / "inference.json"):
        # Not `opened.config`, which refuses what was listed above.
        config = opened.stages["inference"]
        described: Any = metadata
        for key in ("network_data_format", "inputs", "image"):
            described = described.get(key, {}) if isinstance(described, dict) else {}
        described = described if isinstance(described, dict) else {}
        dims, channels = config.get("spatial_dims", 2), config.get("image_channels")
        shape = [config.get("image_size")] * dims if dims in (2, 3) else dims
        for key, expected in (("num_channels", channels), ("spatial_shape", shape)):
            if described.get(key) != expected:
                found.append(
                    f"configs/metadata.json: {key} of the input is {described.get(key)}, of the network {expected}"
                )
    if in_clone() and root.parent == bundles_dir() and (configs_dir() / "bundles" / f"{root.name}.json").is_file():
        built = build_stages(root.name)
        for stage, config in opened.stages.items():
            if config != built[stage]:
                found.append(f"configs/{stage}.json: differs from configs/: run 'make bundles'")
    return found


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
