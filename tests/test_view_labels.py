"""Labels made on the page: the samples as choices, the brush, what is saved, and which image comes next."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from small_runs import LUNG, run_sizes, small_sizes
from test_view import read_png, served
from tiny_dicom import CORNER_MM, POINT, write_series

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.data.datalist import load_dataset_info
from medseglatdiff_monai.data.labelled import add_labels, crop_case, list_labelled
from medseglatdiff_monai.data.schema import CASE_ID
from medseglatdiff_monai.data.sources.source import PreparedCase
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.view.case import open_case
from medseglatdiff_monai.integrations.view.choices import (
    describe_kinds,
    find_box,
    group_samples,
    order_samples,
    render_thumbnail,
)
from medseglatdiff_monai.integrations.view.draft import Draft
from medseglatdiff_monai.integrations.view.labels import name_thing, save_label
from medseglatdiff_monai.integrations.view.queue import Queue
from medseglatdiff_monai.training.run import train


@pytest.fixture(scope="module")
def segmenter(lung: Path) -> Segmenter:
    return load_segmenter(lung)


def make_discs(*radii: float, side: int = 48, columns: int = 24) -> np.ndarray:
    """(N, 1, side, side); a radius of 0 is an empty mask."""
    y, x = np.indices((side, side))
    distance = np.hypot(y - 24, x - columns)
    return np.stack([distance[None] < radius for radius in radii])


def test_neighbours_in_the_order_look_alike() -> None:
    radii = (9, 3, 12, 0, 6, 10)
    assert order_samples(make_discs(*radii)) == [3, 1, 4, 0, 5, 2]
    # Masks of one size along a line are ordered along it, one way or the other.
    places = np.concatenate([make_discs(5, columns=column) for column in (28, 20, 26, 22, 24)])
    assert order_samples(places) in ([1, 3, 4, 2, 0], [0, 2, 4, 3, 1])
    assert order_samples(make_discs(4)) == [0]
    assert order_samples(make_discs(0, 0, 0)) == [0, 1, 2]


def test_kinds_of_samples() -> None:
    samples = make_discs(0, 4, 12, 4.5, 12.5, 5, 0, 4)
    kinds = group_samples(samples, order_samples(samples), "no nodule")
    assert [sorted(kind.members) for kind in kinds] == [[0, 6], [1, 3, 5, 7], [2, 4]]
    assert describe_kinds(kinds, 8) == "no nodule 25 %, small 50 %, large 25 %"
    # Of one kind, or of nothing but differences: no kinds.
    for radii in ((10, 10.5, 11, 12), (0, 0), (2, 3.2, 5, 8, 13, 21)):
        samples = make_discs(*radii)
        assert group_samples(samples, order_samples(samples), "nothing") == []
    # Two places of one size have no name by size.
    samples = np.concatenate([make_discs(5, 5, columns=12), make_discs(5, columns=36)])
    assert {kind.name for kind in group_samples(samples, [0, 1, 2], "nothing")} == {"form A", "form B"}


def test_thumbnails() -> None:
    samples = make_discs(4, 0)
    rows, columns = find_box(samples)
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 16)
    assert samples[0, 0, rows, columns].sum() == samples[0].sum()
    image = np.full((48, 48), 100, np.uint8)
    pixels = read_png(render_thumbnail(image, samples[0, 0], (rows, columns), "#ffb000"))
    assert {tuple(colour) for colour in pixels.reshape(-1, 3)} == {(100, 100, 100), (255, 176, 0)}
    assert (read_png(render_thumbnail(image, samples[1, 0], (rows, columns), "#ffb000")) == 100).all()
    assert find_box(make_discs(0)) == (slice(0, 48), slice(0, 48))


def test_brush() -> None:
    draft = Draft(np.zeros((2, 9, 12), bool), sample=2)
    assert (draft.corrected, draft.describe()) == (False, "sample no. 3")
    draft.begin_stroke(1)
    draft.paint(1, (4, 2), (4, 8), 1.0, True)
    expected = np.zeros((9, 12), bool)
    expected[4, 1:10] = expected[3, 2:9] = expected[5, 2:9] = True
    np.testing.assert_array_equal(draft.mask[1], expected)
    assert draft.describe() == "sample no. 3, corrected"
    draft.begin_stroke(1)
    draft.paint(1, (0, 0), (0, 0), 0.5, True)
    draft.paint(1, (4, 5), (4, 5), 20, False)
    assert not draft.mask.any()
    draft.undo()
    np.testing.assert_array_equal(draft.mask[1], expected)
    draft.undo()
    draft.undo()
    assert not draft.corrected
    assert Draft(np.ones((1, 2, 2), bool), threshold=0.25).describe() == "consensus ≥ 0.25"


def test_the_next_image() -> None:
    a, b, c, d = (Path(f"{name}.png") for name in "abcd")
    queue = Queue([a, b, c, d], [b])
    assert (queue.find_unscored(), queue.choose(a), queue.describe()) == (a, c, "1/4 labelled, 0 ranked")
    queue.scores |= {a: 0.1, c: 0.4, d: None}
    assert (queue.find_unscored(), queue.choose(), queue.choose(c)) == (None, c, a)
    queue.done |= {a, c}
    # An image that could not be segmented comes last, and counts as none that is ranked.
    assert (queue.choose(), queue.choose(d), queue.describe()) == (d, None, "3/4 labelled, 0 ranked")
    del queue.scores[a]
    queue.done.remove(a)
    assert queue.choose() == a


def test_every_file_name_is_another_thing() -> None:
    names = ("a.png", "a.jpg", "a.jpeg", "a.nii.gz", "A.PNG", "a b.png", "a-b.png", "снимок.png", "срез.png",
             "Ödem.png", "Ädem.png", "dem.png", "_a.png", "x" * 150 + "1.png", "x" * 150 + "2.png")  # fmt: skip
    things = [name_thing(Path(name)) for name in names]
    assert len(set(things)) == len(names)
    assert all(CASE_ID.fullmatch(f"{thing}-100_100_100-slice100") for thing in things)
    assert (things[0], things[6]) == ("a", "a-b")


def test_the_folder_is_resumed_where_it_was_left(segmenter: Segmenter, crop_png: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    from medseglatdiff_monai.integrations.view.queue import open_first

    for name in ("a 1", "b"):
        (tmp_path / f"{name}.png").write_bytes(crop_png.read_bytes())
    image, mask = np.zeros((6, 5), np.uint8), np.zeros((1, 6, 5), bool)
    labels = tmp_path / "labels"
    thing = name_thing(tmp_path / "a 1.png")
    add_labels(labels, thing, thing, [PreparedCase(thing, image, mask)], ("a 1.png", "1"))
    case, queue = open_first(tmp_path, segmenter, None, labels)
    assert case.source.path.name == "b.png"
    assert queue is not None
    assert queue.describe() == "1/2 labelled, 0 ranked"
    # A prepared folder is a queue as well, a single image is none.
    case, queue = open_first(labels, segmenter, None, tmp_path / "new")
    assert case.source.path == labels / "images" / f"{thing}.png"
    assert queue is not None
    assert open_first(tmp_path / "b.png", segmenter, None, labels)[1] is None


def test_labels_of_pictures_become_a_data_set(tmp_path: Path) -> None:
    image = np.zeros((6, 5, 3), np.uint8)
    mask = np.zeros((1, 6, 5), bool)
    folder = tmp_path / "labels"
    assert list_labelled(folder) == set()
    for number in range(7):
        add_labels(
            folder, f"g{number}", f"g{number}", [PreparedCase(f"g{number}", image, mask)], (f"{number}.png", "1")
        )
    dataset = load_dataset_info(folder)
    assert [item["case"] for item in dataset["validation"]] == ["g1", "g6"]
    assert (dataset["num_channels"], dataset["num_raters"], len(dataset["training"])) == (3, 1, 5)
    # Again: the label is replaced, and stays in its part.
    mask[0, 2, 3] = True
    add_labels(folder, "g1", "g1", [PreparedCase("g1", image, mask, extra={"labelled": {"by": "x"}})], ("1.png", "1"))
    dataset = load_dataset_info(folder)
    assert [item["case"] for item in dataset["validation"]] == ["g1", "g6"]
    assert dataset["validation"][0]["labelled"] == {"by": "x"}
    saved = np.asarray(nibabel.load(folder / "masks" / "g1.nii.gz").dataobj)[..., 0]
    np.testing.assert_array_equal(saved > 0, mask[0])
    assert list_labelled(folder) == {f"g{number}" for number in range(7)}
    with pytest.raises(InputError, match=r"3 channel\(s\) of 8 bits, n has 1 channel\(s\) of 16 bits"):
        add_labels(folder, "n", "n", [PreparedCase("n", image[..., 0].astype(np.int16), mask)], ("n.png", "1"))
    # Another file must not take the place of this one, nor write over its files.
    for thing, message in (("g1", r"g1 is labelled already, from another file '1\.png'"), ("n", "a label of 'g1'")):
        with pytest.raises(InputError, match=message):
            add_labels(folder, thing, thing, [PreparedCase("g1", image + 1, mask)], ("other.png", "2"))
    assert not np.asarray(Image.open(folder / "images" / "g1.png")).any()
    (tmp_path / "dataset.json").write_text(json.dumps({"source": "lidc"}))
    with pytest.raises(InputError, match="source 'lidc'; expected labels"):
        add_labels(tmp_path, "n", "n", [PreparedCase("n", image, mask)], ("n.png", "1"))


@pytest.mark.parametrize("top", [200, 300, 32767])
def test_pictures_of_16_bits_keep_their_values(segmenter: Segmenter, tmp_path: Path, top: int) -> None:
    pixels = np.linspace(0, top, 128 * 128).astype(np.uint16).reshape(128, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    case = open_case(tmp_path / "a.png", segmenter)
    shown = case.segment(2, 1, 0)
    labels = tmp_path / "labels"
    save_label(case, shown, Draft(shown.ensemble.samples[0], sample=0), labels, "Ada")
    (item,) = load_dataset_info(labels)["training"]
    assert item["file"] == "a.png"
    np.testing.assert_array_equal(np.asarray(nibabel.load(labels / item["image"]).dataobj), pixels)
    # A picture of this name from another folder, and values that int16 cannot hold.
    Image.fromarray(pixels + np.uint16(1)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="another file 'a.png'" if top < 32767 else "expected whole numbers"):
        save_label(open_case(tmp_path / "a.png", segmenter), shown, Draft(shown.ensemble.samples[0]), labels, "Ada")


def test_only_hounsfield_units_are_rounded() -> None:
    plane, mask = MetaTensor(torch.full((1, 4, 4), 0.6), affine=torch.eye(4)), np.zeros((4, 4), bool)
    with pytest.raises(InputError, match=r"scan\.nii\.gz: values from 0\.6.*expected whole numbers"):
        crop_case("a", plane, mask, Path("scan.nii.gz"))
    np.testing.assert_array_equal(crop_case("a", plane, mask, Path("series"), hounsfield=True).image, 1)
    assert crop_case("a", plane * 5, mask, Path("scan.nii.gz")).image.tolist() == [[3] * 4] * 4


def test_label_of_a_nodule(segmenter: Segmenter, series: Path, ct: np.ndarray, tmp_path: Path) -> None:
    case = open_case(series, segmenter)
    shown = case.segment(3, 1, 0, POINT)
    draft = Draft(shown.ensemble.samples[1], sample=1)
    draft.mask[:] = False
    draft.mask[shown.ensemble.clicked, 60:66, 61:70] = True
    draft.mask[shown.ensemble.clicked - 1, 62, 62] = True
    with pytest.raises(InputError, match="Nobody is named"):
        save_label(case, shown, draft, tmp_path, " ")
    message = save_label(case, shown, draft, tmp_path, "Ada")
    assert message.startswith("Saved sample no. 2, corrected as label: 2 case(s) in")
    (below, clicked) = load_dataset_info(tmp_path)["training"]
    assert clicked["labelled"]["by"] == "Ada"
    assert clicked["labelled"]["sample"] == 2
    assert clicked["labelled"]["corrected"]
    assert clicked["group"] == below["group"]
    image, mask = (np.asarray(nibabel.load(tmp_path / clicked[key]).dataobj) for key in ("image", "label"))
    np.testing.assert_array_equal(image, ct[2, 6:134, 26:154])
    np.testing.assert_array_equal(mask[..., 0] > 0, draft.mask[shown.ensemble.clicked])
    # An empty mask is a label, too: of the clicked slice; what was there before goes.
    save_label(case, shown, Draft(np.zeros_like(draft.mask), threshold=0.5), tmp_path, "Ada")
    (only,) = load_dataset_info(tmp_path)["training"]
    assert (only["case"], only["labelled"]["threshold"]) == (clicked["case"], 0.5)
    for folder in ("images", "masks"):
        assert [path.name for path in (tmp_path / folder).iterdir()] == [f"{only['case']}.nii.gz"]
    # Another patient's series in a folder of the same name, and a click on the same voxel.
    other = shutil.copytree(series, tmp_path / "other" / series.name)
    for path in other.iterdir():
        header = pydicom.dcmread(path)
        header.PatientID = "OTHER"
        header.save_as(path)
    save_label(open_case(other, segmenter), shown, draft, tmp_path, "Ada")
    dataset = load_dataset_info(tmp_path)
    assert (len(dataset["training"]), len(dataset["validation"])) == (1, 2)
    assert "OTHER" not in json.dumps(dataset)


def test_a_series_that_takes_no_dicom_seg_is_labelled(segmenter: Segmenter, ct: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    series = write_series(tmp_path / "series", ct)
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        del header.FrameOfReferenceUID
        header.save_as(path)
    case = open_case(series, segmenter)
    shown = case.segment(2, 1, 0, POINT)
    message = save_label(case, shown, Draft(shown.ensemble.samples[0], sample=0), tmp_path / "labels", "Ada")
    assert message.startswith("Saved sample no. 1 as label")
    assert "; no DICOM SEG: " in message
    assert "no FrameOfReferenceUID" in message
    assert "--" not in message
    assert load_dataset_info(tmp_path / "labels")["training"]


def test_slices_at_their_true_places(segmenter: Segmenter, ct: np.ndarray, tmp_path: Path) -> None:
    series = write_series(tmp_path / "series", ct)
    for path in series.iterdir():
        header = pydicom.dcmread(path)
        number = round((float(header.ImagePositionPatient[2]) - CORNER_MM[2]) / 2)
        header.ImagePositionPatient[2] = CORNER_MM[2] + (0.0, 2.0, 4.8, 7.0)[number]
        header.save_as(path)
    case = open_case(series, segmenter)
    # 1.45 mm from slice 1 and 1.35 mm from slice 2; with equal distances it would be nearer to slice 1.
    assert case.find_slice((*POINT[:2], CORNER_MM[2] + 3.45)) == 2


def test_the_list_shows_the_bundle_that_is_loaded() -> None:
    pytest.importorskip("nicegui")
    from medseglatdiff_monai.integrations.view.page import Page

    page: Any = Page.__new__(Page)
    page.bundle = page.bundle_shown = "A"
    page.segmenter, page.queue = "segmenter A", Queue([Path("a.png")])
    page.queue.scores[Path("a.png")] = 0.5
    page.controls = SimpleNamespace(
        bundle=SimpleNamespace(value="A"), path=SimpleNamespace(value=""), say=lambda text: None
    )
    page.bundles, page._show_steps = SimpleNamespace(load=None), lambda: None

    async def choose(name: str, segmenter: str | None, meanwhile: str | None = None) -> tuple[str, str]:
        async def run(*asked: object) -> str | None:
            if meanwhile is not None:
                page.controls.bundle.value = page.bundle_shown = meanwhile
            return segmenter

        page.asking = SimpleNamespace(ask=run)
        page.controls.bundle.value = name
        await page._choose_bundle()
        return page.controls.bundle.value, page.segmenter

    assert asyncio.run(choose("B", None)) == ("A", "segmenter A")
    # What was chosen meanwhile has yet to come.
    assert asyncio.run(choose("B", None, meanwhile="C")) == ("C", "segmenter A")
    assert page.queue.scores
    assert asyncio.run(choose("B", "segmenter B")) == ("B", "segmenter B")
    assert page.queue.scores == {}


def test_label_as_dicom(segmenter: Segmenter, series: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    case = open_case(series, segmenter)
    shown = case.segment(3, 1, 0, POINT)
    draft = Draft(shown.ensemble.samples[0] & False, threshold=0.5)
    draft.mask[shown.ensemble.clicked, 64, 64:67] = True
    save_label(case, shown, draft, tmp_path, "Čapek^Karel")
    (path,) = (tmp_path / "dicom").glob("*_label.dcm")
    label = pydicom.dcmread(path)
    assert (label.SegmentationType, label.ContentLabel) == ("BINARY", "LABEL")
    assert label.ContentCreatorName == "Čapek^Karel"
    assert label.ContentDescription == "Accepted: consensus ≥ 0.50, corrected"
    assert np.argwhere(label.pixel_array).tolist() == [[70, 90], [70, 91], [70, 92]]


@pytest.mark.slow
def test_train_takes_what_was_saved(segmenter: Segmenter, series: Path, crop_png: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    for number in range(3):
        path = tmp_path / f"p{number}.png"
        path.write_bytes(crop_png.read_bytes())
        case = open_case(path, segmenter)
        shown = case.segment(2, 1, number)
        save_label(case, shown, Draft(shown.ensemble.samples[0], sample=0), labels, "Ada")
    run = train(
        LUNG, labels, output_dir=tmp_path / "run", plan=False, draws=1, val_num_samples=2, val_interval=1,
        **small_sizes(LUNG), **run_sizes(2),
    )  # fmt: skip
    assert (run / "models" / "model.pt").is_file()


@pytest.mark.integration
def test_one_click_and_one_key(browser, lung: Path, crop_png: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in "ab":
        (pictures / f"{name}.png").write_bytes(crop_png.read_bytes())
    labels = tmp_path / "labels"
    with served(tmp_path, pictures, "--bundle", lung, "--num-samples", 4, "--labels", labels) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.wait_for_selector(".thumb.chosen", timeout=60_000)
        assert page.locator(".thumb").count() == 5
        page.get_by_label("Sample 3 of 4").click()
        page.wait_for_function("document.querySelector('.label-text').innerText.includes('sample no.')")
        page.keyboard.press("s")
        page.wait_for_function("document.querySelector('.message').innerText.includes('Saved sample no.')")
        dataset = load_dataset_info(labels)
        (item,) = dataset["training"]
        assert (item["case"], item["labelled"]["corrected"]) == ("a", False)
        first = np.asarray(nibabel.load(labels / item["label"]).dataobj)
        # The brush, and the label again.
        page.keyboard.press("b")
        page.wait_for_selector(".stage.brushing")
        box = page.locator(".stage-image").bounding_box()
        page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.1 * box["height"], steps=6)
        page.mouse.up()
        page.wait_for_selector("[data-layer=label]", state="attached")
        page.keyboard.press("s")
        page.wait_for_function("document.querySelector('.message').innerText.includes('corrected')")
        (item,) = load_dataset_info(labels)["training"]
        assert item["labelled"]["corrected"]
        assert (np.asarray(nibabel.load(labels / item["label"]).dataobj) != first).any()
        # The other picture, of which there is no label.
        page.keyboard.press("n")
        page.wait_for_function("document.querySelector('.message').innerText.includes('4 masks sampled')")
        assert page.get_by_label("PNG, JPEG").input_value().endswith("b.png")
        assert "1/2 labelled" in page.inner_text("body")
        page.keyboard.press("c")
        page.wait_for_function("document.querySelector('.label-text').innerText.includes('consensus')")
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        page.close()
