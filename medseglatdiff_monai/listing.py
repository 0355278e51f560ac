"""What there is by name: the commands ``bundles``, ``experiments`` and ``suites``."""

from __future__ import annotations

from collections.abc import Iterable

from .bundle.folders import configs_dir, find_bundle, known_bundles
from .errors import InputError
from .files import read_keys
from .suites.names import SUITES_DIR


def list_bundles(name: str | None = None) -> list[str]:
    """List the bundles that are found by name, whether they have weights, and what is segmented; or say where one is.

    Example: medseglatdiff bundles

    Args:
        name: of a bundle, whose folder is printed instead.

    Returns:
        One line for each.

    Raises:
        InputError: no such bundle.
    """
    if name is not None:
        return [str(find_bundle(name))]
    rows = []
    for known, root in known_bundles().items():
        weights = "weights" if (root / "models" / "model.pt").is_file() else "no weights"
        try:
            task = read_keys(root / "configs" / "metadata.json").get("task", "")
        except InputError as error:
            task = f"broken: {error}"
        rows.append((known, f"{weights:10}  {task}"))
    return _align(rows)


def list_experiments() -> list[str]:
    """List the experiments, the overlays that --experiment takes: systems of the literature, and ablations.

    Example: medseglatdiff experiments

    Returns:
        One line for each.
    """
    folder = configs_dir() / "experiments"
    rows = []
    for path in sorted(folder.rglob("*.json"), key=lambda path: (len(path.relative_to(folder).parts), path)):
        rows.append((path.relative_to(folder).with_suffix("").as_posix(), read_keys(path).get("_system_", "")))
    return _align(rows)


def list_suites() -> list[str]:
    """List the suites that benchmark takes: several systems, trained, scored and compared.

    Example: medseglatdiff suites

    Returns:
        One line for each.
    """
    suites = {path.stem: read_keys(path) for path in sorted(SUITES_DIR.glob("*.json"))}
    return _align((name, f"{suite['title']} ({len(suite['systems'])} systems)") for name, suite in suites.items())


def _align(rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:{width}}  {text}" for name, text in rows]
