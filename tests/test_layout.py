"""The tree is the map: folders stand in one order, and imports run downwards in it only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "medseglatdiff_monai"
# From the top of the house to its ground, as CONTRIBUTING.md shows it.
ORDER = (
    "__main__", "cli", "command_help", "listing", "info", "demo", "suites", "integrations", "training", "evaluation",
    "predict", "bundle", "ensemble", "networks", "data", "diffusion", "metrics", "io", "plots", "provenance", "locks",
    "digest", "files", "startup", "plugins", "console", "extras", "errors", "__init__",
)  # fmt: skip


def _module(path: Path) -> tuple[str, ...]:
    return path.relative_to(PACKAGE).with_suffix("").parts


def _imports(path: Path) -> list[tuple[int, tuple[str, ...]]]:
    """Line and module (of the package, as parts) of every import of the package's own in a file."""
    found = []
    here = _module(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and not node.level:
            assert (node.module or "").split(".")[0] != PACKAGE.name, f"{path}, line {node.lineno}: not relative"
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1]
            parts = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                full = (*parts, alias.name)
                deeper = (PACKAGE.joinpath(*full).with_suffix(".py")).is_file() or PACKAGE.joinpath(*full).is_dir()
                found.append((node.lineno, full if deeper else parts or ("__init__",)))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {_module(path)[0] for path in FILES}
    assert rooms == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: "/".join(_module(path)))
def test_imports_run_downwards(path: Path) -> None:
    own = ORDER.index(_module(path)[0])
    upwards = [f"line {line}: {'.'.join(module)}" for line, module in _imports(path) if ORDER.index(module[0]) < own]
    assert not upwards


def test_no_circles() -> None:
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    modules = {_module(path) for path in FILES}
    for path in FILES:
        targets = set()
        for _, module in _imports(path):
            name = module if module in modules else (*module, "__init__")
            targets.add(name)
        graph[_module(path)] = targets - {_module(path)}
    done: set[tuple[str, ...]] = set()

    def visit(module: tuple[str, ...], above: tuple[tuple[str, ...], ...]) -> None:
        assert module not in above, " -> ".join(".".join(part) for part in (*above[above.index(module) :], module))
        if module in done:
            return
        for target in sorted(graph.get(module, ())):
            visit(target, (*above, module))
        done.add(module)

    for module in sorted(graph):
        visit(module, ())
