"""`accelerate launch train/` and `python -m train`."""

import os
import sys
import warnings

# `accelerate launch train/` puts train/ itself first on the path, where `from train.cli` would not be found.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from train.cli import main  # noqa: E402

if __name__ == "__main__":  # not in spawned workers
    warnings.filterwarnings("ignore", module="PIL")  # of harmless metadata of photos
    main()
