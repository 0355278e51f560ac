"""Runs a notebook with the interpreter of the tests, and leaves no kernel behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode


def run_notebook(
    notebook: NotebookNode, folder: Path, seconds_a_cell: int, monkeypatch: pytest.MonkeyPatch
) -> list[NotebookNode]:
    """Execute all cells in ``folder``; returns their outputs."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    manager = KernelManager()
    # Not whatever kernel a user may have registered under the same name.
    manager.kernel_spec.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    resources = {"metadata": {"path": str(folder)}}
    try:
        NotebookClient(notebook, km=manager, timeout=seconds_a_cell, resources=resources).execute()
    finally:
        # The client leaves a kernel running whose manager it was given.
        manager.shutdown_kernel(now=True)
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]
