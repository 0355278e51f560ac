"""The command `register`: the bundle is checked before torch and MLflow are imported, which takes seconds."""

from __future__ import annotations

import re
from pathlib import Path

from ...bundle.config import Bundle
from ...errors import InputError
from ...extras import require
from ...startup import heavy_imports


def register(
    bundle: str | Path,
    tracking_uri: str,
    name: str | None = None,
    experiment_name: str = "medseglatdiff",
    alias: str = "candidate",
) -> tuple[str, int]:
    """Log a finished bundle in MLflow as a pyfunc model and register it, beside the runs that trained it.

    A run's folder that was tracked in the same store gets the model into its own parent run; any other bundle into a
    new run.

    Example: medseglatdiff register runs/lung --tracking-uri http://localhost:5000 --name lung

    Args:
        bundle: a bundle's folder or name, see medseglatdiff bundles.
        tracking_uri: MLflow server or database, e.g. sqlite:////data/mlruns.db.
        name: name of the registered model (default: the bundle's folder).
        experiment_name: experiment of the run, where the bundle has none on that server.
        alias: name under which this version is found as models:/NAME@ALIAS, taken from the version that had it.

    Returns:
        URI of the registered version, and its number.

    Raises:
        InputError: an alias that MLflow reserves, no such bundle, no MLflow, an unfinished one (see
            :func:`~medseglatdiff_monai.bundle.pack.bundle_files`), or a store that does not answer.
    """
    if not re.fullmatch(r"(?!latest$|v\d+$)[\w-]{1,255}", alias, re.IGNORECASE):
        raise InputError(
            f"alias is {alias!r}; expected letters, digits, _ and -, and neither 'latest' nor a version such as 'v1', "
            "which MLflow reserves."
        )
    opened = Bundle(bundle)
    require("train", "Registering a bundle")
    with heavy_imports():
        from .model import log_bundle

    return log_bundle(opened, tracking_uri, name or opened.root.name, experiment_name, alias)
