"""Two nodes under torchrun on loopback, a worker that is killed, and a node that dies.

A node is a torchrun of its own: they find each other by a c10d rendezvous and talk gloo, as on a cluster of CPUs. Like
there they share the folder of the run.
"""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import LUNG, copy_bundle, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.folders import bundles_dir

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
STAGE = "mask_codec"
EPOCHS = 4
SIZES = {key: value for key, value in small_sizes(LUNG).items() if key != "device"}


def start_node(
    nodes: str, processes: int, port: int, files: list[Path], host: bool, restarts: int = 0, **arguments
) -> subprocess.Popen:
    """A torchrun of ``monai.bundle run``; ``host`` keeps the store through which the nodes find each other."""
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc_per_node={processes}",
        "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{port}", "--rdzv_id=test", f"--max_restarts={restarts}",
        # On one machine both could be the host. The timeout is for further nodes, where there are enough.
        f"--rdzv_conf=is_host={host},last_call_timeout=20", "--local_addr=127.0.0.1",
        "-m", "monai.bundle", "run", "--config_file", json.dumps([str(path) for path in files]),
    ]  # fmt: skip
    for key, value in arguments.items():
        command += [f"--{key}", value if isinstance(value, str) else str(value)]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
    }  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    )


def run_nodes(number: int, files: list[Path], nodes: str | None = None, processes: int = 1, **arguments):
    """Start so many nodes, and wait; returns each one's exit status and what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Ranks follow the process ids: the first one has rank 0.
    started = [start_node(nodes or str(number), processes, port, files, n == 0, **arguments) for n in range(number)]
    try:
        printed = [node.communicate(timeout=1800)[0] for node in started]
    finally:
        for node in started:
            node.kill()
    return [(node.returncode, text) for node, text in zip(started, printed, strict=True)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=17, validation=5)


def training_files(folder: Path, death: str | None = None) -> list[Path]:
    """Stage and overlay; with ``death``, "worker" or "node", that of rank 1 after the second epoch, once."""
    configs = bundles_dir() / LUNG / "configs"
    files = [configs / f"{STAGE}.json", configs / "multi_gpu_train.json"]
    if death is not None:
        overlay = {
            "death": {
                "_target_": "worker_death.attach",
                "trainer": "@train#trainer",
                "rank": "@rank",
                "marker": str(folder / "died"),
                "node": death == "node",
            },
            "run": ["@death", "$@train#trainer.run()"],
        }
        (folder / "death.json").write_text(json.dumps(overlay))
        files.append(folder / "death.json")
    return files


def training_arguments(data: Path, output: Path) -> dict:
    root = bundles_dir() / LUNG
    return {
        **SIZES, **run_sizes(), "bundle_root": root, "dataset_dir": data, "output_dir": output, "max_epochs": EPOCHS,
        "val_interval": EPOCHS, "tracking_uri": "False",
    }  # fmt: skip


def weights(output: Path) -> dict[str, torch.Tensor]:
    return torch.load(output / "models" / f"{STAGE}.pt", weights_only=True)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of two processes on one node."""
    output = tmp_path_factory.mktemp("undisturbed")
    ((status, printed),) = run_nodes(1, training_files(output), processes=2, **training_arguments(data, output))
    assert status == 0, printed[-6000:]
    return weights(output)


def test_two_nodes_train_as_two_processes_of_one(data: Path, undisturbed: dict, tmp_path: Path) -> None:
    nodes = run_nodes(2, training_files(tmp_path), **training_arguments(data, tmp_path))
    assert [status for status, _ in nodes] == [0, 0], nodes[0][1][-3000:] + nodes[1][1][-3000:]
    assert_same(weights(tmp_path), undisturbed)
    assert not (tmp_path / "models" / f"training_state_{STAGE}.pt").exists()
    # Rank 0 alone reports.
    assert [text.count("Key metric: ") for _, text in nodes] == [1, 0]


def test_two_nodes_score_as_one_process(data: Path, tmp_path: Path) -> None:
    root = copy_bundle(LUNG, tmp_path / "bundle", **SIZES)
    files = [root / "configs" / "evaluate.json", root / "configs" / "multi_gpu_evaluate.json"]
    tables = []
    for number in (1, 2):
        output = tmp_path / str(number)
        nodes = run_nodes(number, files, **SIZES, bundle_root=root, dataset_dir=data, output_dir=output, batch_size=2)
        assert {status for status, _ in nodes} == {0}, nodes[0][1][-3000:] + nodes[-1][1][-3000:]
        with (output / "cases.csv").open(newline="") as handle:
            tables.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)])
    one, two = tables
    assert [row["case"] for row in one] == [row["case"] for row in two]
    assert len(one) == 5
    for expected, found in zip(one, two, strict=True):
        for key in expected.keys() - {"case", "group"}:
            assert float(found[key]) == pytest.approx(float(expected[key]), rel=1e-4, abs=1e-5, nan_ok=True), key
    assert any(float(row["ged_v"]) > 0.0 for row in one)


@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 1)])
def test_killed_worker_is_restarted_and_goes_on_from_the_checkpoint(
    data: Path, undisturbed: dict, tmp_path: Path, nodes: int, processes: int
) -> None:
    files = training_files(tmp_path, "worker")
    ended = run_nodes(nodes, files, processes=processes, restarts=1, **training_arguments(data, tmp_path))
    printed = "\n".join(text for _, text in ended)
    assert [status for status, _ in ended] == [0] * nodes, printed[-6000:]
    assert (tmp_path / "died").is_file()
    assert "exitcode: -9" in printed
    # Not from the start: the two last epochs follow the second one's checkpoint, and end where they would have.
    assert_same(weights(tmp_path), undisturbed)


def test_node_that_dies_leaves_a_state_that_the_same_command_goes_on_from(
    data: Path, undisturbed: dict, tmp_path: Path
) -> None:
    files, arguments = training_files(tmp_path, "node"), training_arguments(data, tmp_path)
    nodes = run_nodes(2, files, **arguments)
    (status, printed), dead = nodes
    assert (status, dead[0]) == (1, -9)
    assert "ChildFailedError" in printed
    assert re.search("Connection (closed|reset) by peer", printed)
    models = tmp_path / "models"
    assert sorted(path.name for path in models.iterdir()) == [f"{STAGE}.pt", f"training_state_{STAGE}.pt"]
    state = torch.load(models / f"training_state_{STAGE}.pt", weights_only=True)
    assert state["epoch"] == 2
    nodes = run_nodes(2, files, **arguments)
    assert [status for status, _ in nodes] == [0, 0], nodes[0][1][-3000:] + nodes[1][1][-3000:]
    assert_same(weights(tmp_path), undisturbed)


def test_elastic_run_goes_on_without_a_node_that_dies(data: Path, tmp_path: Path) -> None:
    files, arguments = training_files(tmp_path, "node"), training_arguments(data, tmp_path)
    nodes = run_nodes(2, files, nodes="1:2", restarts=1, **arguments)
    assert [status for status, _ in nodes] == [0, -9], nodes[0][1][-3000:] + nodes[1][1][-3000:]
    assert (tmp_path / "died").is_file()
    # Finished: weights, and no state of an interrupted stage.
    assert [path.name for path in (tmp_path / "models").iterdir()] == [f"{STAGE}.pt"]


def test_slurm_script_trains_and_skips_what_is_finished(data: Path, tmp_path: Path) -> None:
    """On one node, with stand-ins for SLURM's commands: the controller itself is not there."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in {
        "scontrol": "echo 127.0.0.1",
        # Leaves its own options out.
        "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"',
        "torchrun": f'exec "{sys.executable}" -m torch.distributed.run "$@"',
    }.items():
        (commands / name).write_text(f"#!/bin/bash\n{body}\n")
        (commands / name).chmod(0o755)
    environment = {
        **os.environ, "PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "SLURM_JOB_NUM_NODES": "1", "SLURM_GPUS_ON_NODE": "2", "SLURM_JOB_ID": "77",
        "SLURM_JOB_NODELIST": "node1", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    }  # fmt: skip
    arguments = {**SIZES, **run_sizes(), "tracking_uri": False}
    command = ["bash", ROOT / "docs" / "how-to" / "train.sbatch", bundles_dir() / LUNG, data, tmp_path / "run"]
    command += [str(part) for key, value in arguments.items() for part in (f"--{key}", value)]
    for message in ("1 node(s) of 2 process(es)", "is finished"):
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        assert done.stdout.count(message) == 4
    assert {path.name for path in (tmp_path / "run" / "models").iterdir()} == {
        "diffusion.pt", "image_codec.pt", "mask_codec.pt", "model.pt"
    }  # fmt: skip
