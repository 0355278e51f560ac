"""``python -m medseglatdiff_monai.integrations.monai_label STUDIES``: starts MONAI Label, see ``server.start``."""

import sys

import fire

from ...errors import InputError
from .server import start

try:
    fire.Fire(start, name="python -m medseglatdiff_monai.integrations.monai_label")
except InputError as error:
    sys.exit(f"label server: {error}")
