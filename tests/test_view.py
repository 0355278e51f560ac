"""The page: what it computes, and the page itself in a headless browser where there is one."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import io
import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from served import served
from small_runs import SKIN, write_small_bundle
from tiny_dicom import COLUMN, CORNER_MM, POINT, ROW, SLICE

from medseglatdiff_monai.bundle.segmenter import Segmenter, load_segmenter
from medseglatdiff_monai.ensemble.inferer import EnsembleInferer
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.integrations.view.case import Shown, open_case
from medseglatdiff_monai.integrations.view.command import view
from medseglatdiff_monai.integrations.view.folders import list_folder
from medseglatdiff_monai.integrations.view.picture import (
    colour_bar,
    encode,
    find_scale,
    frame_seen,
    mark_point,
    render_layers,
    render_map,
    to_grey,
    to_path,
)
from medseglatdiff_monai.integrations.view.tables import describe_pixel, describe_raters, describe_sizes
from medseglatdiff_monai.plots.panel import CONSENSUS_COLOUR
from medseglatdiff_monai.predict.command import predict
from medseglatdiff_monai.predict.ensemble import Ensemble


@pytest.fixture(scope="module")
def segmenter(lung: Path) -> Segmenter:
    return load_segmenter(lung)


def make_shown(volume: bool = True) -> Shown:
    """Four samples of 0, 2, 4 and 6 pixels in the second of two slices; pixels of 0.5 x 2 mm, slices of 3 mm."""
    samples = np.zeros((4, 2, 5, 8), dtype=bool)
    for number in range(4):
        samples[number, 1, 2, 1 : 1 + 2 * number] = True
    affine = np.array([[0.0, 2.0, 0, 0], [0.5, 0.0, 0, 0], [0.0, 0.0, 3, 0], [0, 0, 0, 1]])
    ensemble = Ensemble(
        samples=samples,
        confidence=samples.mean(0, dtype=np.float32),
        fused=samples.mean(0) >= 0.5,
        seen=(0, 0, 5, 8),
        affine=affine if volume else None,
        voxel_mm3=3.0 if volume else None,
        clicked=1,
    )
    return Shown(ensemble, EnsembleInferer(num_samples=4), np.stack([samples[2], np.zeros_like(samples[0])]))


@pytest.mark.parametrize(("threshold", "pixels"), [(0.25, 6), (0.26, 4), (0.5, 4), (0.75, 2), (0.76, 0), (1.0, 0)])
def test_consensus_and_its_sizes(threshold: float, pixels: int) -> None:
    ensemble = make_shown().ensemble
    sizes = [
        size.consensus
        for size in (ensemble.area_pixels(threshold), ensemble.area_mm2(threshold), ensemble.volume_mm3(threshold))
    ]
    assert sizes == [pixels, pixels * 1.0, pixels * 3.0]
    # n pixels in a row of 2 mm each.
    assert ensemble.diameter_mm(threshold).consensus == pytest.approx(np.hypot(pixels * 2.0, 0.0), abs=0.07)
    assert ensemble.area_pixels(threshold, 0).consensus == 0
    assert make_shown(volume=False).ensemble.volume_mm3(threshold) is None


def test_summary_and_comparison() -> None:
    shown = make_shown()
    assert shown.ensemble.volume_mm3().samples == [0.0, 6.0, 12.0, 18.0]
    assert shown.ensemble.area_mm2().describe()["median"] == 3.0
    rows = re.findall(r'<td class="(\w+)">', describe_sizes(make_shown(volume=False), 0.5, 0, 1))
    assert rows == ["area_pixels"]
    # At 0.5 the consensus is the first rater's mask; at 0.75 half of it; at 1 it is empty as the second rater's.
    for threshold, dice, iou in ((0.5, (1, 0), (1, 0)), (0.75, (2 / 3, 0), (0.5, 0)), (1.0, (0, 1), (0, 1))):
        found = shown.compare(threshold)
        assert [rater["dice"] for rater in found["raters"]] == pytest.approx(dice)
        assert [rater["iou"] for rater in found["raters"]] == pytest.approx(iou)
    # HM-IoU of lengths 0, 2, 4, 6 with 0, 0, 4, 4: 0-0 (1), 2-0 (0), 4-4 (1), 6-4 (2/3).
    assert found["hm_iou"] == pytest.approx((1 + 0 + 1 + 2 / 3) / 4)


def test_outline_and_layers() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    assert to_path(mask, 10.0) == ""
    mask[1, 2] = True
    points = {tuple(map(float, part.split())) for part in to_path(mask, 10.0)[1:-1].split("L")}
    # Around the pixel's middle, at (x, y) = (25, 15), half a pixel away.
    assert points == {(20.0, 15.0), (30.0, 15.0), (25.0, 10.0), (25.0, 20.0)}
    mask[:] = True
    assert to_path(mask, 10.0).count("M") == 1
    # Four straight edges with cut corners, and the first point again.
    assert to_path(mask, 10.0).count("L") == 8
    shown = make_shown()
    everything = ("Consensus", "Sample", "All samples", "Raters")
    svg = render_layers(shown, 0.5, 1, 1, everything)
    # An empty mask has no outline: the first sample and the second rater.
    assert re.findall(r'data-layer="([^"]*)"', svg) == ["all"] * 3 + ["consensus", "rater-1", "sample"]
    assert render_layers(shown, 0.5, 1, 0, everything) == ""
    assert render_layers(shown, 0.5, 1, 1, ["Consensus"]) != render_layers(shown, 0.75, 1, 1, ["Consensus"])
    assert '<td class="volume_mm3">12</td>' in describe_sizes(shown, 0.5, 1, 1)
    assert '<td class="volume_mm3">6</td>' in describe_sizes(shown, 0.75, 1, 1)
    # A rater is never taken for the consensus, and the consensus says from which share on.
    assert CONSENSUS_COLOUR in render_layers(shown, 0.5, 1, 1, ["Consensus"])
    assert CONSENSUS_COLOUR not in render_layers(shown, 0.5, 1, 1, ["Raters"])
    assert "consensus ≥ 0.75 against" in describe_raters(shown, 0.75)
    assert "GED" in describe_raters(shown, 0.5)


def test_a_frame_where_the_network_saw_a_part() -> None:
    shown = make_shown()
    part = dataclasses.replace(shown, ensemble=dataclasses.replace(shown.ensemble, seen=(1, 2, 4, 7)))
    assert 'd="M2 1H7V4H2Z"' in frame_seen(part.ensemble)
    assert frame_seen(shown.ensemble) == ""


def test_the_samples_median_comes_first() -> None:
    found = describe_sizes(make_shown(), 0.5, 1, 1)
    assert found.startswith('<div class="headline">Volume 9 mm³')
    assert "1 of 4 samples sees no nodule in this slice: the model is unsure whether there is one." in found
    assert "No sample sees a nodule in this slice." in describe_sizes(make_shown(), 0.5, 1, 0)
    # Of four samples no interval is stated.
    assert "<th>median of samples</th><th>consensus ≥ 0.50</th><th>this sample</th>" in found


def read_png(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_render() -> None:
    plane = np.array([[[-2000.0, -1350.0], [150.0, 3000.0]]])
    np.testing.assert_array_equal(read_png(encode(to_grey(plane, (-1350.0, 150.0)))), [[0, 0], [255, 255]])
    assert to_grey(plane).tolist() == [[0, 33], [110, 255]]
    colours = np.zeros((3, 3200, 2000), np.float32)
    assert read_png(encode(to_grey(colours))).shape == (1600, 1000, 3)
    assert (find_scale((3200, 2000)), find_scale((128, 128))) == (0.5, 1.0)
    # The middle of pixel (10, 20), in the picture that is half as large.
    assert 'cx="10.2" cy="5.2"' in mark_point(10, 20, (3200, 2000))


def test_maps_and_their_colour_bars() -> None:
    values = np.array([[0.0, 0.5, 1.0]])
    svg = render_map("Confidence", values)
    pixels = read_png(re.findall('href="([^"]*)"', svg)[0])
    # Where no sample marks anything, the image is seen.
    assert pixels[0, :, 3].tolist() == [0, 255, 255]
    last = "#" + bytes(pixels[0, 2, :3].tolist()).hex()
    assert f"{last})" in colour_bar("Confidence")
    assert "share of samples" in colour_bar("Confidence")
    assert colour_bar("Image") == ""


def test_values_below_the_cursor() -> None:
    plane = make_shown().ensemble.plane(1)
    image = np.full((1, 5, 8), -512.0)
    # Pixel 3 of the row is in the samples of 4 and of 6 pixels.
    text = describe_pixel(image, 2, 3, "HU", plane)
    assert text == "column 3, row 2 · -512 HU · 2 of 4 samples · confidence 0.50, entropy 1.00 bit"
    colours = np.arange(3.0).reshape(3, 1, 1)
    assert describe_pixel(colours, 0, 0, "") == "column 0, row 0 · RGB 0, 1, 2"


def test_list_folder(tmp_path: Path) -> None:
    for name in ("b.png", "a.NII.GZ", "slice.dcm", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    for name in ("scans", ".git"):
        (tmp_path / name).mkdir()
    found = list_folder(tmp_path / "b.png")
    assert (found.folder, found.folders, found.files, found.others) == (tmp_path, ("scans",), ("a.NII.GZ", "b.png"), 2)
    # A path that is no longer there begins where there still is something.
    assert list_folder(tmp_path / "gone" / "x.png") == found


def test_same_masks_as_predict(lung: Path, segmenter: Segmenter, crop_png: Path, series: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    for path, point in ((crop_png, None), (series, POINT)):
        (result,) = predict(
            lung, path, tmp_path, num_samples=4, num_inference_steps=2, seed=3, point=point, dicom=False
        )
        with np.load(result["files"]["samples"]) as arrays:
            expected = arrays["samples"] if point else arrays["samples"][:, None]
        shown = open_case(path, segmenter).segment(4, 2, 3, point, progress=seen.append)
        np.testing.assert_array_equal(shown.ensemble.samples, expected)
        if point is None:
            assert shown.ensemble.area_pixels(shown.threshold).consensus == result["area_pixels"]["consensus"]
        else:
            (nodule,) = result["nodules"]
            table = describe_sizes(shown, shown.threshold, 0, shown.ensemble.clicked)
            for key, name in (("volume_mm3", "volume_mm3"), ("diameter_mm", "longest_diameter_mm")):
                (written,) = re.findall(rf'<td class="{key}">([^<]*)</td>', table)
                assert float(written) == pytest.approx(nodule[name]["consensus"], rel=1e-3)
    assert seen[-1] == len(expected[0])
    # The shared bundle keeps its own settings.
    assert segmenter.inferer.num_samples == 3


@pytest.mark.parametrize("axes", ["RAS", "LPS", "ASL", "PRI"])
def test_slices_and_clicks_in_any_orientation(segmenter: Segmenter, ct: np.ndarray, tmp_path: Path, axes: str) -> None:
    affine = np.diag([-0.75, -0.5, 2.0, 1.0])
    affine[:3, 3] = -CORNER_MM[0], -CORNER_MM[1], CORNER_MM[2]
    straight = nibabel.Nifti1Image(ct.transpose(2, 1, 0), affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(affine), nibabel.orientations.axcodes2ornt(tuple(axes))
    )
    straight.as_reoriented(turn).to_filename(tmp_path / "scan.nii.gz")
    masks = np.zeros(ct.shape, np.uint8)
    masks[SLICE, ROW - 5 : ROW + 5, COLUMN - 3 : COLUMN + 3] = 1
    nibabel.Nifti1Image(masks.transpose(2, 1, 0), affine).as_reoriented(turn).to_filename(tmp_path / "rater.nii.gz")
    case = open_case(tmp_path / "scan.nii.gz", segmenter, tmp_path / "rater.nii.gz")
    assert (case.num_slices, case.needs_point) == (4, True)
    for number in range(4):
        np.testing.assert_array_equal(case.read_slice(number).numpy()[0], ct[number])
    assert case.pixel_to_point(SLICE, ROW, COLUMN) == pytest.approx(POINT, abs=1e-3)
    assert [case.find_slice((*POINT[:2], CORNER_MM[2] + 2.0 * number)) for number in range(-1, 5)] == [0, 0, 1, 2, 3, 3]
    shown = case.segment(2, 1, 0, POINT)
    assert shown.raters is not None
    assert shown.raters.shape == (1, *shown.ensemble.confidence.shape)
    expected = np.zeros(shown.raters.shape[1:], bool)
    expected[shown.ensemble.clicked, 59:69, 61:67] = True
    np.testing.assert_array_equal(shown.raters[0], expected)


def test_raters_of_a_picture(segmenter: Segmenter, crop_png: Path, tmp_path: Path) -> None:
    masks = np.zeros((128, 128, 2), np.uint8)
    masks[60:70, 50:80, 1] = 1
    nibabel.Nifti1Image(masks, np.eye(4)).to_filename(tmp_path / "both.nii.gz")
    Image.fromarray(masks[..., 1] * 255).save(tmp_path / "one.png")
    raters = open_case(crop_png, segmenter, f"{tmp_path / 'both.nii.gz'}, {tmp_path / 'one.png'}").raters
    assert isinstance(raters, np.ndarray)
    np.testing.assert_array_equal(raters, masks.transpose(2, 0, 1)[[0, 1, 1]] > 0)


def test_bad_input(segmenter: Segmenter, crop_png: Path, series: Path, tmp_path: Path, lung: Path) -> None:
    Image.new("L", (20, 30)).save(tmp_path / "small.png")
    nibabel.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.eye(4)).to_filename(tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match=r"small\.png: masks of 30x20 pixels; expected those of nodule\.png, 128x128"):
        open_case(crop_png, segmenter, tmp_path / "small.png")
    with pytest.raises(InputError, match=r"other\.nii\.gz: a grid of shape \(3, 4, 5\) that is not that of series"):
        open_case(series, segmenter, tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match=r"small\.png: expected a NIfTI on the grid of series"):
        open_case(series, segmenter, tmp_path / "small.png")
    with pytest.raises(InputError, match="Give --point"):
        open_case(series, segmenter).segment(2, 1, 0)
    with pytest.raises(InputError, match="num_samples is 0; expected an integer of at least 1"):
        open_case(crop_png, segmenter).segment(0, 1, 0)
    with pytest.raises(InputError, match=r"missing\.png: no such file"):
        open_case(tmp_path / "missing.png", segmenter)
    pytest.importorskip("nicegui")
    skin = write_small_bundle(tmp_path / "skin" / SKIN, SKIN, num_samples=3)
    with pytest.raises(InputError, match="three channels"):
        view(series, skin, show=False)
    with pytest.raises(InputError, match="--port is 0"):
        view(None, lung, port=0)
    with pytest.raises(InputError, match="--raters and --point belong to an image"):
        view(None, lung, point="1,2,3")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="cannot be used"):
            view(crop_png, lung, port=taken.getsockname()[1])


def test_no_error_leaves_the_page_waiting() -> None:
    pytest.importorskip("nicegui")
    from medseglatdiff_monai.integrations.view.asking import Asking

    said: list[tuple[str, bool]] = []
    spinner = SimpleNamespace(visible=False)
    controls: Any = SimpleNamespace(spinner=spinner, say=lambda text, wrong: said.append((text, wrong)))
    asking = Asking(controls)

    def fail(error: Exception, later: bool = False) -> None:
        asking.number += later
        raise error

    async def ask() -> None:
        assert await asking.ask(int, "3") == 3
        assert await asking.ask(fail, InputError("a.png: no picture")) is None
        assert await asking.ask(fail, ZeroDivisionError("x")) is None
        assert not spinner.visible
        # The answer to a question after which another was asked is nobody's.
        assert await asking.ask(fail, InputError("late"), True) is None

    asyncio.run(ask())
    assert said == [
        ("a.png: no picture", True), ("Unexpected error, please report it: ZeroDivisionError: x", True),
    ]  # fmt: skip


def _drag(page, name: str, share: float) -> None:
    """Drag a slider to a share of its length, over many places between, as a hand does."""
    # Waits until it no longer moves: what was changed before may still shift it.
    page.locator(f"[aria-label='{name}'] .q-slider__thumb").hover()
    track = page.locator(f"[aria-label='{name}'] .q-slider__track").bounding_box()
    page.mouse.down()
    page.mouse.move(track["x"] + share * track["width"], track["y"], steps=15)
    page.mouse.up()


@pytest.mark.integration
def test_page_of_a_picture(browser, lung: Path, crop_png: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    masks = np.zeros((128, 128, 2), np.uint8)
    masks[60:70, 50:80, 1] = 1
    nibabel.Nifti1Image(masks, np.eye(4)).to_filename(tmp_path / "raters.nii.gz")
    (result,) = predict(lung, crop_png, tmp_path / "out", num_samples=4)
    with np.load(result["files"]["samples"]) as arrays:
        count = arrays["samples"].sum(0)
    arguments = (crop_png, "--bundle", lung, "--raters", tmp_path / "raters.nii.gz", "--num-samples", 4)
    with served(tmp_path, *arguments) as address:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector(".sizes td.area_pixels", timeout=60_000)
        # Of four samples: from the two of the bundle's threshold to all, one, three and two.
        for share in (0.85, 0.1, 0.5, 0.3):
            before = page.locator("[data-layer=consensus]").get_attribute("d")
            _drag(page, "Consensus threshold", share)
            # The slider stays where it was put; label, number and outline follow it.
            set_to = 0.02 + share * 0.98
            page.wait_for_function(
                "t => Math.abs(t - parseFloat(document.querySelector('.threshold').innerText.split(' ')[2])) < 0.02",
                arg=set_to,
            )
            expected = int((count >= set_to * 4).sum())
            page.wait_for_function(f"document.querySelector('.sizes td.area_pixels').innerText === '{expected}'")
            page.wait_for_function(
                "old => document.querySelector('[data-layer=consensus]').getAttribute('d') !== old", arg=before
            )
        assert page.locator(".comparison .dice").count() == 2
        before = page.locator("[data-layer=sample]").get_attribute("d")
        _drag(page, "Sample", 2 / 3)
        page.wait_for_function("document.body.innerText.includes('Sample 3 of 4')")
        page.wait_for_function(
            "old => document.querySelector('[data-layer=sample]').getAttribute('d') !== old", arg=before
        )
        page.screenshot(path=tmp_path / "page.png")
        # A wrong path is a message, and the page goes on.
        page.get_by_label("PNG, JPEG").fill(str(tmp_path / "missing.png"))
        page.get_by_role("button", name="Open").click()
        page.wait_for_function("document.body.innerText.includes('missing.png: no such file')")
        assert page.locator("[role=alert]").count() == 1
        # What is no image at all leaves no page that waits, either.
        (tmp_path / "broken.png").write_bytes(b"no picture")
        page.get_by_label("Choose a file").click()
        page.get_by_text("broken.png", exact=True).click()
        page.wait_for_function("document.body.innerText.includes('broken.png: unreadable')")
        assert page.get_by_label("Raters' masks").input_value() == ""
        assert not page.locator(".q-spinner").is_visible()
        # A picture of more than a megabyte, which NiceGUI's own layers would send back until the connection ends.
        noise = np.random.default_rng(0).integers(0, 255, (1200, 1200), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "good.png")
        page.get_by_label("Choose a file").click()
        page.get_by_text("good.png", exact=True).click()
        page.wait_for_function("document.querySelector('.message').innerText.includes('4 masks sampled')")
        page.wait_for_selector(".nicegui-interactive-image-layer svg[viewBox='0 0 1200 1200'] path", state="attached")
        assert errors == []
        # Under another name, as a page elsewhere would come, there is no answer.
        host = address.partition("/?")[0]
        assert page.request.get(host, headers={"Host": "example.org"}).status == 400
        # The browser that opened the page may, and another one, that brings the token again, may not.
        for path, status in (("/", 200), ("/nothing", 404), ("/_nicegui/nothing", 404)):
            assert page.request.get(host + path).status == status
        assert page.request.put(host).status == 405
        another = browser.new_context()
        assert another.request.get(address).status == 403
        another.close()
        page.close()
    with Image.open(tmp_path / "page.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.integration
def test_page_of_a_series(browser, lung: Path, series: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    (result,) = predict(lung, series, tmp_path / "out", num_samples=3, point=POINT, dicom=False)
    volume = result["nodules"][0]["volume_mm3"]["consensus"]
    with served(tmp_path, series, "--bundle", lung, "--num-samples", 3) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 1300})
        page.goto(address)
        page.wait_for_function("document.body.innerText.includes('Click on the nodule')", timeout=60_000)
        page.wait_for_selector(".stage img[src^=data]")
        # The middle of the scan is slice 2 of 0 to 3.
        assert "Slice 3 of 4" in page.inner_text("body")
        image = page.locator(".stage-image")
        box = image.bounding_box()
        image.click(position={"x": (COLUMN + 0.5) / 170 * box["width"], "y": (ROW + 0.5) / 150 * box["height"]})
        page.wait_for_selector(".sizes td.volume_mm3", timeout=60_000)
        found = float(page.inner_text(".sizes td.volume_mm3"))
        assert found == pytest.approx(volume, rel=1e-3)
        message = page.inner_text(".message")
        place = re.search(r"masks sampled for 4 slice\(s\) at (\S+), (\S+), (\S+) mm", message)
        assert place is not None, message
        # The browser reports whole pixels of the picture.
        assert list(map(float, place.groups())) == pytest.approx(POINT, abs=0.4)
        assert "Towards the head the scan ends" in message
        # The nodule is shown now; its slice and what is below the cursor are said.
        assert "Slice 3 of 4" in page.inner_text("body")
        image.hover(position={"x": 100, "y": 100})
        page.wait_for_function("document.querySelector('.cursor').innerText.includes('HU · ')")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("document.body.innerText.includes('Slice 2 of 4')")
        page.get_by_role("button", name="Scan").click()
        page.wait_for_selector(".stage circle")
        page.close()
    assert json.dumps(result["nodules"][0]["voxel"]) == json.dumps([COLUMN, ROW, SLICE])


@pytest.mark.slow
@pytest.mark.integration
def test_page_on_narrow_and_wide_screens(browser, lung: Path, crop_png: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    with served(tmp_path, crop_png, "--bundle", lung, "--num-samples", 2) as address:
        page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="dark")
        page.goto(address)
        page.wait_for_selector(".sizes td.area_pixels", timeout=60_000)
        # As the system has it, until one chooses.
        assert page.locator("body.body--dark").count() == 1
        page.emulate_media(color_scheme="light")
        page.wait_for_selector("body.body--light")
        page.get_by_label("Light or dark").click()
        page.wait_for_selector("body.body--dark")
        # Nothing is cut off: the page is as wide and as high as the window, and most of it is the image.
        sizes = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
        assert page.evaluate(sizes) == [1400, 900]
        wide = page.locator(".stage").bounding_box()
        assert wide["width"] > 900
        assert wide["height"] > 600
        before = page.locator(".stage-image").bounding_box()
        page.get_by_label("Zoom in").click()
        assert page.locator(".stage-image").bounding_box()["width"] == pytest.approx(1.25 * before["width"], abs=1)
        page.keyboard.press("0")
        page.wait_for_function(
            "w => Math.abs(document.querySelector('.stage-image').clientWidth - w) < 2", arg=before["width"]
        )
        page.get_by_role("button", name="Entropy").click()
        page.wait_for_selector(".stage image", state="attached")
        assert "entropy, bit" in page.inner_text("body")
        _drag(page, "Opacity", 0.2)
        opacity = "parseFloat(getComputedStyle(document.querySelector('.stage image')).opacity)"
        page.wait_for_function(f"Math.abs({opacity} - 0.2) < 0.06")
        page.set_viewport_size({"width": 400, "height": 800})
        assert page.evaluate(sizes)[0] == 400
        assert page.locator(".stage").bounding_box()["width"] > 360
        # A grey picture for a bundle of colours: the other bundle is loaded, and the error looks like one.
        page.get_by_label("Bundle").click()
        page.get_by_role("option", name=SKIN).click()
        page.wait_for_function("document.body.innerText.includes('three channels')", timeout=60_000)
        assert page.locator("[role=alert].bg-negative").count() == 1
        page.close()


@pytest.mark.slow
@pytest.mark.integration
def test_a_bundle_that_cannot_be_loaded_is_not_shown(browser, lung: Path, crop_png: Path, tmp_path: Path) -> None:
    pytest.importorskip("nicegui")
    broken = tmp_path / "bundles" / "broken"
    for name, content in (("configs/metadata.json", "{}"), ("models/model.pt", "none")):
        (broken / name).parent.mkdir(parents=True)
        (broken / name).write_text(content)
    with served(tmp_path, crop_png, "--bundle", lung, "--num-samples", 2) as address:
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("document.querySelector('.message').innerText.includes('2 masks sampled')")
        page.locator(".view-bundle").click()
        page.get_by_role("option", name="broken").click()
        page.wait_for_function("document.querySelector('.message').innerText.includes('broken')")
        page.wait_for_function(f"document.querySelector('.view-bundle').innerText.includes('{lung.name}')")
        assert "broken" not in page.inner_text(".view-bundle")
        # It still works, with the bundle that it shows.
        page.get_by_text("Sample masks").click()
        page.wait_for_function("document.querySelector('.message').innerText.includes('2 masks sampled')")
        page.close()
