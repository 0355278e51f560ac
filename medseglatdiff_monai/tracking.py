"""Where runs are tracked: an MLflow database in the output folder, unless a server is named.

MLflow 3 takes no plain folder as a tracking store, so the default is one SQLite file beside the models.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["sqlite_uri"]


def sqlite_uri(output_dir: str | Path) -> str:
    """MLflow tracking URI of ``output_dir/mlruns.db``; the folder is made, since MLflow makes the file alone."""
    folder = Path(output_dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlruns.db'}"
