"""Weights and training states: tensors only, in half precision, written whole or not at all, refused when wrong."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.files import file_sha256, save_with
from medseglatdiff_monai.networks import weights
from medseglatdiff_monai.networks.weights import load_tensors, load_weights, save_tensors, save_weights, stage_finished
from medseglatdiff_monai.training.checkpoints import StageCheckpoint


def make_network(width: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, width, 1), nn.BatchNorm2d(width))


def test_weights_are_flat_and_half_precision_and_whole_numbers_stay(tmp_path: Path) -> None:
    network = make_network()
    network[1].num_batches_tracked.fill_(70_001)
    save_weights(network, tmp_path / "new" / "model.pt")
    state = torch.load(tmp_path / "new" / "model.pt", weights_only=True)
    assert state.keys() == network.state_dict().keys()
    assert state["0.weight"].dtype == torch.float16
    assert int(state["1.num_batches_tracked"]) == 70_001
    loaded = load_weights(make_network(), tmp_path / "new" / "model.pt")
    assert loaded[0].weight.dtype == torch.float32
    assert torch.equal(loaded[0].weight, network[0].weight.half().float())
    assert int(loaded[1].num_batches_tracked) == 70_001


def test_full_precision_on_demand(tmp_path: Path) -> None:
    network = make_network()
    save_tensors(network.state_dict(), tmp_path / "model.pt")
    assert torch.equal(torch.load(tmp_path / "model.pt", weights_only=True)["0.weight"], network[0].weight)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pt.*medseglatdiff train"):
        load_tensors(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "model.pt"
    save_weights(make_network(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"model\.pt cannot be read as weights"):
        load_weights(make_network(), path)


class Payload:
    """An object whose unpickling would run code."""

    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))])
def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer) -> None:
    monkeypatch.chdir(tmp_path)
    writer({"0.weight": Payload()}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="could run code") as caught:
        load_tensors(tmp_path / "model.pt")
    # torch's own message explains how to load such a file all the same.
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [[1, 2], torch.zeros(2), {"0.weight": 3.0}], ids=["list", "tensor", "numbers"])
def test_file_that_holds_no_state_dict_is_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "model.pt")
    with pytest.raises(InputError, match=r"model\.pt"):
        load_weights(make_network(), tmp_path / "model.pt")


def test_unfitting_weights_name_file_and_first_difference_and_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_weights(make_network(4), path)
    network = make_network(3)
    before = network[0].weight.clone()
    with pytest.raises(InputError, match=r"0\.bias is \(4,\), the network has \(3,\)"):
        load_weights(network, path)
    assert torch.equal(network[0].weight, before)
    with pytest.raises(InputError, match=r"5 are unknown \(first: 1\.bias\)"):
        load_weights(nn.Sequential(nn.Conv2d(1, 4, 1)), path)
    with pytest.raises(InputError, match=r"2 tensors are missing \(first: 2\.bias\)"):
        load_weights(make_network(4).append(nn.Conv2d(4, 1, 1)), path)


def test_interrupted_writing_leaves_the_former_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_tensors({"a": torch.ones(2)}, path)

    def fail(handle) -> None:
        handle.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_with(fail, path)
    assert torch.equal(load_tensors(path)["a"], torch.ones(2))
    assert list(tmp_path.iterdir()) == [path]


def run_stage(folder: Path, max_epochs: int, network: nn.Module | None = None, step=None, **arguments) -> nn.Module:
    """A stage of three iterations an epoch; the gradient is 1 in each."""
    network = network or make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)

    def update(engine: Engine, batch: float) -> None:
        if step is not None:
            step(engine)
        optimizer.zero_grad()
        sum(parameter.sum() for parameter in network.parameters()).backward()
        optimizer.step()

    engine = Engine(update)
    StageCheckpoint(network, optimizer, folder / "model.pt", **arguments).attach(engine)
    engine.run([0.0, 1.0, 2.0], max_epochs=max_epochs)
    return network


def test_finished_stage_leaves_weights_alone(tmp_path: Path) -> None:
    assert not stage_finished(tmp_path / "model.pt")
    run_stage(tmp_path, 2)
    assert stage_finished(tmp_path / "model.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize("iterations", [4, 6])
def test_stage_that_was_stopped_goes_on_where_it_was(tmp_path: Path, iterations: int) -> None:
    """Stopped within an epoch and at an epoch's very last iteration: nine steps are made in all."""

    def stop(engine: Engine) -> None:
        if engine.state.iteration == iterations:
            engine.terminate()

    run_stage(tmp_path / "halted", 3, step=stop)
    assert not stage_finished(tmp_path / "halted" / "model.pt")
    state = load_tensors(tmp_path / "halted" / "training_state_model.pt")
    assert (state["epoch"], state["iteration"]) == (iterations // 3, iterations)
    epochs = []
    resumed = run_stage(tmp_path / "halted", 3, step=lambda engine: epochs.append(engine.state.epoch))
    assert epochs == [2, 2, 3, 3, 3][-(9 - iterations) :]
    assert stage_finished(tmp_path / "halted" / "model.pt")
    whole = run_stage(tmp_path / "whole", 3)
    assert torch.equal(resumed[0].weight, whole[0].weight)


def test_weights_without_a_state_never_come_from_an_unfinished_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies between the two writes of its first checkpoint, whichever comes second."""
    written = []

    def die_at_the_second(write, path) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        save_with(write, path)

    monkeypatch.setattr(weights, "save_with", die_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, 2)
    assert len(list(tmp_path.iterdir())) == 1
    assert not stage_finished(tmp_path / "model.pt")
    monkeypatch.undo()
    run_stage(tmp_path, 2)
    assert stage_finished(tmp_path / "model.pt")


def test_averaged_weights_by_hand(tmp_path: Path) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    run_stage(tmp_path, 1, network, averaging_decay=0.5)
    # Momentum 0.9 and rate 0.1: steps of 0.1, 0.19 and 0.271. Early on the average moves by 10 / (10 + iteration).
    online, average = 0.0, 0.0
    for iteration, step in enumerate([0.1, 0.19, 0.271], start=1):
        online -= step
        average += max(0.5, 10 / (10 + iteration)) * (online - average)
    assert network.weight.item() == pytest.approx(online)
    assert float(load_tensors(tmp_path / "model.pt")["weight"]) == pytest.approx(average, rel=1e-3)


def test_state_of_another_network_is_refused(tmp_path: Path) -> None:
    def fail(engine: Engine) -> None:
        if engine.state.iteration == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path, 2, step=fail)
    with pytest.raises(InputError, match=r"(?s)training_state_model\.pt does not fit.*--output-dir"):
        run_stage(tmp_path, 2, make_network(4))
