"""The trained policies of a run, as files that need no RLlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mpdf_rllib import run_folder
from mpdf_rllib.algorithms.meta_policy import MetaPolicyNetwork
from mpdf_rllib.algorithms.policy_files import load_policy, save_policy
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.envs.debate_session import agent_id
from mpdf_rllib.errors import ConfigError


def write_policies(run_path: Path, checkpoints: Mapping[str, Sequence[Path]], agents: int) -> None:
    """Writes the policies of RLlib's checkpoints: by kind of credit, in the order of the seeds.

    Raises:
        ConfigError: The run folder cannot be written.
        DataError: A checkpoint is missing, or was damaged.
    """
    from mpdf_rllib.algorithms.checkpoints import load_modules  # which needs RLlib

    for credit, paths in checkpoints.items():
        for seed, path in enumerate(paths):
            networks = [module.policy for module in load_modules(path, agents)]
            with run_folder.writing(run_path):
                for folder, network in zip(_folders(run_path, credit, seed, len(networks)), networks, strict=True):
                    save_policy(folder, network)


def read_policy(run_path: Path, credit: CreditKind | None = None, seed: int = 0) -> list[MetaPolicyNetwork]:
    """A trained policy: the network that all agents share, or each agent's own.

    Args:
        run_path: The run folder.
        credit: Its kind of credit, by default the first.
        seed: Its seed.

    Raises:
        ConfigError: The run has no such kind of credit or seed.
        DataError: Training is not finished, or a file was damaged.
    """
    return [load_policy(folder) for folder in policy_folders(run_path, credit, seed)]


def policy_folders(run_path: Path, credit: CreditKind | None = None, seed: int = 0) -> list[Path]:
    """Where it lies, in one folder or in one for each agent; see `read_policy`."""
    trained = run_folder.read_checkpoints(run_path)
    credit = credit or next(iter(trained))
    if credit not in trained:
        raise ConfigError(f"credit: {run_path} trained none with {credit}; give one of {', '.join(trained)}")
    if seed not in range(len(trained[credit])):
        raise ConfigError(f"seed: {run_path} has no seed {seed}; give one of 0 to {len(trained[credit]) - 1}")
    own = len([*_folders(run_path, credit, seed, 1)[0].glob("agent_*")])
    return _folders(run_path, credit, seed, max(own, 1))


def _folders(run_path: Path, credit: str, seed: int, policies: int) -> list[Path]:
    """Of the policy that all agents share, or of each agent's own."""
    folder = run_path / run_folder.POLICIES / f"{credit}-seed{seed}"
    return [folder] if policies == 1 else [folder / agent_id(agent) for agent in range(policies)]
