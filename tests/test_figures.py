"""The figures in the texts are those of the checked-in results."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_texts_show_the_checked_in_results():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "figures.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_page_of_the_lidc_preparation_shows_the_checked_in_result():
    spec = importlib.util.spec_from_file_location("prepare_lidc", ROOT / "benchmarks" / "prepare_lidc.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    table = script.describe(json.loads(script.RESULT.read_text()))
    assert table in script.PAGE.read_text(encoding="utf-8"), "run python benchmarks/prepare_lidc.py --text"
