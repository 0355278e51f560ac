"""Reading ``dataset.json``: the items of one part of a prepared folder, with absolute paths.

The file is in MONAI's datalist form; this module adds what MONAI leaves out: errors that say what is wrong with it, and
a selection of cases by seed instead of the first ones.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from ..errors import InputError, check_count
from ..files import read_json
from .schema import check_content
from .splits import SPLITS, normalize_split

# What all cases have in common, and every file is compared with.
COUNTS = ("num_channels", "num_raters")


def load_dataset_info(dataset_dir: str | Path) -> dict:
    """Contents of ``dataset_dir/dataset.json``.

    Raises:
        InputError: the folder was not made by ``medseglatdiff prepare``, or the file is no JSON or no data set, see
            :func:`~medseglatdiff_monai.data.schema.check_content`.
    """
    path = Path(dataset_dir) / "dataset.json"
    if not path.is_file():
        raise InputError(
            f"No prepared data set at {dataset_dir}: dataset.json is missing. Expected a folder made by "
            "'medseglatdiff prepare SOURCE SRC --output-dir FOLDER'."
        )
    return check_content(read_json(path), path)


def load_datalist(dataset_dir: str | Path, section: str, max_cases: int | None = None, seed: int = 0) -> list[dict]:
    """Items of one part, image and label as absolute paths.

    What the file says of all cases, ``num_channels`` and ``num_raters``, is added to each item:
    :class:`~medseglatdiff_monai.io.prepared.LoadCased` compares the files with it.

    Args:
        dataset_dir: folder made by ``medseglatdiff prepare``.
        section: ``"training"``, ``"validation"`` or ``"test"``; ``"train"`` and ``"val"`` are synonyms.
        max_cases: select this many by ``seed``, in the order of the file; all if ``None`` or more than there are.
        seed: seed of that selection.

    Raises:
        InputError: no such part, it is empty or names a case twice; ``max_cases`` is no number of cases.
    """
    check_count("--max-cases", max_cases)
    name = normalize_split(section)
    info = load_dataset_info(dataset_dir)
    if not info.get(name):
        sizes = {key: len(info.get(key, [])) for key in SPLITS}
        raise InputError(f"The {name} part of {dataset_dir} is empty; it holds {sizes}. Choose another split.")
    # Imported here: MONAI takes seconds to import, and a missing data set should be reported before.
    from monai.data import load_decathlon_datalist

    path = Path(dataset_dir).absolute() / "dataset.json"
    items = load_decathlon_datalist(str(path), is_segmentation=True, data_list_key=name, base_dir=str(path.parent))
    counts = Counter(item["case"] for item in items if "case" in item)
    twice = next((case for case, count in counts.items() if count > 1), None)
    if twice is not None:
        raise InputError(
            f"{path}: the {name} part has {counts[twice]} items of the case {twice!r}; expected one, since noise and "
            "results are kept by case. Prepare the data set again, or give each item its own case."
        )
    items = [{**item, **{key: info[key] for key in COUNTS if info.get(key) is not None}} for item in items]
    if max_cases is not None and max_cases < len(items):
        chosen = sorted(random.Random(seed).sample(range(len(items)), max_cases))
        items = [items[i] for i in chosen]
    return items
