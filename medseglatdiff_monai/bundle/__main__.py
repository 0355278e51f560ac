"""For developers: ``python -m medseglatdiff_monai.bundle`` rebuilds the bundles' stage files from ``configs/``."""

from .build import build_all

if __name__ == "__main__":
    build_all()
