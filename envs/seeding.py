"""Random draws that follow from a seed and from what was done so far, whether or not a process was restarted since."""

from collections.abc import Sequence

import numpy as np
from ray.rllib.utils.debug import update_global_seed_if_necessary


def seed_draws(entropy: Sequence[int]) -> None:
    """Seeds the process's generators of Python, NumPy and PyTorch, from which RLlib draws actions and minibatches.

    Args:
        entropy: Integers, at least 0; each sequence gives other draws.
    """
    update_global_seed_if_necessary("torch", int(np.random.SeedSequence(entropy).generate_state(1)[0]))
