"""The kind of array that a struct holds.

`Prompts` has arrays on devices, and `Prompts[np.ndarray]` has the same arrays
on the host. In a compiled function, both are a `jax.Array`.
"""

import jax
import numpy as np
from typing_extensions import TypeVar

Array = TypeVar('Array', jax.Array, np.ndarray, default=jax.Array)
