"""Somebody's own folder of skin photographs with two raters, by the how-to, in a few minutes: a model that can be used.

The photographs are of ISIC-2018's validation part, which the skin bundle was not trained on.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from small_runs import SKIN

from medseglatdiff_monai.bundle.new import new_bundle
from medseglatdiff_monai.data.prepare import prepare
from medseglatdiff_monai.evaluation import evaluate
from medseglatdiff_monai.training.run import train

ARCHIVE = "isic2018_task1_256_train_val.tar"


def make_folder(source: Path, folder: Path, number: int) -> Path:
    """Images in ``images/``; the masks of one rater, and of another who outlines more roundly, wider or narrower."""
    masks = sorted(source.rglob("*_segmentation.png"))[:number]
    assert len(masks) == number
    for name in ("images", "masks/anna", "masks/ben"):
        (folder / name).mkdir(parents=True)
    for k, path in enumerate(masks):
        case = path.name.removesuffix("_segmentation.png")
        mask = np.asarray(Image.open(path).convert("L")) > 127
        change = ndimage.binary_dilation if k % 2 else ndimage.binary_erosion
        other = change(ndimage.gaussian_filter(mask.astype(float), 4) > 0.5, iterations=3)
        (image,) = source.rglob(f"{case}.jpg")
        Image.open(image).save(folder / "images" / f"{case}.png")
        for rater, drawn in (("anna", mask), ("ben", other)):
            Image.fromarray((drawn * 255).astype(np.uint8)).save(folder / "masks" / rater / f"{case}.png")
    return folder


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(("number", "ratios"), [(10, "7:3:0"), (30, "8:2:0"), (300, "8:2:0")])
def test_own_images_give_a_model(
    number: int, ratios: str, data_dir: Path, unpack: Callable[..., Path], tmp_path: Path
) -> None:
    with (data_dir / "isic2018_split.csv").open() as handle:
        cases = [row["image"] for row in csv.DictReader(handle) if row["split"] == "val"]
    names = "|".join(map(re.escape, cases[:number]))
    folder = make_folder(unpack(ARCHIVE, rf"/({names})(_segmentation)?\.(jpg|png)$"), tmp_path / "mine", number)
    data = tmp_path / "prepared"
    prepare("folder", folder, output_dir=data, group_pattern=".+", ratios=ratios, workers=1)
    bundle = new_bundle("my_lesions", SKIN, tmp_path / "bundles", data)
    run = train(bundle, data, output_dir=tmp_path / "run", max_minutes=2, tracking_uri=None)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["start"]["stages"] == ["scoring"]
    assert plan["start"]["codec_dice"] > 0.95
    assert plan["stages"]["scoring"]["epochs"] * plan["stages"]["scoring"]["steps_per_epoch"] >= 600
    assert evaluate(run, data, tmp_path / "scores")["summary"]["dice"] >= 0.8
