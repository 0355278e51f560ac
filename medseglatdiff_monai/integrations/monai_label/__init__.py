"""The bundles in MONAI Label: app folder and server, inference and training tasks, active learning.

MONAI Label needs pydicom 2 and numpy 1, so it has its own environment (``make label-server``). Only ``tasks``,
``strategy`` and ``app`` import it; sampling, training on its labels and the layout of the folder do without.
"""
