"""What a trained algorithm's checkpoint holds."""

from pathlib import Path

from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModule

from mpdf_rllib.algorithms.debate_settings import POLICY
from mpdf_rllib.errors import DataError


def load_module(checkpoint: str | Path) -> RLModule:
    """The trained RLModule of a checkpoint, policy and reference.

    Raises:
        DataError: There is none, or it was damaged.
    """
    path = Path(checkpoint).absolute() / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE / POLICY
    try:
        return RLModule.from_checkpoint(path)
    except Exception as error:  # unpickling raises anything
        raise DataError(
            f"{path} holds no policy that can be read ({error}); give a checkpoint, or train anew (--fresh)"
        ) from error
