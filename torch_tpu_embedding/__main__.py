"""`python -m torch_tpu_embedding`, which is the command `torch-tpu-embedding`."""

from __future__ import annotations

import sys

from .command.main import main

if __name__ == "__main__":
    sys.exit(main())
