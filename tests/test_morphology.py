"""Post-processing of masks: what each step does to a drawn mask, and that masks do not reach into each other."""

from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.ensemble.inferer import EnsembleInferer
from medseglatdiff_monai.ensemble.morphology import refine_masks


def read(*rows: str) -> torch.Tensor:
    return torch.tensor([[character == "#" for character in row] for row in rows])


def refine(mask: torch.Tensor) -> torch.Tensor:
    return refine_masks(mask[None, None])[0, 0]


def test_specks_go_and_holes_fill():
    before = read(
        "#.........",
        "....####..",
        "...######.",
        "...##..##.",
        "...##..##.",
        "...######.",
        "....####..",
        "..........",
    )
    after = refine(before)
    assert not after[0, 0]
    assert after[3:5, 5:7].all()
    # Nothing is added outside of the outline.
    assert not after[:, :3].any()
    assert not after[7].any()


def test_objects_of_crosses_are_kept_as_they_are():
    disc = torch.hypot(*(axis - 8.0 for axis in torch.meshgrid(torch.arange(17.0), torch.arange(17.0), indexing="ij")))
    for radius in (1.2, 2.5, 5.0):
        assert torch.equal(refine(disc < radius), disc < radius)


def test_the_edge_of_the_image_is_no_edge_of_the_mask():
    mask = torch.zeros(10, 10, dtype=torch.bool)
    mask[:, :4] = True
    assert torch.equal(refine(mask), mask)
    assert refine(torch.ones(6, 6, dtype=torch.bool)).all()
    # A bay that opens to the edge is no hole.
    mask[3:7, 0] = False
    assert not refine(mask)[4:6, 0].any()


@pytest.mark.parametrize("spatial", [(12, 13), (7, 8, 9)])
def test_masks_do_not_reach_into_each_other(spatial):
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand((2, 5, *spatial), generator=generator) < 0.6
    masks[0, 2], masks[1, 0] = False, True
    together = refine_masks(masks)
    assert together.dtype == torch.bool
    assert together.shape == masks.shape
    for i in range(2):
        for j in range(5):
            assert torch.equal(together[i, j], refine(masks[i, j]))
    assert not together[0, 2].any()
    assert together[1, 0].all()
    assert not torch.equal(together, masks)


def test_the_inferer_refines_samples_before_it_fuses_them(make_segmenter):
    network, image = make_segmenter(), torch.rand(2, 1, 32, 32)
    plain = EnsembleInferer(num_samples=4)(image, network, ["a", "b"])
    refined = EnsembleInferer(num_samples=4, postprocess="morphology")(image, network, ["a", "b"])
    assert torch.equal(refined["samples"], refine_masks(plain["samples"]))
    assert not torch.equal(refined["samples"], plain["samples"])
    assert torch.equal(refined["confidence_map"], refined["samples"].float().mean(1, keepdim=True))
