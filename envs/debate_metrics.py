"""Debate metrics in RLlib's results."""

import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EVALUATION_RESULTS

from mpdf_rllib.envs.debate import ACTIONS, CONCEDE

VALIDATION_ACCURACY = "validation_accuracy"
VALIDATION_TOKENS = "validation_tokens"


class DebateMetrics(RLlibCallback):
    """Logs means over the debates of each sample under `env_runners/debate/`.

    `accuracy` and `generated_tokens` a debate; `r_local` and `r_global` an agent step; `persist`, `refine` and
    `concede` as shares of all actions, and under `round_1` to `round_T` of those in that round.

    Of an evaluation the accuracy and the generated tokens a debate are also `validation_accuracy` and
    `validation_tokens` of the iteration's result, flat as Tune's schedulers and searchers want a metric.
    """

    def on_sample_end(self, *, metrics_logger, samples, **kwargs) -> None:
        agent_episodes = [agent for episode in samples for agent in episode.agent_episodes.values()]
        infos = [info for agent in agent_episodes for info in agent.get_infos(slice(1, len(agent) + 1))]
        last = [next(iter(episode.agent_episodes.values())).get_infos(-1) for episode in samples]
        actions = np.stack([agent.get_actions() for agent in agent_episodes])  # all debates have T rounds
        means = {
            "accuracy": np.mean([info["correct"] for info in last]),
            "generated_tokens": np.mean([info["generated_tokens"] for info in last]),
            "r_local": np.mean([info["r_local"] for info in infos]),
            "r_global": np.mean([info["r_global"] for info in infos]),
            **_shares(actions),
        }
        metrics_logger.log_dict({name: float(mean) for name, mean in means.items()}, key="debate", window=1)
        for number, of_round in enumerate(actions.T, 1):
            metrics_logger.log_dict(_shares(of_round), key=("debate", f"round_{number}"), window=1)

    def on_train_result(self, *, algorithm, metrics_logger, result, **kwargs) -> None:
        if EVALUATION_RESULTS in result:
            debate = result[EVALUATION_RESULTS][ENV_RUNNER_RESULTS]["debate"]
            result |= {VALIDATION_ACCURACY: debate["accuracy"], VALIDATION_TOKENS: debate["generated_tokens"]}


def _shares(actions: np.ndarray) -> dict[str, float]:
    return {name: float(np.mean(np.minimum(actions, CONCEDE) == action)) for action, name in enumerate(ACTIONS)}
