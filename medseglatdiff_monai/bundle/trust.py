"""Which code a configuration may run: that of the package's own configurations, and no other unless the user says so.

MONAI evaluates every text that begins with ``$``, reads the file that a text with ``%`` names, and calls every
``_target_``. A stranger's bundle, experiment or override could thus run anything. Each of these texts is therefore
compared with those under ``configs/`` and ``bundles/`` of a clone, which ``trusted.json`` lists in a wheel as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import read_json, save_json
from ..plugins import plugin_options

# Set to anything, and every configuration is trusted; the option --trust of the command line sets it.
TRUST_VARIABLE = "MEDSEGLATDIFF_TRUST"
TRUSTED = Path(__file__).with_name("trusted.json")
# Values that MONAI cannot take in another way from its command line, the transforms that new-bundle writes,
# and MONAI's own data set, which bundles of earlier versions have.
HARMLESS = {"$None", "$True", "$False", "AsDiscreted", "ScaleIntensityd", "CacheDataset"}
# So many are named in the message.
NAMED = 5


def find_code(config: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a configuration, or of the part under ``place``, that MONAI would run: (key ``a#b``, text)."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            inner = f"{place}#{key}" if place else str(key)
            if key == "_target_" and isinstance(value, str):
                yield inner, value
            else:
                yield from find_code(value, inner)
    elif isinstance(config, (list, tuple)):
        for number, value in enumerate(config):
            yield from find_code(value, f"{place}#{number}")
    elif isinstance(config, str) and config.startswith(("$", "%")):
        yield place, config


def find_untrusted(config: Mapping[str, Any]) -> list[str]:
    """What a configuration would run beyond the package's own configurations: one line per key, ``key: text``."""
    return [f"{key}: {text}" for key, text in find_code(config) if text not in _trusted()]


def check_trusted(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration, called ``where``, that would run other code than the package's own configurations.

    Raises:
        InputError: it would, and the user has not said that it is trusted.
    """
    if os.environ.get(TRUST_VARIABLE):
        return
    if found := find_untrusted(config):
        more = f"\n  and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise InputError(
            f"{where} would run code that is not of this package's own configurations:\n  "
            + "\n  ".join(found[:NAMED])
            + f"{more}\nRead it. If you trust whoever wrote it, give --trust (in Python and with MONAI Label: set "
            f"{TRUST_VARIABLE}=1 in the environment)."
        )


def code_options() -> list[str]:
    """The words ``--trust`` and ``--plugin FILE.py`` that this process runs with, for the commands that it prints."""
    return [*(["--trust"] if os.environ.get(TRUST_VARIABLE) else []), *plugin_options()]


def write_trusted(root: Path) -> Path:
    """Write the list anew, from ``configs/`` and ``bundles/*/configs/`` of a clone; returns its path."""
    files = [*(root / "configs").rglob("*.json"), *root.glob("bundles/*/configs/*.json")]
    texts = {text for path in files for _, text in find_code(read_json(path))}
    save_json(sorted(texts), TRUSTED)
    return TRUSTED


@cache
def _trusted() -> frozenset[str]:
    return frozenset(read_json(TRUSTED)) | HARMLESS
