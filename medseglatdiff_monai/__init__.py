"""Segmentation of medical images as a distribution of masks: MedSegLatDiff (arXiv 2512.01292) on MONAI."""

__version__ = "0.1.0"
