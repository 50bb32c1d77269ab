"""Types that probe tasks and their training share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSCORED = -100  # target of a position that does not count: the default `ignore_index` of cross_entropy
Tokens = NDArray[np.int64]
