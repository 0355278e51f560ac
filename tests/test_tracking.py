"""What a training leaves in MLflow: nested runs, parameters, curves, pictures; and a store that fails."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from monai.bundle import ConfigParser
from monai.handlers import MLFlowHandler
from small_runs import LUNG, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.config import load_stage_config
from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.integrations.mlflow.store import describe_failure, is_active, read_run_ids, sqlite_uri
from medseglatdiff_monai.integrations.mlflow.tracking import RunTracker, compare_cases, tracked_values
from medseglatdiff_monai.plots import ComparedCase, RebuiltImage
from medseglatdiff_monai.training.run import TRAINING_STAGES, train

pytestmark = pytest.mark.integration

SIZES = {**small_sizes(LUNG), **run_sizes(2), "val_interval": 1, "val_num_samples": 2, "draws": 1, "max_epochs": 2}
CANARY = b"Canary^Patient"
STAGES = ("image_codec", "mask_codec", "diffusion", "scoring")


@pytest.fixture(autouse=True)
def no_server_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=4, validation=2)
    for path in (folder / "masks").iterdir():
        masks = nibabel.load(path)
        masks.header["descrip"] = CANARY
        nibabel.Nifti1Image(np.asarray(masks.dataobj), masks.affine, masks.header).to_filename(path)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return train(LUNG, data, output_dir=tmp_path_factory.mktemp("tracked") / "run", **SIZES)


@pytest.fixture(scope="module")
def client(run: Path) -> MlflowClient:
    return MlflowClient(sqlite_uri(run))


@pytest.fixture(scope="module")
def ids(run: Path) -> dict[str, str]:
    return read_run_ids(run, sqlite_uri(run))


def list_artifacts(client: MlflowClient, run_id: str, folder: str) -> list[str]:
    return sorted(Path(entry.path).name for entry in client.list_artifacts(run_id, folder))


def test_stages_are_nested_in_one_run(client: MlflowClient, ids: dict[str, str]) -> None:
    assert set(ids) == {"parent", *STAGES}
    runs = {run.info.run_id: run for run in client.search_runs(["1"])}
    assert runs.keys() == set(ids.values())
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert "mlflow.parentRunId" not in runs[ids["parent"]].data.tags
    for stage in STAGES:
        assert runs[ids[stage]].info.run_name == stage
        assert runs[ids[stage]].data.tags["mlflow.parentRunId"] == ids["parent"]


def test_parent_says_what_came_out(client: MlflowClient, ids: dict[str, str], data: Path) -> None:
    """Bundle, data, minutes and the last validation of each stage, beside each other in the list of runs."""
    parent = client.get_run(ids["parent"]).data
    metadata = json.loads((bundles_dir() / LUNG / "configs" / "metadata.json").read_text())
    assert (parent.tags["bundle"], parent.tags["bundle_version"]) == (metadata["name"], metadata["version"])
    assert parent.tags["data.name"] == json.loads((data / "dataset.json").read_text())["name"]
    assert parent.tags["mlflow.source.name"] == "medseglatdiff train"
    assert "None" not in {value for run in ids.values() for value in client.get_run(run).data.tags.values()}
    for stage in STAGES:
        assert parent.metrics[f"{stage}.minutes"] > 0
    for stage, metric in (("scoring", "ged"), ("diffusion", "dice")):
        (*_, last) = client.get_metric_history(ids[stage], metric)
        assert parent.metrics[f"{stage}.{metric}"] == pytest.approx(last.value)
    experiment = client.get_experiment(client.get_run(ids["parent"]).info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_mean_loss_is_on_the_axis_of_validation(client: MlflowClient, ids: dict[str, str]) -> None:
    for stage, metric in (("mask_codec", "dice"), ("scoring", "ged")):
        means = client.get_metric_history(ids[stage], "epoch_loss")
        assert [point.step for point in means] == [
            point.step for point in client.get_metric_history(ids[stage], metric)
        ] == [1, 2]  # fmt: skip


def test_nothing_of_a_header_is_tracked(run: Path) -> None:
    stored = [path for path in run.rglob("*") if path.is_file() and path.parent != run / "models"]
    assert any(path.suffix == ".db" for path in stored)
    assert any(path.suffix == ".png" for path in stored)
    assert not [path for path in stored if CANARY in path.read_bytes()]


def test_parameters_are_the_values_that_were_used(client: MlflowClient, ids: dict[str, str]) -> None:
    parameters = client.get_run(ids["diffusion"]).data.params
    assert parameters["batch_size"] == "2"
    assert parameters["denoiser_channels"] == "[16, 16]"
    assert parameters["draws"] == "1"
    assert parameters["learning_rate"] == "0.0004"
    assert parameters["epoch_length"] == "2"
    assert "draws" not in client.get_run(ids["mask_codec"]).data.params
    scoring = client.get_run(ids["scoring"]).data.params
    assert scoring["learning_rate"] == "0.0002"
    assert (scoring["scoring_samples"], scoring["fairness"]) == ("4", "0.3")
    assert "fairness" not in parameters


def test_every_simple_value_at_the_top_is_a_parameter(client: MlflowClient, ids: dict[str, str], run: Path) -> None:
    """No list is kept by hand: a key that a stage uses is there, and the value is the one that was used."""
    for stage in STAGES:
        config = json.loads((run / "configs" / f"{'train' if stage == 'diffusion' else stage}.json").read_text())
        parameters = client.get_run(ids[stage]).data.params
        plain = {
            key: value
            for key, value in config.items()
            if isinstance(value, bool | int | float) and f"@{key}" in json.dumps(config)
        }
        assert len(plain) > 15
        assert {key: parameters.get(key) for key in plain} == {key: str(value) for key, value in plain.items()}
        assert parameters["world_size"] == "1"
        # Resolved, as in the run, and not as written.
        assert parameters["mixed_precision"] in ("True", "False")
        assert parameters["weights"].endswith(".pt")
        assert not {"tracking_uri", "deadline", "train"} & parameters.keys()


def test_what_is_tracked_of_a_configuration() -> None:
    values = {
        "rate": 0.1, "name": "a", "flag": False, "nothing": None, "sizes": [8, 16], "levels": (True, False),
        "train::rate": 0.2, "_comment_": "c", "tracking_uri": "http://me:secret@host", "deadline": 12.5,
        "network": object(), "steps": [object()], "empty": [], "table": {"a": 1},
    }  # fmt: skip
    assert tracked_values(values) == {
        "rate": 0.1, "name": "a", "flag": False, "nothing": None, "sizes": [8, 16], "levels": (True, False),
    }  # fmt: skip


def test_tracker_is_monais_handler(run: Path, data: Path, tmp_path: Path) -> None:
    tracker = RunTracker(False, tmp_path, "diffusion", data)
    assert isinstance(tracker, MLFlowHandler)
    # Switched off it leaves nothing behind.
    assert list(tmp_path.iterdir()) == []


def test_metrics_of_training_and_validation(client: MlflowClient, ids: dict[str, str]) -> None:
    names = {
        "image_codec": {"psnr", "perplexity", "codebook_usage"},
        "mask_codec": {"dice", "perplexity", "codebook_usage"},
        "diffusion": {"ged", "dice"},
        "scoring": {"ged", "ged_unbiased", "dice"},
    }
    for stage, expected in names.items():
        assert expected <= client.get_run(ids[stage]).data.metrics.keys(), stage
    for stage in ("diffusion", "scoring"):
        assert [entry.step for entry in client.get_metric_history(ids[stage], "ged")] == [1, 2]
    assert 0 < client.get_run(ids["mask_codec"]).data.metrics["codebook_usage"] <= 1


def test_loss_is_logged_by_iteration(data: Path, tmp_path: Path) -> None:
    sizes = {**SIZES, "max_epochs": 1}
    train(LUNG, data, output_dir=tmp_path, **sizes, log_interval=1)
    client, ids = MlflowClient(sqlite_uri(tmp_path)), read_run_ids(tmp_path, sqlite_uri(tmp_path))
    for stage, rate in {"diffusion": 4e-4, "scoring": 2e-4}.items():
        history = client.get_metric_history(ids[stage], "Loss")
        assert [entry.step for entry in history] == [1, 2]
        assert all(entry.value > 0 for entry in history)
        assert client.get_metric_history(ids[stage], "lr_group_0")[0].value == pytest.approx(rate)


def test_pictures_of_each_stage_show_what_it_makes() -> None:
    """A codec of images shows images in their colours, one of masks its masks, the later stages raters and samples."""
    image = torch.rand(2, 3, 8, 8)
    batch = {"case": ["a", "b"]}
    rows = compare_cases({"label": image, "pred": image / 2}, batch)
    assert all(isinstance(row, RebuiltImage) for row in rows)
    np.testing.assert_array_equal(rows[1].original, image[1].permute(1, 2, 0).numpy())
    np.testing.assert_array_equal(rows[1].rebuilt, image[1].permute(1, 2, 0).numpy() / 2)
    masks = (torch.rand(2, 4, 8, 8) > 0.5).float()
    (row, _) = compare_cases({"label": masks[:, :1], "pred": 1.0 - masks[:, :1]}, batch)
    assert isinstance(row, ComparedCase)
    assert (row.raters != row.samples).all()
    (row, _) = compare_cases({"label": masks, "image": image, "pred": {"samples": masks[:, :2]}}, batch)
    assert isinstance(row, ComparedCase)
    assert (row.name, row.image.shape, row.raters.shape, row.samples.shape) == ("a", (8, 8, 3), (4, 8, 8), (2, 8, 8))
    assert compare_cases({"label": torch.zeros(1, 1, 4, 4, 4), "pred": torch.zeros(1, 1, 4, 4, 4)}, batch) == []


def test_pictures_data_and_environment(client: MlflowClient, ids: dict[str, str], data: Path, tmp_path: Path) -> None:
    for stage in STAGES:
        assert list_artifacts(client, ids[stage], "panels") == ["epoch_0001.png", "epoch_0002.png"]
        found = client.get_run(ids[stage])
        digest = hashlib.sha256((data / "dataset.json").read_bytes()).hexdigest()
        assert found.data.tags["data.sha256"] == digest
        # The parent, too: the list of runs shows it.
        for run in (found, client.get_run(ids["parent"])):
            (entry,) = run.inputs.dataset_inputs
            assert (entry.dataset.name, entry.dataset.digest) == ("discs", digest[:36])
        assert found.data.tags["environment.torch"].startswith("2.")
    packages = Path(client.download_artifacts(ids["diffusion"], "environment/packages.txt", str(tmp_path))).read_text()
    assert "\nmonai==" in packages
    head = Path(client.download_artifacts(ids["diffusion"], "data/dataset.json", str(tmp_path))).read_text()
    assert json.loads(head)["counts"] == {"training": 4, "validation": 2, "test": 0}
    assert "case-" not in head
    assert list_artifacts(client, ids["diffusion"], "configs") == ["train.json"]
    assert list_artifacts(client, ids["scoring"], "configs") == ["scoring.json"]


@pytest.mark.parametrize(
    ("stages", "last"),
    [
        (["image_codec", "mask_codec", "train", "scoring"], "scoring"), (["mask_codec", "train"], "train"),
        (["image_codec"], "image_codec"),
    ],
)  # fmt: skip
def test_the_last_of_the_stages_ends_the_parent(stages: list[str], last: str) -> None:
    for stage in stages:
        parser = ConfigParser(load_stage_config(LUNG, stage, overrides={"training_stages": stages}))
        handlers = [handler["_target_"].rpartition(".")[2] for handler in parser["train#handlers"]]
        # Ignite's handlers of an exception raise it again: only the first one of them is called.
        assert "StatsHandler" not in handlers[: handlers.index("RunTracker")]
        assert parser.get_parsed_content(f"train#handlers#{handlers.index('RunTracker')}#last") is (stage == last)


@pytest.mark.parametrize(
    ("last", "status", "parent"),
    [(False, "FINISHED", "RUNNING"), (True, "FINISHED", "FINISHED"), (False, "KILLED", "KILLED")],
)
def test_parent_waits_for_the_last_stage(tmp_path: Path, last: bool, status: str, parent: str) -> None:
    tracker = RunTracker(sqlite_uri(tmp_path), tmp_path, "diffusion", tmp_path, last=last)
    ended: dict[str, str] = {}
    tracker.cur_run, tracker._parent_id = SimpleNamespace(info=SimpleNamespace(run_id="stage")), "parent"
    logged: dict[str, float] = {}
    tracker.client = SimpleNamespace(
        set_terminated=ended.__setitem__, update_run=lambda run_id, status: ended.update({run_id: status}),
        get_run=lambda run_id: SimpleNamespace(data=SimpleNamespace(metrics={"diffusion.minutes": 5.0})),
        log_metric=lambda run_id, key, value: logged.update({key: value}),
    )  # fmt: skip
    tracker._end(status)
    # A stage that goes on adds to its minutes.
    assert logged["diffusion.minutes"] == pytest.approx(5.0, abs=0.5)
    assert ended == {"stage": status, "parent": parent}


def test_interrupted_stage_goes_on_in_its_own_run(data: Path, run: Path, tmp_path: Path, monkeypatch) -> None:
    import torch

    from medseglatdiff_monai.training.handlers import GradientClipping

    original = GradientClipping.__call__

    def stop(self, engine) -> None:
        if engine.state.iteration == 3:
            raise KeyboardInterrupt
        original(self, engine)

    monkeypatch.setattr(GradientClipping, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        train(LUNG, data, output_dir=tmp_path, **SIZES)
    client, first = MlflowClient(sqlite_uri(tmp_path)), read_run_ids(tmp_path, sqlite_uri(tmp_path))
    assert set(first) == {"parent", "image_codec"}
    assert {client.get_run(run_id).info.status for run_id in first.values()} == {"KILLED"}
    monkeypatch.undo()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    train(LUNG, data, output_dir=tmp_path, **SIZES)
    second = read_run_ids(tmp_path, sqlite_uri(tmp_path))
    assert first.items() <= second.items()
    assert {client.get_run(run_id).info.status for run_id in second.values()} == {"FINISHED"}
    # Tracking changes nothing in what is learned.
    found, expected = (torch.load(path / "models" / "mask_codec.pt", weights_only=True) for path in (tmp_path, run))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_failures_in_one_line() -> None:
    """An error without a word has its kind for one."""
    errors = (MlflowException("no such table\nat 0x7f"), ConnectionError("<object at 0x7f>"), TimeoutError())
    assert [describe_failure(error) for error in errors] == ["no such table", "ConnectionError", "TimeoutError"]


def test_a_deleted_run_is_not_resumed() -> None:
    """MLflow still names it, and would not let a training or a registered model be logged to it."""
    stages = {"there": "active", "bin": "deleted"}

    def get_run(run_id: str) -> SimpleNamespace:
        if run_id not in stages:
            raise MlflowException("gone", error_code=RESOURCE_DOES_NOT_EXIST)
        return SimpleNamespace(info=SimpleNamespace(lifecycle_stage=stages[run_id]))

    client = SimpleNamespace(get_run=get_run)
    assert [is_active(client, run_id) for run_id in ("there", "bin", "unknown", "")] == [True, False, False, False]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Listener(logging.Handler):
    """Hears one logger, whatever handlers a bundle's logging.conf has given to those above it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_unreachable_server_stops_nothing(data: Path, tmp_path: Path, monkeypatch) -> None:
    listener = Listener()
    monkeypatch.setattr(logging.getLogger(RunTracker.__module__), "handlers", [listener])
    uri = f"http://me:secret@127.0.0.1:{free_port()}"
    begin = time.monotonic()
    run = train(LUNG, data, output_dir=tmp_path, **{**SIZES, "max_epochs": 1, "tracking_uri": uri})
    assert time.monotonic() - begin < 120
    assert {path.name for path in (run / "models").iterdir()} == set(TRAINING_STAGES.values())
    # Every stage tries the server anew.
    said = [message for message in listener.messages if message.startswith("MLflow: ")]
    assert len(said) == 4
    assert all("does not answer" in text and sqlite_uri(run) in text and "secret" not in text for text in said)
    ids = read_run_ids(run, sqlite_uri(run))
    assert set(ids) == {"parent", *STAGES}
    for stage in ("diffusion", "scoring"):
        assert "ged" in MlflowClient(sqlite_uri(run)).get_run(ids[stage]).data.metrics


def test_store_that_cannot_be_written_at_all_stops_nothing(tmp_path: Path, caplog, monkeypatch) -> None:
    def refuse(*arguments) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(RunTracker, "_open", refuse)
    tracker = RunTracker(sqlite_uri(tmp_path), tmp_path, "diffusion", tmp_path)
    with caplog.at_level(logging.WARNING):
        tracker._send(lambda: None)
    assert "disk full" in caplog.text
    assert "without a record" in caplog.text
    assert tracker.tracking_uri is None
