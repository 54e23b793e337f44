"""The settings of SoftRankPO."""

import difflib
from functools import partial
from numbers import Integral, Real
from typing import Any, Literal

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override

from mpdf_rllib.algorithms.debate_settings import set_up_for_debates
from mpdf_rllib.algorithms.meta_policy_rl_module import MetaPolicyRLModule
from mpdf_rllib.algorithms.softrankpo.losses import OBJECTIVES
from mpdf_rllib.algorithms.softrankpo.soft_rank import centred_rewards, soft_rank_advantages
from mpdf_rllib.algorithms.softrankpo.softrankpo_connector import ActionAdvantages, Advantages, ReferenceLogits
from mpdf_rllib.algorithms.softrankpo.softrankpo_torch_learner import SoftRankPOTorchLearner


class SoftRankPOConfig(AlgorithmConfig):
    """Configures SoftRankPO for a `DeliberationEnv`."""

    def __init__(self, algo_class=None):
        from mpdf_rllib.algorithms.softrankpo.softrankpo import SoftRankPO  # which needs this module

        super().__init__(algo_class=algo_class or SoftRankPO)
        self.tau = 0.5
        self.advantages = "ranks"
        self.beta = 0.3
        self.entropy_coeff = 0.0
        self.objective = "rank_matching"
        self.static_corpus = False
        self.warm_start_iterations = 2
        self.weight_decay = 1e-3

        self.lr = 2e-3
        self.num_epochs = 5
        self.minibatch_size = 256
        self.shuffle_batch_per_epoch = True
        set_up_for_debates(self)

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        tau: float = NotProvided,
        advantages: Literal["ranks", "rewards"] = NotProvided,
        beta: float = NotProvided,
        entropy_coeff: float = NotProvided,
        objective: Literal["rank_matching", "log_policy"] = NotProvided,
        static_corpus: bool = NotProvided,
        warm_start_iterations: int = NotProvided,
        weight_decay: float = NotProvided,
        **kwargs,
    ) -> "SoftRankPOConfig":
        """Sets the training parameters.

        Args:
            tau: Positive; the temperature of the ranks, 0.5 [paper].
            advantages: What stage two learns from: "ranks" [paper's Eq. 2], or "rewards", centred over the legal
                actions, as Eq. 4 is printed; neither scale-free nor bounded.
            beta: Positive; the larger, the closer the policy stays to its reference [ours: 0.3]. It scales the
                log-ratios in rank matching and the KL in Eq. 3.
            entropy_coeff: At least 0; lambda of Eq. 3, what a nat of entropy is worth in stage two [ours: 0].
            objective: Of stage two; see `losses`. "rank_matching", the default [ours], is Eq. 4 on advantages and has a
                minimum; "log_policy" is Eq. 3 as printed [paper] and has none.
            static_corpus: Whether stage two learns from the debates of its first iteration alone, which follow pi_sft
                [paper]; by default it holds new ones in each [ours]. Their rewards stay as they were: outcome credit
                goes on following pi_sft.
            warm_start_iterations: At least 0 [ours: 2]; iterations of stage one, cross-entropy on the best actions
                [paper] of uniform debates [ours]. The policy at their end is the frozen reference of stage two [paper].
            weight_decay: AdamW's, at least 0.
            **kwargs: RLlib's own. `train_batch_size_per_learner` counts env steps, N agent steps each.
        """
        super().training(**kwargs)
        own = {
            "tau": tau,
            "advantages": advantages,
            "beta": beta,
            "entropy_coeff": entropy_coeff,
            "objective": objective,
            "static_corpus": static_corpus,
            "warm_start_iterations": warm_start_iterations,
            "weight_decay": weight_decay,
        }
        for name, value in own.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @override(AlgorithmConfig)
    def validate(self) -> None:
        super().validate()
        self._refuse_unknown_settings()
        for name in ("tau", "beta"):
            value = getattr(self, name, 1)  # GRPO has no tau
            if not (isinstance(value, Real) and float(value) > 0):
                self._value_error(f"{name} is {value!r}; it must be a positive number")
        if getattr(self, "advantages", "ranks") not in ("ranks", "rewards"):
            self._value_error(f"advantages is {self.advantages!r}; it must be ranks or rewards")
        if self.objective not in OBJECTIVES:
            self._value_error(f"objective is {self.objective!r}; it must be one of {', '.join(OBJECTIVES)}")
        for name, kind in (("entropy_coeff", Real), ("warm_start_iterations", Integral), ("weight_decay", Real)):
            value = getattr(self, name)
            if not (isinstance(value, kind) and float(value) >= 0):
                number = "an integer" if kind is Integral else "a number"
                self._value_error(f"{name} is {value!r}; it must be {number} of at least 0")
        if not isinstance(self.static_corpus, bool):
            self._value_error(f"static_corpus is {self.static_corpus!r}; it must be True or False")
        if self.batch_mode != "complete_episodes":
            self._value_error(f"batch_mode is {self.batch_mode!r}; SoftRankPO learns from 'complete_episodes'")

    def _refuse_unknown_settings(self) -> None:
        """Refuses what RLlib lets through where settings come as a dict, as Tune's do, or are assigned."""
        known = vars(type(self)()).keys()
        for name in sorted(vars(self).keys() - known - {"class"}):  # RLlib's own addition
            if name.startswith("__"):  # Tune's own, such as __trial_info__
                continue
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            self._value_error(f"{name}: unknown setting of {type(self).__name__}{hint}")

    def action_advantages(self) -> Advantages:
        """How a state's reward vector becomes its advantages."""
        return centred_rewards if self.advantages == "rewards" else partial(soft_rank_advantages, tau=self.tau)

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=MetaPolicyRLModule)

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        return {"dim": 48, "heads": 2, "network": "attention", "left_out": ()}

    @override(AlgorithmConfig)
    def get_default_learner_class(self):
        return SoftRankPOTorchLearner

    @override(AlgorithmConfig)
    def build_learner_connector(self, input_observation_space, input_action_space, device=None):
        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device)
        pipeline.insert_after("AddColumnsFromEpisodesToTrainBatch", ActionAdvantages(self.action_advantages()))
        pipeline.append(ReferenceLogits())
        return pipeline
