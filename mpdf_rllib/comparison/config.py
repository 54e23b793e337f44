"""The part of the config that says what the policy is compared with, and on which question sets."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, field_validator

from mpdf_rllib.baselines.system import MAX_AGENTS
from mpdf_rllib.questions.config import QuestionsConfig
from mpdf_rllib.section import Section

MEAN = "mean"
"""What the mean over the sets is called, beside the sets' names."""

Count = Annotated[int, Field(ge=1)]
Agents = Annotated[int, Field(ge=2, le=MAX_AGENTS)]


class PHPConfig(Section):
    """See `mpdf_rllib.baselines.php`."""

    turns: Annotated[int, Field(ge=2)] = 6
    """Answers at most."""


class LLMDebateConfig(Section):
    """See `mpdf_rllib.baselines.llm_debate`."""

    rounds: Count = 2
    """The first answers included [published: 2]."""


class DyLANConfig(Section):
    """See `mpdf_rllib.baselines.dylan`."""

    candidates: Agents = 6
    """Agents that the team is selected from."""
    layers: Count = 3
    """The first answers included [published: 3 in the code, 4 in the paper]."""
    questions: Count = 60
    """Training questions that the team is selected on."""


class GPTSwarmConfig(Section):
    """See `mpdf_rllib.baselines.gptswarm`."""

    agents: Agents = 3
    """Nodes of a graph."""
    iterations: Count = 50
    """Updates of the graph [published: 200 in the paper, 50 in the code]."""
    batch: Count = 4
    """Questions, each with a graph of its own, in an iteration [published: 4]."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Of Adam [published: 0.1]."""


class AgentPruneConfig(Section):
    """See `mpdf_rllib.baselines.agentprune`."""

    agents: Agents = 3
    """Nodes of a graph [published: 4 or 5]."""
    rounds: Annotated[int, Field(ge=2)] = 2
    """Of messages [published: 2 on HumanEval; 1, in which no message crosses rounds, on others]."""
    iterations: Count = 10
    """Before edges are pruned [published: 10]."""
    batch: Count = 4
    """Questions, each with a graph of its own, in an iteration [published: 4]."""
    lr: Annotated[float, Field(gt=0)] = 0.1
    """Of Adam [published: 0.1]."""
    pruned: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the edges that are removed, once."""


class AFlowConfig(Section):
    """See `mpdf_rllib.baselines.aflow`."""

    rounds: Count = 20
    """Workflows to try [published: 20]."""
    validation: Count = 60
    """Training questions to score them on [published: 20 % of the questions]."""


class CompareConfig(Section):
    """What `mpdf_rllib.compare` plays beside the policy, and where."""

    sets: dict[Annotated[str, Field(pattern=r"^\w[\w .-]*$")], QuestionsConfig] = {}
    """Question sets by name, each trained and played on its own, in place of the experiment's questions; of these, each
    source is a set, which one policy is trained for."""
    seeds: Count = 3
    """Of the systems that learn without a policy: 0, 1, ..."""
    token_prices: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)] = [0.0, 0.001, 0.01]
    """Of a generated token in the reward: SoftRankPO is trained with outcome credit at each, for the curve of accuracy
    against tokens."""
    ranker: str | None = None
    """The model that rates solutions for DyLAN; without one their token probabilities do."""
    proposer: str | None = None
    """The model that proposes workflows for AFlow; without one they are enumerated."""
    php: PHPConfig = PHPConfig()
    llm_debate: LLMDebateConfig = LLMDebateConfig()
    dylan: DyLANConfig = DyLANConfig()
    gptswarm: GPTSwarmConfig = GPTSwarmConfig()
    agentprune: AgentPruneConfig = AgentPruneConfig()
    aflow: AFlowConfig = AFlowConfig()

    @field_validator("sets")
    @classmethod
    def _are_no_mean(cls, sets: dict[str, QuestionsConfig]) -> dict[str, QuestionsConfig]:
        if MEAN in sets:
            raise ValueError(f"{MEAN} is what the mean over the sets is called; give the set another name")
        return sets

    def resolved(self, resolved_model: Callable[[str], str]) -> "CompareConfig":
        """The same with the names that its models and files have in any working directory."""
        places: dict[str, Any] = {"sets": {name: questions.resolved() for name, questions in self.sets.items()}}
        for role in ("ranker", "proposer"):
            if model := getattr(self, role):
                places[role] = resolved_model(model)
        return self.model_copy(update=places)

    @property
    def advisors(self) -> list[str]:
        """The distinct models that advise the systems."""
        return list(dict.fromkeys(model for model in (self.ranker, self.proposer) if model is not None))
