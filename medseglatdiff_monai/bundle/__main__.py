"""For developers: ``python -m medseglatdiff_monai.bundle`` rebuilds the bundles' stage files from ``configs/``."""

from .build import build_bundle
from .config import configs_dir
from .trust import write_trusted

if __name__ == "__main__":
    for path in sorted((configs_dir() / "bundles").glob("*.json")):
        build_bundle(path.stem)
        print(f"Built: {path.stem}")
    write_trusted(configs_dir().parent)
