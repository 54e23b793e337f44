"""What a trained algorithm's checkpoint holds."""

from pathlib import Path

from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_LEARNER_GROUP, COMPONENT_RL_MODULE
from ray.rllib.core.rl_module.rl_module import RLModule

from mpdf_rllib.algorithms.debate_settings import POLICY
from mpdf_rllib.envs.debate_session import agent_id
from mpdf_rllib.errors import DataError


def load_module(checkpoint: str | Path, policy: str = POLICY) -> RLModule:
    """A trained RLModule of a checkpoint, policy and reference.

    Args:
        checkpoint: Its folder.
        policy: The one that all agents share, or an agent's id where each has its own.

    Raises:
        DataError: There is none, or it was damaged.
    """
    path = _folder(checkpoint) / policy
    if policy == POLICY and (_folder(checkpoint) / agent_id(0)).exists():
        raise DataError(
            f"{checkpoint}: each agent has a policy of its own there; give one of algorithm.policies: shared"
        )
    try:
        return RLModule.from_checkpoint(path)
    except Exception as error:  # unpickling raises anything
        raise DataError(
            f"{path} holds no policy that can be read ({error}); give a checkpoint, or train anew (--fresh)"
        ) from error


def load_modules(checkpoint: str | Path, agents: int) -> list[RLModule]:
    """The trained RLModules of a checkpoint: the one that all agents share, or each one's own.

    Raises:
        DataError: One is missing, or was damaged.
    """
    if (_folder(checkpoint) / agent_id(0)).exists():
        return [load_module(checkpoint, agent_id(agent)) for agent in range(agents)]
    return [load_module(checkpoint)]


def _folder(checkpoint: str | Path) -> Path:
    return Path(checkpoint).absolute() / COMPONENT_LEARNER_GROUP / COMPONENT_LEARNER / COMPONENT_RL_MODULE
