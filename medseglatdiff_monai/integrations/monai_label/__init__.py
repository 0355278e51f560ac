"""The bundles in MONAI Label: app folder and server, inference and training tasks, active learning.

MONAI Label needs pydicom 2 and numpy 1, so it has an environment of its own (``make label-server``). Only ``tasks``,
``strategy`` and ``app`` import it; drawing, training on its labels and the layout of the folder do without.
"""
