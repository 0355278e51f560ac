"""Context of the conditioner: no change at the start, the mean mask's layout and training, and refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Engine

from medseglatdiff_monai.networks import CodecConditioner, DenoisingNetwork, VQVAECodec
from medseglatdiff_monai.networks.weights import load_weights, save_tensors
from medseglatdiff_monai.training.checkpoints import StageCheckpoint, start_from_weights
from medseglatdiff_monai.training.losses import DenoisingLoss


def make_conditioner(dims: int = 2, **arguments) -> CodecConditioner:
    torch.manual_seed(0)
    codec = VQVAECodec(dims, 1, (8, 16), 1, embedding_dim=4, num_embeddings=16)
    return CodecConditioner(codec, spatial_dims=dims, **arguments).eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_untrained_context_leaves_the_condition_as_it_is(dims: int) -> None:
    image = torch.rand(2, 1, *[16] * dims)
    plain, with_context = make_conditioner(dims), make_conditioner(dims, context_channels=(16, 24))
    with_context.codec.load_state_dict(plain.codec.state_dict())
    condition, logits = with_context.condition_and_mean_mask(image)
    assert torch.equal(condition, plain(image))
    assert torch.equal(with_context(image), condition)
    assert logits is not None
    assert logits.shape == image.shape
    assert plain.condition_and_mean_mask(image)[1] is None


def test_each_latent_cell_holds_the_mean_mask_of_its_own_pixels() -> None:
    conditioner = make_conditioner(context_channels=(16, 24))
    torch.nn.init.zeros_(conditioner.to_mean_mask.weight)
    conditioner.to_mean_mask.bias.data = torch.arange(16.0)
    logits = conditioner.condition_and_mean_mask(torch.rand(1, 1, 8, 8))[1]
    assert logits is not None
    # f = 4: channel 4 i + j belongs to row i and column j within the cell.
    assert torch.equal(logits[0, 0], torch.arange(16.0).reshape(4, 4).repeat(2, 2))


def test_context_reaches_across_the_image() -> None:
    plain, with_context = make_conditioner(), make_conditioner(context_channels=(16, 16, 16))
    torch.nn.init.normal_(with_context.to_condition.weight)
    for conditioner, reaches in ((plain, False), (with_context, True)):
        image = torch.zeros(1, 1, 64, 64, requires_grad=True)
        conditioner(image)[0, :, 0, 0].sum().backward()
        assert image.grad is not None
        assert bool(image.grad[0, 0, 40:, 40:].any()) is reaches


def test_mean_mask_is_learned(make_segmenter) -> None:
    """Two of four raters mark the bright square: the head comes to say one half there, and nothing elsewhere."""
    network = make_segmenter()
    network.conditioner = make_conditioner(context_channels=(16, 24))
    training = DenoisingNetwork(network).train()
    optimizer = torch.optim.AdamW([p for p in training.parameters() if p.requires_grad], lr=1e-2)
    image, masks = torch.zeros(4, 1, 32, 32), torch.zeros(4, 4, 32, 32)
    for i, (row, column) in enumerate([(4, 4), (4, 20), (20, 4), (20, 20)]):
        image[i, 0, row : row + 8, column : column + 8] = 1.0
        masks[i, :2, row : row + 8, column : column + 8] = 1.0
    for _ in range(60):
        output = training(image, masks)
        optimizer.zero_grad()
        DenoisingLoss()(output).backward()
        optimizer.step()
    assert torch.equal(output["mean_mask"], masks.mean(1, keepdim=True))
    probability = output["mean_mask_logits"].sigmoid()
    assert float(probability[image == 1].mean()) == pytest.approx(0.5, abs=0.1)
    assert probability[image == 0].mean() < 0.1


def test_mean_mask_in_the_loss() -> None:
    logits, mean_mask = torch.tensor([0.5, -1.0]), torch.tensor([0.75, 0.0])
    zeros = torch.zeros(1, 2)
    output = {"prediction": zeros, "target": zeros, "weight": torch.ones(1)}
    output |= {"mean_mask_logits": logits, "mean_mask": mean_mask}
    expected = -(mean_mask * F.logsigmoid(logits) + (1 - mean_mask) * F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(DenoisingLoss()(output), expected)


def test_weights_without_context_are_taken_to_start_from(make_segmenter, tmp_path) -> None:
    network, old = make_segmenter(), make_segmenter()
    network.conditioner = make_conditioner(context_channels=(16, 24))
    save_tensors(old.state_dict(), tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"missing \(first: conditioner\.context"):
        load_weights(network, tmp_path / "old.pt")
    optimizer = torch.optim.SGD(network.denoiser.parameters(), lr=0.1)
    checkpoint = StageCheckpoint(network, optimizer, tmp_path / "new.pt", initial_weights=tmp_path / "old.pt")
    checkpoint._restore(Engine(lambda engine, batch: None))
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(network(image), old(image))

    # Context of which a tensor is missing starts anew as a whole.
    part = {name: torch.full_like(value, 3) for name, value in network.state_dict().items()}
    del part["conditioner.to_mean_mask.bias"]
    save_tensors(part, tmp_path / "part.pt")
    with pytest.raises(ValueError, match=r"1 tensors are missing \(first: conditioner\.to_mean_mask\.bias\)"):
        load_weights(network, tmp_path / "part.pt")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert start_from_weights(network, tmp_path / "part.pt") == ["conditioner"]
    for name, value in network.state_dict().items():
        anew = name.startswith("conditioner.") and not name.startswith("conditioner.codec.")
        assert torch.equal(value, before[name] if anew else part[name]), name


@pytest.mark.parametrize("sampler", ["direct", "dpm++", "ddim", "ddpm"])
def test_masks_do_not_depend_on_the_batch(make_segmenter, sampler: str) -> None:
    network = make_segmenter(sampler=sampler)
    images = torch.rand(3, 1, 32, 32)
    together = network(images)
    torch.testing.assert_close(together, torch.cat([network(image[None]) for image in images]))
    ensemble = network.ensemble_logits(images, 3) > 0
    torch.testing.assert_close(ensemble.float().mean(1, keepdim=True), together)
    shared = network.ensemble_logits(images, 3, cases=["a"])
    torch.testing.assert_close(shared[2], network.ensemble_logits(images[2:], 3, cases=["a"])[0])


def test_refusals() -> None:
    with pytest.raises(ValueError, match="never be trained"):
        make_conditioner(trainable=False, context_channels=(16, 24))
    with pytest.raises(ValueError, match="never be trained"):
        make_conditioner(trainable=False, image_encoder="efficientnet-lite0")
    with pytest.raises(ValueError, match="is for 2D images"):
        make_conditioner(dims=3, image_encoder="efficientnet-lite0")
    with pytest.raises(ValueError, match="multiple of 16"):
        make_conditioner(context_channels=(16, 16, 16))(torch.rand(1, 1, 24, 32))
