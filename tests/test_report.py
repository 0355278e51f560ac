"""`report`: one file that holds everything, from records of pictures, NIfTI and DICOM."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_dicom import POINT

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.report import report

OTHER = (POINT[0] + 6.0, POINT[1], POINT[2])


class Page(HTMLParser):
    """Collects what a page loads, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe")
        self.loads += [value for name, value in attrs if name == "src"]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def run(lung: Path, series: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture whose name is HTML, and a series of two nodules."""
    folder = tmp_path_factory.mktemp("report")
    pixels = np.random.default_rng(0).integers(0, 255, (128, 128), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a<b>&c.png")
    predict(lung, folder / "a<b>&c.png", folder / "out", num_samples=4)
    predict(lung, series, folder / "out", num_samples=4, point=[POINT, OTHER], dicom=False)
    return folder / "out"


def test_report_holds_everything(run: Path, tmp_path: Path) -> None:
    path = report(run, tmp_path / "deep" / "report.html")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    # A picture has panel and sizes, a nodule of several slices the slices as well.
    assert len(page.loads) == 2 + 2 * 3
    assert all(source.startswith("data:image/png;base64,") for source in page.loads)
    assert not re.search(r"https?://", text)
    assert "a<b>" not in text
    assert "a<b>&c" in page.text
    picture, volume = (json.loads((run / f"{name}_prediction.json").read_text()) for name in ("a<b>&c", "series"))
    for nodule in volume["nodules"]:
        volume_mm3 = nodule["volume_mm3"]["consensus"]
        assert (f"{volume_mm3:.0f}" if volume_mm3 >= 1000 else f"{volume_mm3:.4g}") in page.text
        for note in nodule["notes"]:
            assert note in page.text
    for area in picture["area_pixels"]["samples"]:
        assert str(area) in page.text
    assert picture["provenance"]["weights_sha256"] in page.text
    # The two calls had equal settings: one table.
    assert page.text.count("weights_sha256") == 1


def test_the_page_says_first_what_the_samples_say(run: Path, tmp_path: Path) -> None:
    text = Page(report(run, tmp_path / "report.html").read_text(encoding="utf-8")).text
    nodules = json.loads((run / "series_prediction.json").read_text())["nodules"]
    for nodule in nodules:
        median = nodule["volume_mm3"]["median"]
        assert f"Volume {median:.0f} mm³" in text or f"Volume {median:.4g} mm³" in text
    threshold = json.loads((run / "series_prediction.json").read_text())["provenance"]["threshold"]
    assert text.count(f"consensus (≥ {100 * threshold:.4g} % of samples)") >= 3
    assert text.index("median of 4 samples") < text.index("Consensus (≥")
    # What nobody can act on is in the JSON.
    assert "The network saw" not in text
    assert nodules[0]["seen"] == {"rows": [32, 95], "columns": [32, 95]}


def test_slices_stand_on_the_image_of_the_clicked_nodule(run: Path) -> None:
    record = json.loads((run / "series_prediction.json").read_text())
    with np.load(run / record["files"]["samples_1"]) as saved:
        assert saved["image"].shape == saved["confidence"].shape
        assert saved["image"].std() > 100
        assert 0 <= int(saved["clicked"]) < len(saved["image"])


def test_default_place_and_second_run(run: Path) -> None:
    path = report(run)
    assert path == run / "report.html"
    first = path.read_bytes()
    assert report(run).read_bytes() == first


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: (folder / "x_panel.png").unlink(),
            r"x_panel\.png: missing, though x_prediction\.json names it",
        ),
        (lambda folder: (folder / "x_samples.npz").write_bytes(b"PK"), r"x_samples\.npz: unreadable or truncated"),
        (lambda folder: (folder / "x_prediction.json").write_text("{"), r"x_prediction\.json is not valid JSON"),
        (
            lambda folder: (folder / "x_prediction.json").write_text('{"version": 99}'),
            r"version 99, expected 2; predict again",
        ),
        (lambda folder: (folder / "x_prediction.json").write_text('{"version": 2}'), r"x_prediction\.json: incomplete"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], r"no prediction in it"),
    ],
)
def test_bad_runs(run: Path, tmp_path: Path, spoil, message: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for path in run.glob("a<b>&c_*"):
        name = path.name.replace("a<b>&c", "x")
        data = path.read_bytes()
        (folder / name).write_bytes(data.replace(b"a<b>&c", b"x") if name.endswith(".json") else data)
    report(folder).unlink()
    spoil(folder)
    with pytest.raises(InputError, match=message):
        report(folder)
    assert not (folder / "report.html").exists()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        report(tmp_path / "missing")
