"""What a result was made with: versions, hardware, and the source tree's commit."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .files import SOURCE_TREE


def provenance(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Versions, hardware and the source tree's commit (:func:`git_commit`) that a result was made with."""
    import monai

    from . import __version__

    device = torch.device(device)
    return {
        "medseglatdiff_monai": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "monai": monai.__version__,
        "numpy": np.__version__,
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Commit of the source tree that the package runs from, with ``-dirty`` where files differ; ``None`` without."""
    folder = SOURCE_TREE
    if not (folder / ".git").exists():
        # Installed into an environment, which may lie in somebody else's repository.
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
