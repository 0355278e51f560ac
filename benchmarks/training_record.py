"""Write ``benchmarks/results/lung_training.json``: how long each stage of a run took, from its MLflow database.

Usage: python benchmarks/training_record.py RUN_FOLDER [--output FILE]. An interrupted stage has several MLflow runs,
whose times are added; the time of a run that was killed ends with its last logged loss.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from mlflow.tracking import MlflowClient

from medseglatdiff_monai.evaluation import provenance

STAGES = ("image_codec", "mask_codec", "diffusion")
ROOT = Path(__file__).resolve().parent.parent


def stage_record(client: MlflowClient, experiments: list[str], stage: str) -> dict | None:
    """Iterations and minutes of one stage, ``None`` where it was not tracked."""
    runs = [run for run in client.search_runs(experiments) if run.info.run_name == stage]
    history = {run.info.run_id: client.get_metric_history(run.info.run_id, "Loss") for run in runs}
    history = {run: losses for run, losses in history.items() if losses}
    if not history:
        return None
    milliseconds = sum(losses[-1].timestamp - losses[0].timestamp for losses in history.values())
    return {
        "iterations": max(loss.step for losses in history.values() for loss in losses),
        "minutes": round(milliseconds / 60_000, 1),
        "runs": len(history),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--batch-size", type=int, required=True, help="images a step of the diffusion stage")
    parser.add_argument("--draws", type=int, required=True, help="draws an image")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "lung_training.json")
    arguments = parser.parse_args()
    client = MlflowClient(f"sqlite:///{(arguments.run_folder / 'mlruns.db').absolute()}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    weights = torch.load(arguments.run_folder / "models" / "model.pt", weights_only=True)
    record = {
        "stages": {name: stage_record(client, experiments, name) for name in STAGES},
        "batch_size": arguments.batch_size,
        "draws": arguments.draws,
        "parameters": sum(value.numel() for value in weights.values() if value.is_floating_point()),
        "provenance": provenance(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(record, indent=2) + "\n")
    print(arguments.output)


if __name__ == "__main__":
    main()
