"""GED and HM-IoU at the sizes of the benchmarks against a plain NumPy implementation.

The reference works on sets of pixel numbers, one pair at a time, and solves the matching as a transport problem (a
linear programme on N + R marginals), so that it shares neither the counting nor the replication nor the solver.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from medseglatdiff_monai.metrics import generalized_energy_distance, hungarian_matched_iou


def reference(samples: np.ndarray, raters: np.ndarray) -> tuple[float, float, float]:
    """GED_V, GED_U and HM-IoU of one case, (N, H, W) and (R, H, W)."""
    s, y = ([frozenset(np.flatnonzero(mask).tolist()) for mask in masks] for masks in (samples, raters))
    n, r = len(s), len(y)

    def iou(a: frozenset, b: frozenset) -> float:
        return len(a & b) / len(a | b) if a or b else 1.0

    between = np.array([[iou(a, b) for b in y] for a in s])
    among_s, among_y = (np.array([[1 - iou(a, b) for b in masks] for a in masks]) for masks in (s, y))
    ged_v = 2 * (1 - between).mean() - among_s.mean() - among_y.mean()
    if min(n, r) > 1:
        ged_u = 2 * (1 - between).mean() - among_s.sum() / (n * n - n) - among_y.sum() / (r * r - r)
    else:
        ged_u = float("nan")
    # Every sample gives 1/N, every rater takes 1/R: the optimum is that of the replicated one-to-one matching.
    rows = np.kron(np.eye(n), np.ones(r))
    columns = np.kron(np.ones(n), np.eye(r))
    plan = linprog(
        -between.ravel(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(n, 1 / n), np.full(r, 1 / r)]),
        method="highs",
    )
    return ged_v, ged_u, -plan.fun


def draw(kind: str, n: int, r: int, seed: int, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]

    def disc() -> np.ndarray:
        centre = side / 2 + rng.normal(0, 2, 2)
        return np.hypot(rows - centre[0], columns - centre[1]) < rng.uniform(0, side / 3)

    samples, raters = (np.stack([disc() for _ in range(count)]) for count in (n, r))
    if kind == "noise":
        samples, raters = (rng.random(masks.shape) < rng.random() for masks in (samples, raters))
    elif kind == "some empty":
        samples[rng.random(n) < 0.5] = False
        raters[rng.random(r) < 0.5] = False
    elif kind == "all empty":
        samples[:], raters[:] = False, False
    elif kind == "no samples marked":
        samples[:] = False
    elif kind == "no raters marked":
        raters[:] = False
    elif kind == "identical":
        samples = raters[np.arange(n) % r]
    elif kind == "all alike":
        samples[:], raters[:] = samples[0], samples[0]
    return samples, raters


KINDS = ("discs", "noise", "some empty", "all empty", "no samples marked", "no raters marked", "identical", "all alike")


@pytest.mark.parametrize(("n", "r"), [(16, 4), (1, 4), (16, 1), (1, 1), (5, 3), (32, 4), (7, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_agree_with_the_reference(kind, n, r):
    cases = [draw(kind, n, r, seed) for seed in range(3)]
    samples, raters = (np.stack(masks) for masks in zip(*cases, strict=True))
    expected = np.array([reference(*pair) for pair in cases])
    found = torch.stack(
        [
            generalized_energy_distance(samples, raters),
            generalized_energy_distance(samples, raters, unbiased=True),
            hungarian_matched_iou(samples, raters),
        ],
        dim=1,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)
    if kind in ("all empty", "all alike") or (kind == "identical" and n % r == 0):
        np.testing.assert_allclose(found[:, 0], 0, atol=1e-12)
        np.testing.assert_allclose(found[:, 2], 1, atol=1e-12)
