"""The config of an experiment: one schema that all commands read, and tuned_examples/ are written in."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from mpdf_rllib.baselines.system import Advisor
from mpdf_rllib.comparison.config import CompareConfig
from mpdf_rllib.engine import Engine, RecordingEngine
from mpdf_rllib.engine.config import EngineConfig, VLLMConfig
from mpdf_rllib.engine.model_router import ModelRouter
from mpdf_rllib.engine.time_limit import TimeLimitedEngine
from mpdf_rllib.envs.credit import CreditKind, Term
from mpdf_rllib.envs.debate_batch import Answer, Concede, Rules
from mpdf_rllib.envs.features import DEBATE_FEATURES, FeatureTable, entries_of, solution_table
from mpdf_rllib.envs.team import Agent, Refiner, Team
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.prompts import resolved_prompts
from mpdf_rllib.questions import Kind, Question, Split
from mpdf_rllib.questions.config import QuestionsConfig
from mpdf_rllib.section import Section
from mpdf_rllib.sweep_config import SweepConfig, settings_of

MAX_SOLUTIONS = 4096
"""Of a question: what a recording can hold of trees that widen with every refinement."""


Prompting = Literal["auto", "chat", "completion"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]


class AgentConfig(Section):
    """What is an agent's own; all else is as the team has it."""

    model: str | None = None
    """A built-in model, a local folder, or a hub id, as of the team."""
    prompt: Prompting | None = None
    """How its prompts are rendered, as of the team."""
    prompts: str | None = None
    """Packaged prompts, or the path of a .yaml file like them, in place of the questions' own."""
    persona: str = ""
    """Opens the prompts of its answers and refinements."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """How many of the prompts' examples it is shown; all by default."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """Of its sampling, as of the team."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of its sampling, as of the team."""

    def resolved(self, resolved_model: Callable[[str], str]) -> "AgentConfig":
        """The same with the names that its model and prompts have in any working directory."""
        places: dict[str, str] = {}
        if self.model is not None:
            places["model"] = resolved_model(self.model)
        if self.prompts is not None:
            places["prompts"] = resolved_prompts(self.prompts)
        return self.model_copy(update=places)


class TeamConfig(Section):
    """Who debates, and how."""

    model: str = "smollm2-135m-instruct"
    """The packaged model, "smollm2-135m-arithmetic", which is made of it, a local folder in Hugging Face's layout, or a
    hub id."""
    agents: Annotated[
        Annotated[int, Field(ge=2, le=16), Tag("number")]
        | Annotated[list[AgentConfig], Field(min_length=2, max_length=16), Tag("list")],
        Discriminator(lambda agents: "list" if isinstance(agents, list) else "number"),
    ] = 3
    """How many, N, that are alike [paper: 3], or each of them."""
    rounds: Annotated[int, Field(ge=1, le=8)] = 3
    """T [paper: 3]; the best of 3^T fixed schedules is searched for."""
    prompt: Prompting = "auto"
    """Chat turns, plain text to complete, or chat where the model's tokenizer has a chat template."""
    critic: bool = True
    """Whether the model also judges each solution, as the paper's introspective confidence."""
    self_report: bool = False
    """Whether the model also reports on its reasoning, in one JSON object with its answer, as the paper's reasoning
    profile; it is measured from the text in either case."""
    peer_likelihood: bool = False
    """Whether each solution is also scored by all other agents, as their own first answer; how likely they find it is a
    part of the state [ours]."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Of sampling; at 0 the most probable token is taken."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of sampling: the share of the probability that the tokens to draw from have together."""
    concede: Concede = "most_confident"
    """Whom an agent may concede to: the most confident peer with another answer, or each such peer, an action each."""
    answer: Answer = "plurality"
    """What the team answers: as most agents do in the end, or as the most confident solution of the whole debate; what
    an action brings to it is a part of step credit."""
    refine_samples: Annotated[int, Field(ge=1)] = 1
    """Refinements of a solution by one agent; the reward of Refine is their mean, the one it gets is drawn."""
    refiner: Refiner = "author"
    """Whose model and prompt refine a solution that was conceded to: its author's, or the agent's own."""

    @model_validator(mode="after")
    def _can_be_recorded(self) -> "TeamConfig":
        if self.solutions > MAX_SOLUTIONS:
            raise ValueError(
                f"a question would have {self.solutions:,} solutions to record, more than {MAX_SOLUTIONS:,}; "
                "lower team.rounds, agents or refine_samples, or let the author refine"
            )
        return self

    @model_validator(mode="after")
    def _is_likely_for_what_it_says(self) -> "TeamConfig":
        if self.peer_likelihood and self.self_report:
            raise ValueError(
                "peer_likelihood: how likely a JSON object is says little of the report in it; leave self_report out"
            )
        return self

    def resolved(self, resolved_model: Callable[[str], str]) -> "TeamConfig":
        """The same with the names that its models and files have in any working directory."""
        places: dict[str, Any] = {"model": resolved_model(self.model)}
        if not isinstance(self.agents, int):
            places["agents"] = [agent.resolved(resolved_model) for agent in self.agents]
        return self.model_copy(update=places)

    @property
    def solutions(self) -> int:
        """Solutions in a question's tree, which holds every debate about it."""
        below = self.refine_samples * (self.size if self.refiner == "actor" else 1)
        return self.size * sum(below**depth for depth in range(self.rounds + 1))

    @property
    def rules(self) -> Rules:
        """Of its debates."""
        return Rules(self.concede, self.answer)

    def table(self, kinds: Collection[Kind]) -> FeatureTable:
        """The features of a solution to questions of such kinds."""
        return solution_table(kinds, self.self_report, self.members, self.peer_likelihood)

    @property
    def size(self) -> int:
        """N."""
        return len(self.members)

    @property
    def members(self) -> list[AgentConfig]:
        """The N agents with what they have of the team."""
        own = [AgentConfig()] * self.agents if isinstance(self.agents, int) else self.agents
        of_team = self.model_dump(include={"model", "prompt", "temperature", "top_p"})
        return [AgentConfig(**of_team | agent.model_dump(exclude_none=True)) for agent in own]

    @property
    def models(self) -> list[str]:
        """The distinct models of its agents."""
        return list(dict.fromkeys(str(agent.model) for agent in self.members))


class RecordConfig(Section):
    """How the recording is shared out; see `mpdf_rllib.recording_pipeline`."""

    workers: Annotated[int, Field(ge=0)] = 0
    """Ray actors that record, each with its own engine where engine.kind is vllm, else all on the shared one; 0: the
    command's own process does."""
    cpus_per_worker: Annotated[float, Field(ge=0)] = 1
    """CPUs of Ray's that each of them reserves."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """By default what the engine of one takes: of vLLM engine.args.tensor_parallel_size, where there are GPUs."""


class CreditConfig(Section):
    """How the rewards that one SoftRankPO variant ranks are made; see `mpdf_rllib.envs.credit`."""

    token_price: Annotated[float, Field(ge=0)] = 0.0
    """What a generated token takes off the reward [ours; not in the paper]."""
    tie_tolerance: Annotated[float, Field(ge=0)] = 0.0
    """Rewards within it of a state's best count as tied with it [ours; not in the paper]."""
    terms: Annotated[list[Term], Field(min_length=1)] = [*get_args(Term)]
    """Of step credit, which are summed: r_local, r_global, or both [paper]."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Multiplies the reward, for studies [paper]. As noise and outliers do, it concerns both stages."""
    noise: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviation of normal noise in each reward, for studies [ours]."""
    outliers: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a reward has 10 added or taken off, for studies [ours]."""


class AlgorithmSection(Section):
    """SoftRankPO; see `mpdf_rllib.algorithms.softrankpo.SoftRankPOConfig`."""

    credits: Annotated[dict[CreditKind, CreditConfig], Field(min_length=1)] = {"step": CreditConfig()}
    """The variants to train, by kind of credit."""
    tau: Annotated[float, Field(gt=0)] = 0.5
    """Temperature of the ranks [paper: 0.5]."""
    beta: Annotated[float, Field(gt=0)] = 0.3
    """The larger, the closer the policy stays to the warm start [ours]."""
    advantages: Literal["ranks", "rewards"] = "ranks"
    """What stage two learns from: ranks [paper's Eq. 2], or centred rewards, as Eq. 4 is printed."""
    objective: Literal["rank_matching", "log_policy"] = "rank_matching"
    """Of stage two: Eq. 4 on advantages [ours], or Eq. 3 as printed [paper]."""
    entropy_coeff: Annotated[float, Field(ge=0)] = 0.0
    """What a nat of the policy's entropy is worth in stage two, lambda of Eq. 3 [ours: 0]."""
    policies: Literal["shared", "per_agent"] = "shared"
    """Whether all agents share one set of weights [paper], or each has its own [ours]."""
    env_runners: Annotated[int, Field(ge=0)] = 0
    """RLlib's remote env runners, which share the debates out; 0: they are held where the policy learns."""
    static_corpus: bool = False
    """Whether stage two learns from the debates of its first iteration alone [paper]."""
    warm_start_iterations: Annotated[int, Field(ge=0)] = 2
    """Of stage one, which imitates the best actions of uniformly random debates."""
    iterations: Annotated[int, Field(ge=1)] = 6
    """Of stage two."""
    passes: Annotated[int, Field(ge=1)] = 1
    """Debates a training question in each iteration."""
    epochs: Annotated[int, Field(ge=1)] = 5
    """Passes over an iteration's debates."""
    minibatch_size: Annotated[int, Field(ge=1)] = 256
    """Agent steps."""
    lr: Annotated[float, Field(gt=0)] = 2e-3
    """AdamW's learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """AdamW's."""
    left_out: list[str] = []
    """Entries of z, or whole parts of it, that the policy does not see; see `mpdf_rllib.envs.features`."""
    dim: Annotated[int, Field(ge=2)] = 48
    """Width of the policy network."""
    heads: Annotated[int, Field(ge=1)] = 2
    """Of its attention; divides `dim`."""
    network: Literal["attention", "mean", "linear"] = "attention"
    """How the policy hears its peers: cross-attention [paper], their mean, or a linear policy on it [ours]."""

    @field_validator("heads")
    @classmethod
    def _divides_dim(cls, heads: int, info: ValidationInfo) -> int:
        if info.data.get("dim", heads) % heads:
            raise ValueError(f"it does not divide algorithm.dim, {info.data['dim']}")
        return heads


def _check_left_out(algorithm: AlgorithmSection, team: TeamConfig, questions: QuestionsConfig, where: str = "") -> None:
    try:
        entries_of(algorithm.left_out, team.table({kind for _, kind in questions.prompts}) + DEBATE_FEATURES)
    except ConfigError as error:
        raise ValueError(f"{where}{error}") from error


class ExperimentConfig(Section):
    """One experiment."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    """Of the experiment, and of its folders unless they are given."""
    run_folder: str | None = None
    """Where the run's files go; runs/NAME by default."""
    recording: str | None = None
    """Folder, or fsspec URL, of the recorded generations; recordings/NAME by default. Experiments may share one."""
    seeds: Annotated[int, Field(ge=1)] = 5
    """Trials a variant, with seeds 0, 1, ..."""
    questions: QuestionsConfig
    team: TeamConfig = TeamConfig()
    engine: EngineConfig = VLLMConfig()
    live: bool = False
    """Whether debates ask the engine while the policy learns, and record what they are answered, in place of recording
    all that training debates could ask for before."""
    record: RecordConfig = RecordConfig()
    algorithm: AlgorithmSection = AlgorithmSection()
    sweep: SweepConfig | None = None
    """Settings of the algorithm to compare before one is trained; see `mpdf_rllib.sweep`."""
    tracking: list[Tracker] = ["tensorboard"]
    """Where training is logged beside each trial's result.json and progress.csv: tensorboard, in the trials' folders,
    wandb and mlflow; see `mpdf_rllib.tracking`."""
    compare: CompareConfig = CompareConfig()
    """What `mpdf_rllib.compare` plays beside the policy; other commands do not look at it."""

    @field_validator("engine")
    @classmethod
    def _scores_what_it_is_asked(cls, engine: EngineConfig, info: ValidationInfo) -> EngineConfig:
        team, served = info.data.get("team"), engine.kind in ("serve", "endpoint")
        if served and team and team.peer_likelihood and any(agent.prompt != "completion" for agent in team.members):
            raise ValueError(
                "servers score completions, not chat turns: set team.prompt to completion, or leave "
                "team.peer_likelihood out"
            )
        return engine

    @field_validator("sweep")
    @classmethod
    def _comes_to_settings(cls, sweep: SweepConfig | None, info: ValidationInfo) -> SweepConfig | None:
        if sweep and info.data.get("live"):
            raise ValueError("settings are compared on recorded debates: leave live out, or the sweep")
        if sweep and "algorithm" in info.data:
            for setting in settings_of(info.data["algorithm"], sweep).values():
                if {"questions", "team"} <= info.data.keys():
                    _check_left_out(setting, info.data["team"], info.data["questions"], "space.")
        return sweep

    @field_validator("algorithm")
    @classmethod
    def _can_be_live(cls, algorithm: AlgorithmSection, info: ValidationInfo) -> AlgorithmSection:
        if info.data.get("live") and "outcome" in algorithm.credits:
            raise ValueError("outcome credit is calibrated on recorded solutions: leave live out, or credits.outcome")
        return algorithm

    @field_validator("algorithm")
    @classmethod
    def _leaves_out_what_there_is(cls, algorithm: AlgorithmSection, info: ValidationInfo) -> AlgorithmSection:
        if {"questions", "team"} <= info.data.keys():
            _check_left_out(algorithm, info.data["team"], info.data["questions"])
        return algorithm

    @field_validator("compare")
    @classmethod
    def _leaves_out_what_there_is_in_all_sets(cls, compare: CompareConfig, info: ValidationInfo) -> CompareConfig:
        if {"algorithm", "team"} <= info.data.keys():
            for name, questions in compare.sets.items():
                _check_left_out(info.data["algorithm"], info.data["team"], questions, f"set {name}: ")
        return compare

    @field_validator("run_folder")
    @classmethod
    def _is_local(cls, run_folder: str | None) -> str | None:
        if run_folder and "://" in run_folder:
            raise ValueError("a run folder is a local folder; only the recording may be a URL")
        return run_folder

    @property
    def run_path(self) -> Path:
        """Absolute path of the run folder."""
        return Path(self.run_folder or f"runs/{self.name}").expanduser().absolute()

    @property
    def recording_url(self) -> str:
        """The recording's folder, absolute where it is local, or its URL."""
        recording = self.recording or f"recordings/{self.name}"
        return recording if "://" in recording else str(Path(recording).expanduser().absolute())

    def resolved(self) -> "ExperimentConfig":
        """The same with all places as absolute paths: trials run in other working directories."""
        places = {
            "run_folder": str(self.run_path),
            "recording": self.recording_url,
            "questions": self.questions.resolved(),
            "team": self.team.resolved(self.engine.resolved_model),
            "compare": self.compare.resolved(self.engine.resolved_model),
        }
        return self.model_copy(update=places)

    def questions_of(self, split: Split) -> list[Question]:
        """The questions of a split.

        Raises:
            ConfigError: More are asked for than there are.
            DataError: Their files cannot be used; names all rows.
        """
        return self.questions.of(split, self.agent_prompts)

    def number_of(self, split: Split) -> int:
        """How many questions a split has, without reading them where the config says it.

        Raises:
            DataError: Their files cannot be used.
        """
        given = self.questions.train if split == "train" else self.questions.test
        return len(self.questions_of(split)) if given is None else given

    @property
    def agent_prompts(self) -> list[str]:
        """What agents are asked with in place of the questions' own prompts."""
        return [agent.prompts for agent in self.team.members if agent.prompts]

    def make_team(self) -> Team:
        """The team.

        Raises:
            ConfigError: The model cannot be found.
        """
        agents = tuple(
            Agent(chat=self._renders_chat(agent), **agent.model_dump(exclude={"prompt"})) for agent in self.team.members
        )
        return Team(agents, **self.team.model_dump(exclude={"model", "prompt", "agents", "temperature", "top_p"}))

    @property
    def feature_table(self) -> FeatureTable:
        """The features of a solution."""
        return self.team.table({kind for _, kind in self.questions.prompts})

    @property
    def serving_cpus(self) -> int:
        """CPUs of Ray's that the models take beside those of the processes that ask."""
        return self.engine.serving_cpus * len(self.team.models)

    def advisor(self, model: str | None) -> Advisor | None:
        """What advises the systems to compare; it is asked in chat turns where the team is, as its `prompt` says."""
        asked_as = AgentConfig(model=model, prompt=self.team.prompt)
        return None if model is None else Advisor(model, self._renders_chat(asked_as))

    def _renders_chat(self, agent: AgentConfig) -> bool:
        return agent.prompt == "chat" or (agent.prompt == "auto" and self.engine.renders_chat(str(agent.model)))

    def make_engine(self, replay_only: bool = False) -> RecordingEngine:
        """An engine that replays the recording, and records what it has to make unless it is to replay only."""
        return self.make_recording(None if replay_only else self.make_inner_engine)

    def make_comparing_engine(self) -> RecordingEngine:
        """An engine as `make_engine`, with the models that advise the systems to compare beside the team's."""
        models = list(dict.fromkeys([*self.team.models, *self.compare.advisors]))
        return self.make_recording(partial(self._make_router, models), models=models)

    def make_recording(
        self, make_inner: Callable[[], Engine] | None, shard: tuple[int, int] = (0, 1), models: Sequence[str] = ()
    ) -> RecordingEngine:
        """The recording, or a shard of it, with what makes the engine for that which is missing.

        Args:
            make_inner: Makes the engine; None to replay only.
            shard: (index, number of shards).
            models: That may be asked; the team's by default.
        """
        fingerprints = {model: self.engine.fingerprint(model) for model in models or self.team.models}
        return RecordingEngine(self.recording_url, fingerprints, make_inner, shard=shard)

    def make_inner_engine(self) -> Engine:
        """What runs the team's models, each in an engine of its own."""
        return self._make_router(self.team.models)

    def _make_router(self, models: Sequence[str]) -> Engine:
        def make(model: str) -> Engine:
            return TimeLimitedEngine(self.engine.make(model, len(models)), self.engine.timeout_s)

        return ModelRouter({model: partial(make, model) for model in models})

    def env_config(self, split: Split = "train", credit: CreditKind = "step") -> dict[str, Any]:
        """The config of a `DeliberationEnv` on the questions of a split."""
        return {
            "questions": partial(self.questions_of, split),
            "team": self.make_team(),
            "engine": self.make_engine,
            "credit": credit,
            **self.algorithm.credits.get(credit, CreditConfig()).model_dump(),
        }

    def to_yaml(self) -> str:
        """The resolved config: defaults and absolute paths filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
