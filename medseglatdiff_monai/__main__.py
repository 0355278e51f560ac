"""``python -m medseglatdiff_monai`` is the console script ``medseglatdiff``."""

from .cli import main

if __name__ == "__main__":
    main()
