"""The codebook: nearest entries, both update rules by hand, revival, and straight-through gradients."""

from __future__ import annotations

import pytest
import torch

from medseglatdiff_monai.networks import VectorQuantizer


def with_entries(entries, **arguments) -> VectorQuantizer:
    quantizer = VectorQuantizer(len(entries), len(entries[0]), **arguments)
    quantizer.embedding.data.copy_(torch.tensor(entries))
    quantizer.initialized.fill_(True)
    return quantizer


def test_nearest_entry_and_losses_by_hand():
    quantizer = with_entries([[0.0, 0.0], [4.0, 0.0]], update="gradient", commitment_cost=0.25).eval()
    z = torch.tensor([[1.0, 0.0], [3.0, 2.0]]).t().reshape(1, 2, 1, 2)
    out = quantizer(z)
    assert out.indices.tolist() == [[[0, 1]]]
    # Squared errors 1, 0, 1, 4: mean 1.5; codebook loss plus a quarter of it as commitment loss.
    assert float(out.loss) == pytest.approx(1.5 * 1.25)
    assert float(out.perplexity) == pytest.approx(2.0)


def test_gradients_pass_straight_through_and_reach_the_codebook():
    quantizer = with_entries([[0.0], [4.0]], update="gradient", commitment_cost=0.0).train()
    z = torch.tensor([1.0, 3.0]).reshape(1, 1, 1, 2).requires_grad_()
    out = quantizer(z)
    out.quantized.sum().backward(retain_graph=True)
    assert torch.equal(z.grad, torch.ones_like(z))
    out.loss.backward()
    # d/de mean((e - z)^2) = (e - z) * 2 / 2
    assert quantizer.embedding.grad.flatten().tolist() == pytest.approx([-1.0, 1.0])


def test_ema_update_by_hand():
    quantizer = with_entries([[0.0], [10.0]], update="ema", decay=0.9, dead_threshold=0.0).train()
    quantizer(torch.tensor([1.0, 1.0, 1.0, 9.0]).reshape(1, 1, 2, 2))
    # Shares 3/4 and 1/4: usage 0.9 * 0.5 + 0.1 * share; an entry moves by 0.1 * share / usage of the way.
    usage = [0.525, 0.475]
    assert quantizer.usage.tolist() == pytest.approx(usage)
    moved = [0.1 * 0.75 / usage[0] * 1.0, 10.0 - 0.1 * 0.25 / usage[1] * 1.0]
    assert quantizer.embedding.flatten().tolist() == pytest.approx(moved)


def test_codebook_starts_from_data_and_does_not_explode():
    torch.manual_seed(0)
    quantizer = VectorQuantizer(32, 4).train()
    data = torch.randn(8, 4, 8, 8) * 3 + 50
    out = quantizer(data)
    assert float((out.quantized - data).pow(2).mean()) < float(data.var())
    for _ in range(50):
        out = quantizer(data)
    assert float(quantizer.embedding.mean()) == pytest.approx(50, abs=3)
    assert float(out.perplexity) > 16


def test_dead_entries_are_revived_and_used():
    torch.manual_seed(0)
    entries = [[0.0, 0.0]] + [[1e3, 1e3]] * 7
    quantizer = with_entries(entries, decay=0.5, dead_threshold=0.2).train()
    data = torch.randn(4, 2, 8, 8)
    for _ in range(20):
        out = quantizer(data)
    assert float(out.perplexity) > 4
    assert float(quantizer.embedding.abs().max()) < 10


def test_eval_mode_changes_nothing():
    quantizer = VectorQuantizer(8, 2).train()
    quantizer(torch.randn(2, 2, 4, 4))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(2, 2, 4, 4) * 100)
    assert all(torch.equal(before[name], value) for name, value in quantizer.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"update": "sgd"}, "update"), ({"num_embeddings": 1}, "num_embeddings"), ({"decay": 1.0}, "decay")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**{"num_embeddings": 8, "embedding_dim": 2, **arguments})
