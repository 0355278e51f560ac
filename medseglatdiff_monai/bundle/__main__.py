"""For developers: ``python -m medseglatdiff_monai.bundle`` rebuilds the bundles' stage files from ``configs/``.

It also names the SHA-256 of each bundle's weights in its metadata.
"""

from .build import build_bundle, record_digest
from .config import bundles_dir, configs_dir
from .trust import write_trusted

if __name__ == "__main__":
    for path in sorted((configs_dir() / "bundles").glob("*.json")):
        build_bundle(path.stem)
        record_digest(bundles_dir() / path.stem)
        print(f"Built: {path.stem}")
    write_trusted(configs_dir().parent)
