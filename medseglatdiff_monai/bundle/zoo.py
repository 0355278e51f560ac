"""A bundle in the form that MONAI's model zoo takes: inference by MONAI alone, without this package.

What ``inference.json`` names of this package comes along, as the folder ``scripts/``. Modules import each other
relatively here, so that a part of the package works under another name as it stands: every file is a copy, byte for
byte.
"""

from __future__ import annotations

import ast
import importlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .check import check_bundle
from .config import Bundle
from .json_style import dump_config

SCRIPTS = "scripts"
PACKAGE = Path(__file__).resolve().parents[1]
OF_TRAINING = (PACKAGE.name, "mlflow")
METADATA, INFERENCE = Path("configs/metadata.json"), Path("configs/inference.json")


def zoo_files(bundle: Bundle, files: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Contents of a bundle for the zoo: inference alone, with the modules that it needs.

    Left out of the bundle's own ``files`` are the other stages, which need this package, and what they alone require.

    Raises:
        InputError: the bundle is not complete, or runs code of its own.
    """
    if lacking := check_bundle(bundle.root):
        raise InputError(
            f"{bundle.root} lacks what the zoo asks for: {lacking[0]}. Expected a bundle about which "
            f"'medseglatdiff check-bundle {bundle.root}' finds nothing, found {len(lacking)}: complete it first."
        )
    config, modules = _rename_targets(json.loads(files[INFERENCE]))
    metadata = json.loads(files[METADATA])
    packages = metadata["required_packages_version"].items()
    required = {name: version for name, version in packages if name not in OF_TRAINING}
    kept = {path: content for path, content in files.items() if path.parts[0] != "configs" or path.suffix != ".json"}
    return {
        **kept,
        **_copy_modules(modules),
        INFERENCE: dump_config(config).encode(),
        METADATA: dump_config({**metadata, "required_packages_version": required}).encode(),
    }


def _rename_targets(config: Any) -> tuple[Any, set[Path]]:
    """The configuration with this package's ``_target_`` in ``scripts``, and the modules that define them."""
    modules: set[Path] = set()

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(part) for part in value]
        if not isinstance(value, dict):
            return value
        renamed = {key: rename(part) for key, part in value.items()}
        target = value.get("_target_")
        if isinstance(target, str) and target.startswith(f"{PACKAGE.name}."):
            module, _, name = target.rpartition(".")
            # A folder's names are defined in one of its modules, and its __init__ would bring all of them.
            parts = getattr(importlib.import_module(module), name).__module__.split(".")[1:]
            modules.add(PACKAGE.joinpath(*parts).with_suffix(".py"))
            renamed["_target_"] = ".".join((SCRIPTS, *parts, name))
        return renamed

    return rename(config), modules


def _copy_modules(modules: set[Path]) -> dict[Path, bytes]:
    """The modules, all that they import from this package, and an empty ``__init__.py`` for each folder."""
    found: set[Path] = set()
    waiting = set(modules)
    while waiting:
        path = waiting.pop()
        found.add(path)
        waiting |= set(_imported(path)) - found
    copies = {SCRIPTS / path.relative_to(PACKAGE): path.read_bytes() for path in sorted(found)}
    return {**{folder / "__init__.py": b"" for path in copies for folder in path.parents[:-1]}, **copies}


def _imported(path: Path) -> Iterator[Path]:
    """Files of this package that a module imports, in functions, too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                places = (base / f"{alias.name}.py", base / alias.name / "__init__.py", base.with_suffix(".py"))
                yield next((place for place in places if place.is_file()), base / "__init__.py")
