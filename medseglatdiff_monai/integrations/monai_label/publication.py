"""Whether weights trained on labels replace those of a bundle: both segment the cases that were held back."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

from ...digest import forget_digest
from ...evaluation.run import evaluate
from ...files import save_bytes

logger = logging.getLogger(__name__)


def publish_weights(run: Path, root: Path, dataset_dir: Path, device: str) -> dict[str, Any]:
    """Put a run's weights in the place of a bundle's, unless they do worse on the validation cases.

    The former weights are kept as ``models/model_previous.pt``. A bundle without weights takes any. The scores are
    written to ``validation`` and ``validation_before`` beside the run.

    Args:
        run: the run's folder.
        root: the bundle's folder.
        dataset_dir: prepared folder that the run was trained on, whose validation part it was not.
        device: where to compute.

    Returns:
        ``published``, and ``validation``: ``dice``, the mean Dice of the consensus with the label with the new weights,
        and ``dice_before``, with the former ones; ``None`` where there is none.
    """
    new, current = (folder / "models" / "model.pt" for folder in (run, root))

    def score(bundle: Path, name: str) -> float | None:
        return evaluate(bundle, dataset_dir, run.parent / name, device=device)["summary"]["dice"]

    after = score(run, "validation")
    before = score(root, "validation_before") if current.is_file() else None
    published = not current.is_file() or (after is not None and before is not None and after >= before)
    if published:
        if current.is_file():
            # MONAI Label takes the shortest name of *.pt for the default: any other must be longer.
            shutil.copy2(current, current.with_name("model_previous.pt"))
        forget_digest(current)
        save_bytes(new.read_bytes(), current)
        os.utime(current)
        logger.info("%s has new weights: Dice %s on the validation cases, before %s.", root.name, after, before)
    else:
        logger.warning(
            "%s keeps its weights: Dice %s on the validation cases, with the new ones %s. Copy %s to %s if you want "
            "the new ones nevertheless.", root.name, before, after, new, current,
        )  # fmt: skip
    return {"published": published, "validation": {"dice": after, "dice_before": before}}
