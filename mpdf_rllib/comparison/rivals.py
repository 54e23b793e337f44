"""What SoftRankPO is compared with among policies: PPO and GRPO, and itself at several prices of a token."""

from collections.abc import Iterator
from pathlib import Path

from mpdf_rllib import run_folder
from mpdf_rllib.config import CreditConfig, ExperimentConfig
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.learners import GROUP_RELATIVE, Learner, at_prices, proximal, replaying
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.sweep_config import settings_of
from mpdf_rllib.trials import Settings, run_trials

TIE_TOLERANCE = 0.1
"""Of outcome credit at a price, where the experiment has none: ranks discard magnitude, so that without it any price
would decide every tie."""

Checkpoints = dict[str, list[Path]]
"""By name, in the order of the seeds."""


def train_rivals(config: ExperimentConfig, trees: RecordedTrees) -> Checkpoints:
    """Trains what is not trained yet of "PPO", "GRPO" and the prices but the experiment's own, by these names.

    All have the experiment's seeds, replay the same debates with the same network, and make the same number of updates;
    PPO begins with the references of `reference_credit`, and GRPO's own warm start comes to the same.

    Raises:
        ConfigError: The run folder cannot be written.
        DataError: The experiment's own policies are not trained.
        EngineError: A trial failed.
    """
    trained = run_folder.read_rivals(config.run_path)
    env_config = None
    for learner, settings in _rivals(config):
        if settings.keys() <= trained.keys():
            continue
        env_config = env_config or replaying(config, trees.train)
        trials = run_trials(config, settings, env_config, learner=learner)
        trained |= {name: [Path(trial.checkpoint.path) for trial in of_name] for name, of_name in trials.items()}
        run_folder.write_rivals(config.run_path, trained)
    return trained


def reference_credit(config: ExperimentConfig) -> CreditKind:
    """Of the SoftRankPO that all are compared with, of GRPO and PPO: the paper's, where the experiment has it."""
    return "step" if "step" in config.algorithm.credits else "outcome"


def _rivals(config: ExperimentConfig) -> Iterator[tuple[Learner, Settings]]:
    kind = reference_credit(config)
    setting = settings_of(config.algorithm, None)[kind]
    warm_starts = run_folder.read_checkpoints(config.run_path)[kind]
    yield proximal(warm_starts.__getitem__), {"PPO": setting}
    yield GROUP_RELATIVE, {"GRPO": setting}
    algorithm, own = config.algorithm, config.algorithm.credits.get("outcome")
    settings = {
        name: algorithm.model_copy(update={"credits": {"outcome": credit}})
        for name, credit in credits_by_price(config).items()
        if credit != own
    }
    if settings:
        yield at_prices(settings), settings


def credits_by_price(config: ExperimentConfig) -> dict[str, CreditConfig]:
    """Outcome credit at each price of a token, ascending, by name; the experiment's own may be among them."""
    own = config.algorithm.credits.get("outcome")
    tolerance = own.tie_tolerance if own else TIE_TOLERANCE
    return {
        f"{price:.12g}": CreditConfig(token_price=price, tie_tolerance=tolerance)
        for price in sorted(config.compare.token_prices)
    }
