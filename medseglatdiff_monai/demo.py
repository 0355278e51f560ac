"""The demonstration: prepared phantom cases → ensembles → pictures, NIfTI and scores, with the lung bundle's weights.

The phantom carries real readers' contours on a synthetic lung CT; the weights were trained on real CT.
"""

from __future__ import annotations

import json
from pathlib import Path

from .data.datalist import load_datalist
from .data.prepare import prepare
from .evaluation import evaluate
from .predict import predict

__all__ = ["demo"]

BUNDLE = "lung_nodule_ct_latent_diffusion"


def demo(output_dir: str | Path, num_cases: int = 12, seed: int = 0) -> Path:
    """Run the demonstration and print what it made; returns the folder.

    Args:
        output_dir: receives ``phantom/`` (data), ``evaluation/`` (scores) and ``prediction/`` (pictures and masks).
        num_cases: phantom nodules, spread over training, validation and test.
        seed: seed of phantom and noise.
    """
    output = Path(output_dir)
    data = output / "phantom"
    prepare("phantom", output_dir=data, seed=seed, num_cases=num_cases)
    cases = load_datalist(data, "test") + load_datalist(data, "validation")
    results = evaluate(BUNDLE, data, output / "evaluation", split="test", seed=seed, num_samples=16)
    predict(BUNDLE, [item["image"] for item in cases], output / "prediction", seed=seed, num_samples=8)
    summary = results["summary"]
    figures = {name: summary[name] for name in ("ged_v", "hm_iou", "dice", "num_cases", "num_samples")}
    (output / "demo.json").write_text(json.dumps(figures, indent=2) + "\n")
    panels = sorted((output / "prediction").glob("*_panel.png"))
    print(f"\nPictures:  {panels[0]} and {len(panels) - 1} more")
    print(f"Masks:     {next((output / 'prediction').glob('*_consensus.nii.gz'))} ...")
    print(f"Scores:    {output / 'demo.json'}: GED {summary['ged_v']:.3f}, Dice {summary['dice']:.3f} on the phantom")
    return output
