"""``python -m ezm_lightning.bench``."""

import sys

from ezm_lightning.bench import main

sys.exit(main())
