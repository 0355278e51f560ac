"""Files of a user's own: imported before a command, found by name, refused in one line where they cannot be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.plugins import import_plugin, take_plugins

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "docs" / "how-to" / "add"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_both_forms_are_taken_and_other_words_stay(tmp_path: Path) -> None:
    for name in ("first_of_mine", "second_of_mine"):
        (tmp_path / f"{name}.py").write_text(f"NAME = {name!r}\n")
    words = ["evaluate", "--plugin", str(tmp_path / "first_of_mine.py"), "b", f"--plugin={tmp_path}/second_of_mine.py"]
    assert take_plugins([*words, "--seed", "1"]) == ["evaluate", "b", "--seed", "1"]
    for name in ("first_of_mine", "second_of_mine"):
        found = sys.modules.pop(name).NAME
        assert found == name


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (None, "", "no such Python file; expected one"),
        ("notes.txt", "", "no such Python file; expected one"),
        ("my-metric.py", "", "'my-metric' is no name of a module"),
        ("json.py", "", "another module is called 'json'"),
        ("breaks_on_import.py", "x = 1\ny = x.z\n", "line 2: AttributeError"),
    ],
)
def test_what_cannot_be_imported_is_said(tmp_path: Path, name: str | None, text: str, message: str) -> None:
    if name is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        import_plugin(tmp_path / (name or "absent.py"))


@pytest.mark.integration
def test_a_source_of_ones_own_is_read_by_two_workers(tmp_path: Path) -> None:
    """Spawned workers import the file, too."""
    for number in range(6):
        folder = tmp_path / "patients" / f"p{number}"
        folder.mkdir(parents=True)
        for name in ("image", "mask-ann", "mask-ben"):
            Image.new("L", (40, 30), 255 if name == "mask-ann" else 0).save(folder / f"{name}.png")
    done = subprocess.run(
        [sys.executable, "-m", "medseglatdiff_monai", "prepare", "per-patient", str(tmp_path / "patients"), "--workers",
         "2", f"--plugin={EXAMPLES / 'per_patient.py'}", "--output-dir", str(tmp_path / "out")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    info = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert info["source"] == "per-patient"
    assert info["num_raters"] == 2
    assert sum(len(info[part]) for part in ("training", "validation", "test")) == 6
