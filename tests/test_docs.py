"""The documentation builds, and its links lead somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("mkdocs", reason="the extra 'docs' is not installed")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config), "--site-dir", str(site)],
        capture_output=True, text=True, cwd=ROOT, timeout=500, check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip


@pytest.mark.integration
def test_docs_build_without_a_warning(tmp_path: Path) -> None:
    done = _build(ROOT / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    # The reference is made from the docstrings.
    commands = (tmp_path / "site" / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "Write what <code>predict</code> left in a folder as one HTML file" in commands
    python = (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
    assert 'id="medseglatdiff_monai.metrics.generalized_energy_distance"' in python


@pytest.mark.integration
@pytest.mark.parametrize("link", ["how-to/missing.md", "how-to/dicom.md#no-such-part", "../README.md"])
def test_dead_links_are_errors(tmp_path: Path, link: str) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    # Without the reference from docstrings, which takes most of the time.
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    plugin = text[text.index("  - mkdocstrings:") : text.index("markdown_extensions:")]
    (tmp_path / "mkdocs.yml").write_text(text.replace(plugin, ""), encoding="utf-8")
    with (tmp_path / "docs" / "index.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[a link]({link})\n")
    done = _build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    assert link.rpartition("/")[2].partition("#")[0] in done.stderr
