"""Two real processes under torchrun, on gloo: the multi-GPU overlays keep both ranks alike and score as one process."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from small_runs import LUNG, copy_bundle, run_sizes, small_sizes, write_prepared

from medseglatdiff_monai.bundle.folders import bundles_dir
from medseglatdiff_monai.errors import InputError
from medseglatdiff_monai.networks.weights import stage_finished
from medseglatdiff_monai.training.distributed import FRESH_STORE, local_device, start
from medseglatdiff_monai.training.run import TRAINING_STAGES

SECONDS = 240


def run_bundle(files: list[Path], processes: int, **arguments) -> str:
    """``monai.bundle run`` under torchrun; returns what it printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}",
        "-m", "monai.bundle", "run", "--config_file", json.dumps([str(path) for path in files]),
    ]  # fmt: skip
    for key, value in arguments.items():
        command += [f"--{key}", value if isinstance(value, str) else str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    root = str(Path(__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Odd numbers: neither training nor validation cases divide evenly among two processes.
    return write_prepared(tmp_path_factory.mktemp("prepared") / "data", LUNG, training=17, validation=5)


@pytest.fixture(scope="module")
def sizes() -> dict:
    return {key: value for key, value in small_sizes(LUNG).items() if key != "device"}


@pytest.mark.integration
def test_both_ranks_end_with_the_same_weights_and_codebook(data: Path, sizes: dict, tmp_path: Path) -> None:
    configs = bundles_dir() / LUNG / "configs"
    # What each rank holds at the end, written by itself.
    dump = {
        "run": [
            "$@train#trainer.run()",
            "$torch.save({'online': @network_def.state_dict(), 'averaged': @checkpoint.averaged.state_dict(),"
            " 'cases': [@train#items[i]['case'] for i in @train#sampler]},"
            " str(Path(@output_dir) / ('rank%d.pt' % @rank)))",
        ]
    }
    (tmp_path / "dump.json").write_text(json.dumps(dump))
    output = tmp_path / "run"
    shared = {**sizes, **run_sizes(), "bundle_root": str(configs.parent), "dataset_dir": str(data), "max_epochs": 2}
    for stage, weights_file in TRAINING_STAGES.items():
        files = [configs / f"{stage}.json", configs / "multi_gpu_train.json", tmp_path / "dump.json"]
        printed = run_bundle(files, 2, **shared, output_dir=str(output), val_interval=1)
        ranks = [torch.load(output / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
        for weights in ("online", "averaged"):
            assert ranks[0][weights].keys() == ranks[1][weights].keys()
            for name, value in ranks[0][weights].items():
                torch.testing.assert_close(value, ranks[1][weights][name], rtol=0, atol=0, msg=f"{stage}: {name}")
        # 17 cases: nine a rank, of which one is there twice.
        cases = [set(rank["cases"]) for rank in ranks]
        assert len(cases[0] | cases[1]) == 17
        assert len(cases[0] & cases[1]) <= 1
        if stage.endswith("codec"):
            assert bool(ranks[0]["online"]["quantizer.initialized"])
            assert ranks[0]["online"]["quantizer.embedding"].std() > 0
        # Rank 0 alone reports.
        assert len(re.findall(r"Stage \d of \d: .*, epoch \d of 2: ", printed)) == 2
        assert stage_finished(output / "models" / weights_file)


@pytest.mark.integration
def test_two_processes_score_as_one(data: Path, sizes: dict, tmp_path: Path) -> None:
    root = copy_bundle(LUNG, tmp_path / "bundle", **sizes)
    configs = root / "configs"
    rows = []
    for processes in (1, 2):
        output = tmp_path / str(processes)
        files = [configs / "evaluate.json", configs / "multi_gpu_evaluate.json"]
        run_bundle(
            files, processes, **sizes, bundle_root=str(root), dataset_dir=str(data), output_dir=str(output),
            batch_size=2,
        )  # fmt: skip
        with (output / "cases.csv").open(newline="") as handle:
            rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)])
        assert json.loads((output / "metrics.json").read_text())["summary"]["num_cases"] == 5
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for key, value in one.items():
            if key in ("case", "group"):
                assert two[key] == value
            else:
                assert float(two[key]) == pytest.approx(float(value), rel=1e-4, abs=1e-5, nan_ok=True), key
    # The masks are no trivial ones, or any two runs would agree.
    assert any(float(row["ged_v"]) > 0.0 for row in rows[0])


def test_overlay_without_torchrun_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(InputError, match="torchrun"):
        local_device()


def test_ranks_are_torchruns_and_restarts_want_a_fresh_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"LOCAL_RANK": "0", "SLURM_JOB_ID": "7", "TORCHELASTIC_MAX_RESTARTS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(FRESH_STORE, raising=False)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.warns(UserWarning, match=FRESH_STORE):
        start()
    assert "SLURM_JOB_ID" not in os.environ
    monkeypatch.setenv(FRESH_STORE, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        start()


def test_more_processes_than_gpus_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--nproc_per_node=2"):
        local_device()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device() == torch.device("cuda", 1)
