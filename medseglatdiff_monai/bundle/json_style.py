"""How this project writes its configurations: JSON with short values on one line."""

from __future__ import annotations

import json
from typing import Any

WIDTH = 120
INDENT = 2


def dump_config(config: Any) -> str:
    """JSON text of a configuration, read back to the same value, keys in the same order.

    A list or a dictionary is on one line where it fits within 120 columns, its key and the comma after it included;
    the outermost level always has one entry per line.
    """
    return _write(config, depth=0, room=0) + "\n"


def _write(value: Any, depth: int, room: int) -> str:
    """``value`` whose first line begins after what leaves ``room`` columns and whose others are indented."""
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, list | dict) or not value or len(line) <= room:
        return line
    margin = " " * INDENT * (depth + 1)
    # The comma counts.
    width = WIDTH - len(margin) - 1
    if isinstance(value, dict):
        entries = []
        for key, entry in value.items():
            name = f"{json.dumps(key, ensure_ascii=False)}: "
            entries.append(name + _write(entry, depth + 1, width - len(name)))
    else:
        entries = [_write(entry, depth + 1, width) for entry in value]
    opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
    body = ",\n".join(margin + entry for entry in entries)
    return f"{opening}\n{body}\n{' ' * INDENT * depth}{closing}"
