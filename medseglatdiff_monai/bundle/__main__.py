"""For maintainers: ``python -m medseglatdiff_monai.bundle`` rebuilds a clone's bundles from its ``configs/``.

It also names the SHA-256 of each bundle's weights in its metadata.
"""

import sys

from .build import build_bundle, record_digest
from .folders import bundles_dir, configs_dir, in_clone
from .trust import write_trusted

if __name__ == "__main__":
    if not in_clone():
        sys.exit("This is for maintainers: it rebuilds the bundles of a clone of the repository, and this is no clone.")
    for path in sorted((configs_dir() / "bundles").glob("*.json")):
        build_bundle(path.stem)
        record_digest(bundles_dir() / path.stem)
        print(f"Built: {path.stem}")
    write_trusted(configs_dir().parent)
