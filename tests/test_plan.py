"""Own data of any size: what is measured, how long the stages become, where a training starts, and what it says."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import RETINA, SKIN, build_network, run_sizes, write_prepared, write_small_bundle

from medseglatdiff_monai.bundle import plan as plan_module
from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.bundle.new import new_bundle
from medseglatdiff_monai.bundle.plan import MIN_STEPS, describe_data, find_resize, plan_stage, stage_share
from medseglatdiff_monai.bundle.segmenter import inference_config
from medseglatdiff_monai.data.fingerprint import dice_after_resizing, take_fingerprint
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks.weights import find_fresh_parts, load_tensors, save_weights, stage_finished
from medseglatdiff_monai.training import stages as stages_module
from medseglatdiff_monai.training import start as start_module
from medseglatdiff_monai.training.checkpoints import start_from_weights
from medseglatdiff_monai.training.run import train
from medseglatdiff_monai.training.start import Start, choose_start, save_stage_start

ALL = ["image_codec", "mask_codec", "train", "scoring"]


def make_config(batch_size: int, max_epochs: Any, val_interval: int = 1, **further: Any) -> dict[str, Any]:
    return {
        "batch_size": batch_size, "max_epochs": max_epochs, "val_interval": val_interval, "checkpoint_interval": 1,
        **further,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "config", "cases", "expected"),
    [
        # 24 images in batches of 32: one step per epoch, so that 2 epochs are 2 steps of the 100 that are wanted.
        ("image_codec", make_config(32, 2), 24, (1, 100, {"val_interval": 20, "checkpoint_interval": 50})),
        # 30 images in batches of 12: two steps per epoch, since the last six images are dropped.
        ("scoring", make_config(12, 60, 5), 30, (2, 300, {"val_interval": 60, "checkpoint_interval": 25})),
        # Eight of them are 3 steps per epoch: 34 epochs, and two more for the validation after every sixth.
        ("image_codec", make_config(8, 2), 30, (3, 36, {"val_interval": 6, "checkpoint_interval": 16})),
        (
            "image_codec", make_config(8, 2, max_train_cases=7), 30,
            (1, 100, {"val_interval": 20, "checkpoint_interval": 50}),
        ),
        # As long as it should be, or longer: as it is.
        ("scoring", make_config(12, 60, 5), 240, (20, 60, {})),
        ("image_codec", make_config(32, 2), 1600, (50, 2, {})),
    ],
)  # fmt: skip
def test_a_stage_has_enough_steps(stage: str, config: dict, cases: int, expected: tuple) -> None:
    length = plan_stage(stage, config, cases)
    per_epoch, epochs, intervals = expected
    assert (length.steps_per_epoch, length.bundle_epochs, length.epochs) == (per_epoch, config["max_epochs"], epochs)
    assert length.keys == ({"max_epochs": epochs, **intervals} if intervals else {})
    assert epochs * per_epoch >= MIN_STEPS[stage]
    assert epochs % length.keys.get("val_interval", 1) == 0


def test_given_epochs_are_kept_and_computed_ones_left_alone() -> None:
    length = plan_stage("train", make_config(32, 3), 24, fixed=True)
    assert (length.epochs, length.keys) == (3, {})
    assert length.describe("train") == "diffusion 3 steps (as given)"
    assert plan_stage("train", make_config(32, "$@epochs"), 24) is None


@pytest.mark.parametrize(("bundle", "cases"), [(SKIN, 1600), (RETINA, 14)])
def test_shipped_bundles_keep_their_own_lengths_on_their_own_data(bundle: str, cases: int) -> None:
    stages = load_stage_config(bundle, "train")["training_stages"]
    assert all(plan_stage(stage, load_stage_config(bundle, stage), cases).keys == {} for stage in stages)


def test_shares_of_the_time() -> None:
    assert stage_share("scoring", ["scoring"]) == 1.0
    assert stage_share("mask_codec", ["mask_codec", "scoring"]) == pytest.approx(0.4)
    assert sum(stage_share(stage, ALL) for stage in ALL) == pytest.approx(1.0)


def write_own(folder: Path, highest: int = 255) -> Path:
    """Prepared folder of two training images of two raters, 4 × 8 and 8 × 8 pixels."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    first, second = np.zeros((4, 8, 2), np.uint8), np.zeros((8, 8, 2), np.uint8)
    # 8 of 32 pixels, and 4 of them by the other rater: Dice 8 / 12. In the second image one rater marks all.
    first[:2, :4, 0] = 1
    first[:2, :2, 1] = 1
    second[..., 0] = 1
    items = []
    for case, masks in (("a", first), ("b", second)):
        image = np.full(masks.shape[:2], 20, np.uint8)
        image[0, 0] = highest if highest < 256 else 255
        if highest < 256:
            path = f"images/{case}.png"
            Image.fromarray(image).save(folder / path)
        else:
            path = f"images/{case}.nii.gz"
            values = image.astype(np.int16)
            values[0, 0] = highest
            nibabel.Nifti1Image(values, np.eye(4)).to_filename(folder / path)
        nibabel.Nifti1Image(masks, np.eye(4)).to_filename(folder / "masks" / f"{case}.nii.gz")
        spacing = [0.5, 0.25] if case == "a" else [1.5, 0.25]
        items.append({
            "image": path, "label": f"masks/{case}.nii.gz", "case": case, "group": case, "spacing_mm": spacing,
        })  # fmt: skip
    info = {"name": "own", "num_channels": 1, "num_raters": 2, "labels": {"0": "background", "1": "spot"}}
    (folder / "dataset.json").write_text(json.dumps({**info, "training": items, "validation": items[:1], "test": []}))
    return folder


def test_fingerprint_of_two_images(tmp_path: Path) -> None:
    data = write_own(tmp_path)
    found = take_fingerprint(data, (8, "nearest"))
    assert found["cases"] == {"training": 2, "validation": 1, "test": 0}
    assert (found["measured"], found["channels"], found["raters"]) == (2, 1, 2)
    assert found["size"] == {"min": [4, 8], "median": [6, 8], "max": [8, 8]}
    assert list(found["spacing_mm"]) == [1.0, 0.25]
    assert found["intensity"] == {"min": 20, "max": 255}
    assert found["foreground_share"] == {"min": 0.125, "median": 0.25, "max": 1.0}
    assert found["empty_share"] == 0.25
    assert found["dice_between_raters"] == pytest.approx((2 / 3 + 0.0) / 2)
    assert found["dice_after_resizing"] == pytest.approx(1.0)
    assert describe_data(found, (8, "nearest")) == [
        "Images: 2 training, 1 validation, 0 test; 1 channel(s), 4 × 8 to 8 × 8 pixels, spacing 1.00 × 0.25 mm",
        "Masks: 2 rater(s), foreground 12.5 to 100.0 % (median 25.0 %), 25 % of the masks empty, raters agree with "
        "Dice 0.33",
        "Input: resized to 8 × 8 (nearest), which keeps Dice 1.000 of the masks",
    ]  # fmt: skip
    assert take_fingerprint(data, None, max_cases=1)["measured"] == 1


def test_thin_structures_are_told_to_be_lost() -> None:
    masks = torch.zeros(1, 64, 64, dtype=torch.bool)
    masks[:, :, 31] = True
    assert dice_after_resizing(masks, 32, "nearest") == [0.0]
    found = {
        "cases": {"training": 1, "validation": 1, "test": 0}, "channels": 1, "raters": 1, "spacing_mm": None,
        "size": {key: [64, 64] for key in ("min", "median", "max")}, "empty_share": 0.0, "dice_between_raters": None,
        "foreground_share": {"min": 0.1, "median": 0.1, "max": 0.1}, "dice_after_resizing": 0.0,
    }  # fmt: skip
    assert describe_data(found, (32, "nearest"))[-1].endswith("try --mask-resize area or a larger --image-size")
    assert "64 × 64 pixels, no spacing" in describe_data(found, None)[0]
    assert len(describe_data(found, None)) == 2


def test_which_bundles_resize() -> None:
    assert find_resize(load_stage_config(SKIN, "train")) == (256, "nearest")
    assert find_resize(load_stage_config(RETINA, "train")) == (512, "area")
    assert find_resize({"preprocessing_transforms": []}) is None


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", SKIN, training=5, validation=2)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with small networks and weights."""
    return write_small_bundle(tmp_path_factory.mktemp("parent") / "run", SKIN)


@pytest.mark.parametrize(
    ("dice", "changes", "expected", "fresh"),
    [
        (0.95, {}, ["scoring"], []),
        (None, {}, ["scoring"], []),
        (0.85, {}, ["mask_codec", "train", "scoring"], []),
        (0.95, {"denoiser_channels": [16, 32]}, ["train", "scoring"], ["denoiser"]),
        (0.95, {"image_channels": 1}, ["image_codec", "train", "scoring"], ["conditioner.codec"]),
        (0.95, {"mask_codec_res_layers": 2}, ["mask_codec", "train", "scoring"], ["mask_codec"]),
        (0.95, {"trainable_mask_encoder": False}, ["mask_codec", "scoring"], []),
    ],
)
def test_stages_that_are_needed(
    data: Path,
    parent: Path,
    monkeypatch: pytest.MonkeyPatch,
    dice: float | None,
    changes: dict,
    expected: list,
    fresh: list,
) -> None:
    monkeypatch.setattr(start_module, "_try_codec", lambda *_: dice)
    weights = parent / "models" / "model.pt"
    start = choose_start(load_stage_config(parent, "inference", overrides=changes), ALL, weights, data)
    assert (start.stages, list(start.fresh), start.weights) == (expected, fresh, str(weights))
    assert start.codec_dice == (None if "mask_codec" in fresh else dice)
    # A bundle without a diffusion stage, such as the vessels'.
    short = choose_start(load_stage_config(parent, "inference", overrides=changes), ALL[1::2], weights, data)
    assert short.stages == [stage for stage in expected if stage in ALL[1::2]]
    said = start.describe()
    assert ("all parts fit but" in said) == bool(fresh)
    assert ("stays as it is" in said) == (dice == 0.95 and "mask_codec" not in expected)


def test_a_codec_is_tried_on_the_masks_themselves(data: Path, parent: Path) -> None:
    """The random codec of the small bundle is bad, and one that returns what it gets is perfect."""
    config = load_stage_config(parent, "inference")
    weights = parent / "models" / "model.pt"
    assert choose_start(config, ALL, weights, data).codec_dice < 0.9
    parser = start_module.ConfigParser(config)
    identity = SimpleNamespace(reconstruct=lambda masks: masks - 0.5)
    assert start_module._try_codec(identity, parser, data) == 1.0
    half = SimpleNamespace(reconstruct=lambda masks: torch.full_like(masks, -1.0))
    assert start_module._try_codec(half, parser, data) == 0.0


def test_weights_of_another_network_are_no_start(data: Path, parent: Path, tmp_path: Path) -> None:
    save_weights(torch.nn.Linear(2, 2), tmp_path / "other.pt")
    assert choose_start(load_stage_config(parent, "inference"), ALL, tmp_path / "other.pt", data) == Start(ALL)
    with pytest.raises(InputError, match="no part of it has the same tensors"):
        train(parent, data, output_dir=tmp_path / "run", initial_weights=tmp_path / "other.pt")
    assert not (tmp_path / "run").exists()


def test_each_stage_starts_from_its_part(parent: Path, tmp_path: Path) -> None:
    weights = parent / "models" / "model.pt"
    start = Start(["mask_codec", "train", "scoring"], str(weights), (), 0.5)
    given = load_tensors(weights)
    save_stage_start("mask_codec", start, tmp_path / "start_mask_codec.pt")
    network = start_module.ConfigParser(load_stage_config(parent, "inference")).get_parsed_content("mask_codec_def")
    assert start_from_weights(network, tmp_path / "start_mask_codec.pt", "mask_codec") == []
    codec = {name: value for name, value in network.state_dict().items() if name != "positive_weight"}
    assert all(torch.equal(value, given[f"mask_codec.{name}"].to(value.dtype)) for name, value in codec.items())
    # What the codec's stage leaves takes the place of the given one.
    trained = {name: value + 1 for name, value in network.state_dict().items()}
    torch.save(trained, tmp_path / "mask_codec.pt")
    save_stage_start("train", start, tmp_path / "start_train.pt")
    state = load_tensors(tmp_path / "start_train.pt")
    assert state.keys() == given.keys()
    for name, value in state.items():
        expected = trained[name.removeprefix("mask_codec.")] if name.startswith("mask_codec.") else given[name]
        assert torch.equal(value, expected)
    for stage, of in (("scoring", start), ("image_codec", start), ("train", Start(ALL))):
        save_stage_start(stage, of, tmp_path / "nothing.pt")
        assert not (tmp_path / "nothing.pt").exists()


def test_a_new_bundle_brings_the_weights_that_it_starts_from(
    data: Path, parent: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    same = new_bundle("same_sizes", parent, tmp_path, data)
    assert (same / "models" / "initial.pt").read_bytes() == (parent / "models" / "model.pt").read_bytes()
    assert "all parts fit." in caplog.text
    assert "Images: 5 training, 2 validation" in caplog.text
    # Which stages are trained depends on how the weights fit, and `train` finds that out.
    assert "Stages:" not in caplog.text
    other = new_bundle("other_sizes", parent, tmp_path, denoiser_channels=[16, 32])
    assert "all parts fit but denoiser." in caplog.text
    network = build_network(other)[0].state_dict()
    assert find_fresh_parts(network, load_tensors(other / "models" / "initial.pt"))[0] == ["denoiser"]
    sizes = {"mask_codec_channels": [16] * 3, "image_codec_channels": [16] * 3, "denoiser_channels": [32, 32]}
    scratch = new_bundle("no_size", parent, tmp_path, **sizes)
    assert "from scratch" in caplog.text
    assert not (scratch / "models").exists()


def test_grey_values_that_the_bundle_does_not_expect_are_refused(parent: Path, tmp_path: Path) -> None:
    data = write_own(tmp_path / "data", highest=4095)
    with pytest.raises(InputError, match=r"from 20 to 4095.*--intensities 20,4095"):
        new_bundle("own_greys", parent, tmp_path, data)
    assert new_bundle("own_greys", parent, tmp_path, data, intensities=(0, 4095)).is_dir()


def test_the_deadline_of_a_stage_is_its_share(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1000.0)
    monkeypatch.setattr(stages_module, "time", clock)
    runner = stages_module._Runner(tmp_path, tmp_path, SimpleNamespace(), 10.0, Start(ALL))
    # 600 seconds, 5 % of which are kept for the last validation; 15 % of the others are the image codec's.
    assert runner._deadline("image_codec", ALL[1:]) == pytest.approx(1000 + 0.15 * 570)
    clock.monotonic = lambda: 1300.0
    assert runner._deadline("train", ["scoring"]) == pytest.approx(1300 + 0.35 / 0.65 * 270)
    assert runner._deadline("scoring", []) == pytest.approx(1570)
    assert stages_module._Runner(tmp_path, tmp_path, SimpleNamespace(), None, Start(ALL))._deadline("train", []) is None
    # Without a plan a stage may take all the time.
    plain = stages_module._Runner(tmp_path, tmp_path, SimpleNamespace(), 10.0, None)
    assert plain._deadline("image_codec", ALL[1:]) == 1300.0 + 600.0


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with small networks, weights, and epochs of one step, of which its stages have one."""
    return write_small_bundle(tmp_path_factory.mktemp("short") / "run", SKIN, **run_sizes())


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "MIN_STEPS", dict.fromkeys(ALL, 3))


@pytest.fixture
def printed(capfd: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What was said since the last call; the stages' own logging.conf prints it, and before the first the test does."""
    caplog.set_level(logging.INFO)

    def read() -> str:
        text = caplog.text + "".join(capfd.readouterr())
        caplog.clear()
        return text

    return read


def test_the_codec_that_is_told_as_wanted_is_the_one_that_is_demanded() -> None:
    assert load_stage_config(SKIN, "mask_codec")["validate"]["wanted"] == plan_module.CODEC_DICE


def set_wanted_dice(monkeypatch: pytest.MonkeyPatch, dice: float) -> None:
    for module in (stages_module, start_module):
        monkeypatch.setattr(module, "CODEC_DICE", dice)


@pytest.mark.usefixtures("few_steps")
def test_a_decoder_is_trained_before_the_last_stage(
    data: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decoder and the denoiser change; the mask's latents, which the denoiser samples, do not."""
    set_wanted_dice(monkeypatch, 0.0)
    weights = tmp_path / "weights.pt"
    # Those of the small bundle come from no training.
    given = load_tensors(short / "models" / "model.pt")
    trained = {"mask_codec.num_latent_updates": torch.tensor(9), "mask_codec.positive_weight": torch.tensor(5.0)}
    torch.save({**given, **trained}, weights)
    options: dict[str, Any] = {"initial_weights": weights, "trainable_mask_encoder": False, "tracking_uri": False}
    run = train(short, data, output_dir=tmp_path / "run", **options)
    before, after = load_tensors(weights), load_tensors(run / "models" / "model.pt")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    codec = {name for name in after if name.startswith("mask_codec.")}
    assert changed & codec == {name for name in codec if ".decoder." in name}
    assert any(name.startswith("denoiser.") for name in changed)
    stages = json.loads((run / "training.json").read_text())["stages"]
    assert list(stages) == ["mask_codec", "scoring"]
    # From scratch its encoder would stay random.
    for wrong in ({"initial_weights": None}, {"mask_codec_res_layers": 3}, {"experiment": "ablations/kl"}):
        with pytest.raises(InputError, match="decoder of a VQ-VAE is trained alone, from --initial-weights"):
            train(short, data, output_dir=tmp_path / "wrong", **{**options, **wrong})
    assert not (tmp_path / "wrong").exists()
    # The codec alone starts from a bundle's weights, too.
    alone = train(short, data, output_dir=tmp_path / "alone", training_stages=["mask_codec"], **options)
    codec_alone = load_tensors(alone / "models" / "mask_codec.pt")
    assert torch.equal(codec_alone["latent_std"], before["mask_codec.latent_std"])


@pytest.mark.integration
@pytest.mark.usefixtures("few_steps")
def test_a_planned_training_takes_its_steps_and_says_so(
    data: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Callable[[], str]
) -> None:
    set_wanted_dice(monkeypatch, 0.0)
    run = train(short, data, output_dir=tmp_path / "run", tracking_uri=False)
    record = json.loads((run / "training.json").read_text())
    # The last step of a stage is validated: every second or fifth epoch of the last two is.
    steps = {"image_codec": 3, "mask_codec": 3, "train": 4, "scoring": 5}
    assert {stage: entry["iterations"] for stage, entry in record["stages"].items()} == steps
    plan = json.loads((run / "plan.json").read_text())
    assert plan["fingerprint"]["cases"] == {"training": 5, "validation": 2, "test": 0}
    assert {stage: entry["epochs"] for stage, entry in plan["stages"].items()} == steps
    assert len(plan["said"]) <= 10
    said = printed()
    assert all(line in said for line in plan["said"])
    weights = short / "models" / "model.pt"
    assert f"Start: from scratch (--initial-weights {weights} starts from this bundle's)" in plan["said"]
    # Three steps train nothing, and this is said.
    assert "The masks are not usable yet" in said
    # The same call has nothing left to do, and given epochs are kept.
    train(short, data, output_dir=tmp_path / "run", tracking_uri=False)
    said = printed()
    assert said.count("is finished already") == len(ALL)
    # What has begun cannot be started from other weights.
    assert "--initial-weights" not in said
    given = train(short, data, output_dir=tmp_path / "given", tracking_uri=False, max_epochs=1)
    assert json.loads((given / "training.json").read_text())["stages"]["scoring"]["iterations"] == 1


@pytest.mark.integration
@pytest.mark.usefixtures("few_steps")
def test_a_codec_that_does_not_learn_the_masks_stops_the_training(
    data: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Callable[[], str]
) -> None:
    with pytest.raises(InputError, match=r"Dice 0\.\d+; 0\.9 is wanted, and 3 times its planned steps.*--image-size"):
        train(short, data, output_dir=tmp_path / "run", tracking_uri=False)
    assert printed().count("it is trained for longer") == 2
    record = json.loads((tmp_path / "run" / "training.json").read_text())
    assert record["stages"]["mask_codec"]["iterations"] == 9
    models = {path.name for path in (tmp_path / "run" / "models").iterdir()}
    assert models == {"image_codec.pt", "start_mask_codec.pt"}
    # The same call trains it further, and once it is good enough the later stages follow.
    set_wanted_dice(monkeypatch, 0.0)
    run = train(short, data, output_dir=tmp_path / "run", tracking_uri=False)
    assert {path.name for path in (run / "models").iterdir()} == {
        "image_codec.pt", "mask_codec.pt", "diffusion.pt", "model.pt",
    }  # fmt: skip
    # Where the user gave the epochs, a warning is all.
    set_wanted_dice(monkeypatch, 0.9)
    given = train(short, data, output_dir=tmp_path / "given", tracking_uri=False, max_epochs=1)
    assert stage_finished(given / "models" / "model.pt")
    assert "The later stages cannot be better than that" in printed()


@pytest.mark.integration
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("dice", [0.95, 0.5])
def test_a_new_bundle_is_trained_from_its_source(
    data: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dice: float
) -> None:
    """With a learning rate of 0 the denoiser stays what it was, in the last stage alone and after those before it."""
    bundle = new_bundle("my_discs", short, tmp_path, data)
    monkeypatch.setattr(start_module, "_try_codec", lambda *_: dice)
    monkeypatch.setattr(stages_module, "CODEC_DICE", 0.0)
    run = train(bundle, data, output_dir=tmp_path / "run", tracking_uri=False, learning_rate=0.0)
    expected = ["scoring"] if dice > 0.9 else ["mask_codec", "train", "scoring"]
    assert list(json.loads((run / "training.json").read_text())["stages"]) == expected
    before, after = load_tensors(short / "models" / "model.pt"), load_tensors(run / "models" / "model.pt")
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name.startswith("denoiser."):
            torch.testing.assert_close(after[name], value, rtol=4e-3, atol=1e-5)
    assert not list((run / "models").glob("start_*"))
    # Without a plan it starts from scratch, as if the weights were not there.
    plain = train(bundle, data, output_dir=tmp_path / "plain", tracking_uri=False, plan=False)
    assert list(json.loads((plain / "training.json").read_text())["stages"]) == ALL


@pytest.mark.integration
@pytest.mark.usefixtures("few_steps")
def test_stages_whose_share_is_over_end_and_the_last_is_named_with_its_command(
    data: Path, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: Callable[[], str]
) -> None:
    set_wanted_dice(monkeypatch, 0.0)
    # Every deadline is over after the first step.
    monkeypatch.setattr(stages_module._Runner, "_deadline", lambda *_: 0.0)
    run = train(short, data, output_dir=tmp_path / "my run", max_minutes=5, tracking_uri=False)
    record = json.loads((run / "training.json").read_text())
    assert {stage: entry["iterations"] for stage, entry in record["stages"].items()} == dict.fromkeys(ALL, 1)
    finished = {path.name for path in (run / "models").iterdir()}
    assert finished == {
        "image_codec.pt", "mask_codec.pt", "diffusion.pt", "model.pt", "training_state_model.pt",
    }  # fmt: skip
    command = (
        f"medseglatdiff train {short} --dataset-dir {data} --output-dir '{run}' --max-minutes 5 --tracking_uri False"
    )
    said = printed()
    assert f"Time is up in the stage scoring. This resumes it: {command}" in said
    assert "Dice" in said
    assert said.count("Its share of the time is over") == 3
    (run / "models" / "model.pt").unlink()
    with pytest.raises(InputError, match=re.escape(f"No weights at {run}/models/model.pt. Train them, '{command}'")):
        inference_config(run)
