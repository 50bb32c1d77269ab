"""What a task gives the training: tokens, and the answers that count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSCORED = -100  # target of a position that does not count, as cross_entropy has it
Tokens = NDArray[np.int64]
