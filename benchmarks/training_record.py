"""Write a bundle's ``benchmarks/results/*_training.json`` from the ``training.json`` of the run behind its weights.

Usage: ``python benchmarks/training_record.py RUN_FOLDER --batch-size B --draws N --output FILE``. With
``--before FILE`` the run continued from weights whose record is FILE: its stages are kept, and the run's own are added;
diffusion becomes ``continued``, and the mask codec, whose decoder alone was trained, ``decoder``. What ran on a GPU
is a stage of its own, with the GPU's name: its minutes and those of a core do not add up. With ``--initial WORDS`` the
run started from other weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from records import save_record


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--batch-size", type=int, required=True, help="images per step of the last stage")
    parser.add_argument("--draws", type=int, required=True, help="draws, or scored samples, per image")
    parser.add_argument("--before", type=Path, help="record of the weights that the run started from")
    parser.add_argument("--initial", help="what the run started from, in words, e.g. 'the weights of the skin bundle'")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    run = json.loads((arguments.run_folder / "training.json").read_text())
    stages = {("diffusion" if name == "train" else name): took for name, took in run["stages"].items()}
    on, device = "", run["provenance"]["device"]
    if device != "cpu":
        on = f" on an {device}"
        stages = {name + on: took for name, took in stages.items()}
    initial = arguments.initial
    if arguments.before is not None:
        record_before = json.loads(arguments.before.read_text())
        before, initial = record_before["stages"], initial or record_before["initial_bundle"]
        for stage, took in stages.items():
            last = stage.removesuffix(on)
            name = {"diffusion": "continued", "mask_codec": "decoder"}.get(last, last) + on
            already = before.get(name) or {"iterations": 0, "minutes": 0.0}
            before[name] = {key: already[key] + took[key] for key in ("iterations", "minutes")}
        stages = before
    record = {
        "stages": stages,
        "batch_size": arguments.batch_size,
        "draws": arguments.draws,
        "initial_bundle": initial,
        "parameters": run["parameters"],
        "provenance": run["provenance"],
    }
    save_record(record, arguments.output)


if __name__ == "__main__":
    main()
