"""The tests mirror the package.

Checks of annotations, which pytest adds to ``ops`` and ``search``, look at a random entry of a list. They draw from a
generator of their own: runs are compared to the bit, Python's random state among the rest.
"""

import random

from beartype._check.code import codemain

codemain.getrandbits = random.Random(0).getrandbits
