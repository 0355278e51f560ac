"""Transforms, with values worked out by hand."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose
from PIL import Image

from medseglatdiff_monai.data import (
    NormalizeCrop,
    NormalizeCropd,
    RandomRater,
    RandomRaterd,
    RaterConsensus,
    RaterConsensusd,
    WindowHU,
    WindowHUd,
)
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.io.prepared import LoadCase, LoadCased


def write_nifti(path, array):
    path.write_bytes(gzip.compress(nibabel.Nifti1Image(array, np.eye(4)).to_bytes()))
    return str(path)


def test_window_clips_and_keeps_metadata():
    image = MetaTensor(torch.tensor([[[-2000.0, -1000.0, 0.0, 400.0, 3000.0]]]), affine=2 * torch.eye(4))
    clipped = WindowHU(-1000, 400)(image)
    assert clipped.tolist() == [[[-1000.0, -1000.0, 0.0, 400.0, 400.0]]]
    assert isinstance(clipped, MetaTensor)
    assert torch.equal(clipped.affine, image.affine)
    assert WindowHUd("image", -1000, 400)({"image": image.numpy()})["image"].max() == 400


def test_window_refuses_bounds_in_the_wrong_order():
    with pytest.raises(InputError, match="lower 400 is not below upper -1000"):
        WindowHU(400, -1000)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int16])
def test_normalize_crop_is_the_identity_on_8_bit_crops_from_0_to_255(dtype):
    crop = np.arange(256).reshape(1, 16, 16).astype(dtype)
    normalized = NormalizeCrop()(crop)
    assert normalized.dtype == torch.float32
    assert torch.equal(normalized, torch.arange(256).reshape(1, 16, 16) / 255)


def test_normalize_crop_of_hounsfield_units_by_hand():
    # From -1006 to 862 HU (1868 HU, as in LIDC-IDRI-0023): -72 is half way, 127.5 rounds to the even 128.
    normalized = NormalizeCropd("image")({"image": torch.tensor([[[-1006.0, -72.0, 862.0, -1003.0]]])})["image"]
    # -1003: 3 / 1868 * 255 = 0.41, level 0.
    assert torch.equal(normalized, torch.tensor([[[0.0, 128.0, 255.0, 0.0]]]) / 255)
    # Applied again it changes nothing: crops and DICOM meet on one scale.
    assert torch.equal(NormalizeCrop()(normalized), normalized)


@pytest.mark.parametrize(("value", "end"), [(3071.0, 1.0), (-8192.0, 0.0)])
def test_a_few_outliers_do_not_take_the_grey_values_of_the_tissue(value: float, end: float) -> None:
    crop = torch.linspace(-1000.0, 400.0, 128 * 128).reshape(1, 128, 128)
    expected = NormalizeCrop()(crop)
    spoilt = crop.clone()
    spoilt[0, 60, 60:70] = value
    normalized = NormalizeCrop()(spoilt)
    assert (normalized[0, 60, 60:70] == end).all()
    others = spoilt == crop
    # The tissue's own last thousandth is clipped with them: one grey value of 255.
    assert float((normalized - expected)[others].abs().max()) <= 1.01 / 255
    # Bone that takes half of the range is no outlier, nor is a tenth of the crop.
    bright = crop.clone()
    bright[0, 60, 60:70] = 1500.0
    assert float(NormalizeCrop()(bright)[0, 60, 60]) == 1.0
    assert float(NormalizeCrop()(bright).median()) < float(expected.median()) - 0.1
    bright[0, :13] = 3071.0
    assert float(NormalizeCrop()(bright).median()) < 0.25


def test_normalize_crop_of_a_constant_crop_is_0_and_of_nan_an_error():
    assert not NormalizeCrop()(torch.full((1, 4, 4), -1000.0)).any()
    with pytest.raises(InputError, match="not finite"):
        NormalizeCrop()(torch.tensor([[[0.0, float("nan")]]]))


def test_rater_consensus_ties():
    # Columns: 0, 1, 2, 3, 4 of four raters.
    masks = torch.tensor(
        [[[0, 1, 1, 1, 1]], [[0, 0, 1, 1, 1]], [[0, 0, 0, 1, 1]], [[0, 0, 0, 0, 1]]], dtype=torch.uint8
    )
    assert RaterConsensus()(masks).tolist() == [[[0, 0, 1, 1, 1]]]
    assert RaterConsensus(tie="background")(masks).tolist() == [[[0, 0, 0, 1, 1]]]
    assert RaterConsensus(level=1.0)(masks).tolist() == [[[0, 0, 0, 0, 1]]]
    assert RaterConsensus(level=0.25)(masks).tolist() == [[[0, 1, 1, 1, 1]]]
    fused = RaterConsensusd("label")({"label": MetaTensor(masks)})["label"]
    assert isinstance(fused, MetaTensor)
    assert fused.shape == (1, 1, 5)
    assert fused.dtype == torch.uint8


def test_rater_consensus_counts_absent_raters_and_survives_rounding():
    one_of_two = torch.tensor([[[1]], [[0]]])
    assert RaterConsensus()(one_of_two).item() == 1
    assert RaterConsensus()(torch.tensor([[[1]], [[0]], [[0]]])).item() == 0
    seven_of_ten = torch.tensor([1] * 7 + [0] * 3).reshape(10, 1, 1)
    assert RaterConsensus(level=0.7)(seven_of_ten).item() == 1
    assert RaterConsensus(level=0.7, tie="background")(seven_of_ten).item() == 0


@pytest.mark.parametrize(
    "arguments", [{"level": 0}, {"level": 1.1}, {"tie": "coin"}, {"level": 1.0, "tie": "background"}]
)
def test_rater_consensus_refuses_bad_arguments(arguments):
    with pytest.raises(InputError, match=r"level|tie"):
        RaterConsensus(**arguments)


def test_random_rater_picks_every_slot_equally_often_also_the_empty_one():
    masks = torch.stack([torch.full((2, 2), value) for value in (0, 1, 2, 3)])  # slot 0 is the rater who saw nothing
    pick = RandomRater().set_random_state(seed=0)
    counts = np.bincount([int(pick(masks)[0, 0, 0]) for _ in range(4000)], minlength=4)
    # 1000 each, standard deviation sqrt(4000 * 1/4 * 3/4) = 27.4; four of them.
    assert np.abs(counts - 1000).max() < 110
    assert pick(masks).shape == (1, 2, 2)


def test_random_rater_is_reproducible_and_gives_all_keys_one_slot():
    masks = torch.arange(4).reshape(4, 1, 1)
    data = {"label": masks, "copy": masks}
    first, second = (RandomRaterd(["label", "copy"]).set_random_state(seed=3) for _ in range(2))
    drawn = [first(data) for _ in range(20)]
    assert [int(entry["label"]) for entry in drawn] == [int(second(data)["label"]) for _ in range(20)]
    assert all(torch.equal(entry["label"], entry["copy"]) for entry in drawn)
    assert len({int(entry["label"]) for entry in drawn}) > 1


def test_random_rater_without_raters_is_an_error():
    with pytest.raises(InputError, match="no mask to pick from"):
        RandomRater()(torch.zeros(0, 4, 4))


def test_load_case_is_row_first_for_every_format(tmp_path):
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    colour = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    hounsfield = (grey.astype(np.int16) - 1000).reshape(2, 3)
    masks = np.zeros((2, 3, 4), dtype=np.uint8)
    masks[1, 2, 3] = 1
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(colour).save(tmp_path / "colour.png")
    for name, array, expected in (
        (str(tmp_path / "grey.png"), grey, grey[None]),
        (str(tmp_path / "colour.png"), colour, np.moveaxis(colour, -1, 0)),
        (write_nifti(tmp_path / "hu.nii.gz", hounsfield), hounsfield, hounsfield[None]),
    ):
        image = LoadCase()(name)
        assert isinstance(image, MetaTensor)
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image.numpy(), expected, err_msg=f"{name} of shape {array.shape}")
    label = LoadCase(is_label=True)(write_nifti(tmp_path / "masks.nii.gz", masks))
    assert label.dtype == torch.uint8
    assert label.shape == (4, 2, 3)
    assert label.nonzero().tolist() == [[3, 1, 2]]


def test_load_case_keeps_the_rater_axis_of_a_single_rater(tmp_path):
    masks = np.ones((2, 3, 1), dtype=np.uint8)
    assert LoadCase(is_label=True)(write_nifti(tmp_path / "m.nii.gz", masks)).shape == (1, 2, 3)


def test_load_case_names_missing_and_truncated_files(tmp_path):
    with pytest.raises(InputError, match=r"absent\.png: no such file"):
        LoadCase()(tmp_path / "absent.png")
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"cut\.png: unreadable or truncated"):
        LoadCase()(tmp_path / "cut.png")


def test_the_transforms_work_in_a_plain_compose_and_loader(tmp_path):
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(tmp_path / "i.png")
    masks = np.zeros((8, 8, 4), dtype=np.uint8)
    masks[2:5, 3:7, :2] = 1
    item = {
        "image": str(tmp_path / "i.png"),
        "label": write_nifti(tmp_path / "m.nii.gz", masks),
        "spacing_mm": [0.7, 0.7],
    }
    chain = Compose([LoadCased(), NormalizeCropd("image"), RaterConsensusd("label")])
    batch = next(iter(DataLoader(Dataset([item, item], chain), batch_size=2)))
    assert batch["image"].shape == batch["label"].shape == (2, 1, 8, 8)
    assert batch["image"].max() == 1
    assert batch["label"].sum() == 2 * 12
    only_image = LoadCased(allow_missing_keys=True)({"image": item["image"]})
    assert only_image["image"].shape == (1, 8, 8)
