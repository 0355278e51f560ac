from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser, run
from monai.data import DataLoader
from small_runs import LUNG, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import DenoisingNetwork
from medseglatdiff_monai.networks.symmetries import apply_symmetry, draw_symmetry, undo_symmetry
from medseglatdiff_monai.networks.weights import save_weights
from medseglatdiff_monai.training.augmentation import BatchAugmentation
from medseglatdiff_monai.training.batches import PrepareDenoising
from medseglatdiff_monai.training.mask_latents import MaskLatents
from medseglatdiff_monai.training.targets import TARGETS

# Latents of deviation 1/2 in half precision: ten mantissa bits, and what the order of summation moves.
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


def make_items(height: int = 16, width: int = 16, cases: int = 5) -> list[dict]:
    """Masks of four raters without any symmetry of their own; one rater of every other case saw nothing."""
    generator = torch.Generator().manual_seed(1)
    items = []
    for number in range(cases):
        label = (torch.rand(4, height, width, generator=generator) < 0.3).to(torch.uint8)
        label[number % 4] *= number % 2
        items.append({"image": torch.rand(1, height, width, generator=generator), "label": label, "case": f"c{number}"})
    return items


def turn(x: torch.Tensor, number: int) -> torch.Tensor:
    """The symmetry `number` by numpy's words: rows reversed, columns reversed, transposed."""
    array = x.numpy()
    array = array[..., ::-1, :] if number & 1 else array
    array = array[..., ::-1] if number & 2 else array
    return torch.from_numpy((array.swapaxes(-1, -2) if number & 4 else array).copy())


def test_symmetries_of_a_numbered_square() -> None:
    square = torch.tensor([[[[1, 2], [3, 4]]]]).expand(8, 1, 2, 2)
    turned = apply_symmetry(square, torch.arange(8)).flatten(1).tolist()
    assert turned == [
        [1, 2, 3, 4], [3, 4, 1, 2], [2, 1, 4, 3], [4, 3, 2, 1], [1, 3, 2, 4], [3, 1, 4, 2], [2, 4, 1, 3], [4, 2, 3, 1]
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(8, 1, 4, 4), (4, 2, 4, 6), (8, 1, 3, 4, 5)])
def test_each_symmetry_is_undone(shape: tuple[int, ...]) -> None:
    x = torch.arange(torch.Size(shape).numel()).view(shape)
    symmetry = torch.arange(len(x))
    assert torch.equal(undo_symmetry(apply_symmetry(x, symmetry), symmetry), x)
    assert len({tuple(turned.flatten().tolist()) for turned in apply_symmetry(x[:1].expand_as(x), symmetry)}) == len(x)


@pytest.mark.parametrize(("size", "number"), [((4, 4), 8), ((4, 6), 4)])
def test_drawn_symmetries_are_all_there_are_and_alike_likely(size: tuple[int, int], number: int) -> None:
    torch.manual_seed(0)
    counts = draw_symmetry(8000, *size).bincount(minlength=number)
    assert len(counts) == number
    # Five standard deviations of a binomial count.
    assert (counts - 8000 / number).abs().max() < 5 * (8000 / number * (1 - 1 / number)) ** 0.5


@pytest.mark.parametrize("number", range(8))
def test_latent_is_that_of_the_turned_mask(make_segmenter, number: int) -> None:
    segmenter, items = make_segmenter(), make_items()
    latents = MaskLatents(items, segmenter)
    raters = torch.tensor([[3, 0, 1, 2]]).expand(5, 4)
    found = latents([item["case"] for item in items], raters, torch.full((5,), number))
    for item, case in zip(items, found, strict=True):
        expected = segmenter.encode_masks(turn(item["label"], number)[[3, 0, 1, 2], None])
        torch.testing.assert_close(case, expected, **CLOSE)
    # Had the latents been turned instead of the masks, they would differ.
    assert (turn(found[0], number) - latents(["c0"], raters[:1], None)[0]).abs().max() > 0.01 or number == 0


def test_memory_and_shared_empty_masks(make_segmenter) -> None:
    latents = MaskLatents(make_items(), make_segmenter())
    # 5 cases of 4 raters, of which 3 (of cases 0, 2, 4) saw nothing; one row for empty masks; d = 3, f = 4.
    assert latents._latents.nbytes == (20 - 3 + 1) * 8 * (3 * 4 * 4) * 2
    empty = latents(["c0", "c2", "c4"], torch.tensor([[0], [2], [0]]), torch.tensor([0, 3, 6]))
    assert (empty == empty[0]).all()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_training_sees_what_it_sees_without(make_segmenter, target: str, size: tuple[int, int]) -> None:
    segmenter, items = make_segmenter(), make_items(*size, cases=12)
    augmentation = BatchAugmentation(flips=True, gamma=0.3, brightness=0.05, contrast=0.1)
    batch = next(iter(DataLoader(items, batch_size=12)))
    latents = MaskLatents(items, segmenter, target)
    inputs = []
    for kept in (None, latents):
        torch.manual_seed(5)
        inputs.append(PrepareDenoising(6, target, augmentation, kept)(copy.deepcopy(batch)))
    if target == "first_rater":
        assert (inputs[0][2][0] == inputs[0][1][:, :1]).all()
    (image, label, (masks,), _), (same_image, same_label, (same_masks, x_0), _) = inputs
    assert torch.equal(image, same_image)
    assert torch.equal(label, same_label)
    assert torch.equal(masks, same_masks)
    expected = segmenter.encode_masks(masks.flatten(0, 1)[:, None]).unflatten(0, (12, 6))
    torch.testing.assert_close(x_0, expected, **CLOSE)

    network, outputs = DenoisingNetwork(segmenter), []
    for given in ((masks,), (masks, x_0)):
        torch.manual_seed(6)
        outputs.append(network(image, *given))
    for key in ("prediction", "target", "weight"):
        torch.testing.assert_close(outputs[1][key], outputs[0][key], rtol=1e-2, atol=1e-2)


def test_without_augmentation_masks_are_as_they_are(make_segmenter) -> None:
    segmenter, items = make_segmenter(), make_items()
    latents = MaskLatents(items, segmenter, flips=False)
    batch = next(iter(DataLoader(items, batch_size=5)))
    _, _, (_, x_0), _ = PrepareDenoising(4, latents=latents)(batch)
    expected = segmenter.encode_masks(batch["label"].flatten(0, 1)[:, None]).unflatten(0, (5, 4))
    # Four draws are each rater once, in random order.
    assert torch.allclose(x_0.mean(1), expected.mean(1), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="Symmetry 5 was drawn"):
        latents(["c0"], torch.zeros(1, 1, dtype=torch.long), torch.tensor([5]))


def test_errors(make_segmenter) -> None:
    segmenter, items = make_segmenter(), make_items()
    latents = MaskLatents(items, segmenter)
    with pytest.raises(InputError, match="'c9' is not in the training set"):
        latents(["c9"], torch.zeros(1, 1, dtype=torch.long), None)
    with pytest.raises(InputError, match="empty"):
        MaskLatents([], segmenter)
    with pytest.raises(InputError, match="called 'c0'"):
        MaskLatents([items[0], items[0]], segmenter)
    with pytest.raises(InputError, match="one size"):
        MaskLatents([items[0], {**make_items(16, 24)[1]}], segmenter)
    with pytest.raises(InputError, match="'case'"):
        MaskLatents([{"label": items[0]["label"]}], segmenter)
    with pytest.raises(InputError, match="no 'case'"):
        PrepareDenoising(latents=latents)({key: items[0][key][None] for key in ("image", "label")})
    with pytest.raises(ValueError, match="made for 'random_rater'"):
        PrepareDenoising(target="consensus", latents=latents)


@pytest.mark.integration
def test_diffusion_stage_trains_on_kept_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output, sizes = bundles_dir() / LUNG, tmp_path / "run", small_sizes(LUNG)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "train.json"))
    parser.update(sizes)
    torch.manual_seed(0)
    for codec in ("image_codec", "mask_codec"):
        save_weights(parser.get_parsed_content(f"{codec}_def"), output / "models" / f"{codec}.pt")
    calls = []
    look_up = MaskLatents.__call__
    monkeypatch.setattr(
        MaskLatents, "__call__", lambda self, cases, *args: (calls.append(list(cases)), look_up(self, cases, *args))[1]
    )
    run(
        config_file=str(root / "configs" / "train.json"), bundle_root=str(root), output_dir=str(output),
        dataset_dir=str(write_prepared(tmp_path / "data", LUNG)), cache_latents=True, draws=2, val_interval=1,
        training_preprocessing="@preprocessing",
        augmentation={"_target_": "medseglatdiff_monai.training.augmentation.BatchAugmentation", "gamma": 0.3},
        **sizes, **run_sizes(),
    )  # fmt: skip
    # One epoch of eight cases in batches of four, each case once.
    assert [len(cases) for cases in calls] == [4, 4]
    assert sorted(case for cases in calls for case in cases) == [f"case-{i}" for i in range(8)]
    state = torch.load(output / "models" / "diffusion.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in state.values())
