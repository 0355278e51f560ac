"""The pictures of a prediction: nothing overlaps, every slice is there, and colours tell what is what."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from medseglatdiff_monai.plots import RebuiltImage, plot_panel, plot_reconstructions, to_picture
from medseglatdiff_monai.plots.comparison import RATER_COLOURS
from medseglatdiff_monai.plots.panel import CONSENSUS_COLOUR, SAMPLE_COLOUR
from medseglatdiff_monai.plots.sizes import plot_slices


def test_colours_of_raters_samples_and_consensus_are_told_apart() -> None:
    colours = [np.array(to_rgb(colour)) for colour in (*RATER_COLOURS, CONSENSUS_COLOUR, SAMPLE_COLOUR)]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(colours, 2)) > 0.4


@pytest.mark.parametrize("number", [1, 16])
def test_texts_of_the_panel_do_not_overlap(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the longest sentences that a nodule gets."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    masks = np.zeros((number, 16, 16), bool)
    masks[:, 4:9, 4:9] = True
    first = (
        "Volume 12345 mm³ (10234 to 14567), longest axial diameter 23.12 mm (19.01 to 26.44): median of 16 samples "
        "(5th to 95th percentile)."
    )
    subtitle = "\n".join([first, "16 of 16 samples …", "Consensus …", "25 DPM++ steps, seed 12345  ·  " + "b" * 40])
    plot_panel(
        np.zeros((16, 16)), masks, masks.mean(0), masks[0], np.zeros((16, 16)), tmp_path / "p.png", "series, nodule 1",
        subtitle, consensus_title="Consensus (≥ 12.5 % mean probability)",
    )  # fmt: skip
    (figure,) = figures
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts, *(axes.title for axes in figure.axes), *(axes._left_title for axes in figure.axes)]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)
    assert not [
        (one, other) for one, other in itertools.combinations(boxes, 2)
        if min(one.x1, other.x1) > max(one.x0, other.x0) and min(one.y1, other.y1) > max(one.y0, other.y0)
    ]  # fmt: skip


def find_pixels(png: bytes, colour: str) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return np.argwhere(np.abs(pixels - 255 * np.array(to_rgb(colour))).max(2) < 4)


def test_every_slice_stands_on_its_image_and_the_clicked_one_has_a_frame() -> None:
    count = 14
    image = np.full((count, 40, 40), -1000.0)
    image[:, 15:25, 15:25] = 0.0
    confidence = np.zeros(image.shape, np.float32)
    confidence[:, 18:22, 18:22] = 1.0
    shown = plot_slices(image, confidence, confidence > 0.5, clicked=7)
    picture = Image.open(io.BytesIO(shown))
    columns, rows = 6, 3
    frame = find_pixels(shown, SAMPLE_COLOUR)
    middle = frame.mean(0) / (picture.height, picture.width) * (rows, columns)
    # Number 7 of six in a row: the second row's second.
    assert middle.astype(int).tolist() == [1, 1]
    outlines = {tuple(place) for place in (find_pixels(shown, CONSENSUS_COLOUR) / (picture.height, picture.width)
                                           * (rows, columns)).astype(int).tolist()}  # fmt: skip
    assert len(outlines) == count
    # Tissue around the mask is as bright as the image says, and black without one.
    white = np.asarray(picture.convert("L"))
    black = np.asarray(Image.open(io.BytesIO(plot_slices(None, confidence, confidence > 0.5))).convert("L"))
    assert (white == 255).sum() > (black == 255).sum()


def test_reconstructions_keep_their_colours(tmp_path: Path) -> None:
    image = np.zeros((3, 8, 8), np.float32)
    image[0] = 1.0
    assert to_picture(image).shape == (8, 8, 3)
    assert to_picture(image[:1]).shape == (8, 8)
    green = np.zeros_like(image)
    green[1] = 2.0
    plot_reconstructions([RebuiltImage("a", to_picture(image), green.transpose(1, 2, 0))], tmp_path / "r.png")
    png = (tmp_path / "r.png").read_bytes()
    red, clipped, difference = (find_pixels(png, colour)[:, 1] for colour in ("#ff0000", "#00ff00", "#ffff00"))
    assert min(map(len, (red, clipped, difference))) > 1000
    assert red.mean() < clipped.mean() < difference.mean()
