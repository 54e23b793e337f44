"""The debate as an RLlib multi-agent env."""

import inspect
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete
from ray.rllib.env.env_context import EnvContext
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from mpdf_rllib.engine.recording_files import owner
from mpdf_rllib.envs.debate_session import DebateSession
from mpdf_rllib.envs.features import DEBATE_FEATURES, bounds
from mpdf_rllib.errors import ConfigError


class DeliberationEnv(MultiAgentEnv):
    """N language-model agents debate a question for T rounds; in each, all act at once: Persist, Refine or Concede.

    The language models are a part of the env, and frozen. What is learned is when to keep a solution, when to have it
    revised and when to adopt a peer's. The team's answer is the plurality's, or with `team.answer` "most_confident"
    that of the most confident solution of the debate, whether an agent holds it or has left it [ours].

    ## Import

        import gymnasium
        import mpdf_rllib.envs

        env = gymnasium.make("mpdf_rllib/Deliberation-v0", config=config)

    RLlib knows it by that name and as "deliberation"; `DeliberationParallelEnv` is its view for PettingZoo.

    ## Agents

    "agent_0" to "agent_{N-1}", all present from the reset to the last round. N is the number of `team.agents`, T
    `team.rounds`.

    ## Action space

    Discrete(K) for every agent. All act on what stood at the start of the round.

    | action | name | effect |
    | --- | --- | --- |
    | 0 | Persist | keeps the solution |
    | 1 | Refine | has the model revise it |
    | 2 | Concede | adopts the solution of the most confident peer with another answer, the lowest of equals [ours] |

    So K = 3 with `team.concede` "most_confident". With "each", K = 2 + N - 1, and action 2 + j adopts the solution of
    the j-th peer, in the order of `peers` below.

    `team.refiner` says who revises a solution that was conceded to: its "author", with the author's prompt and model,
    or the "actor", the agent that holds it now, with its own.

    ## Action mask

    The entry `action_mask` of an observation is 1 for legal actions and 0 for the others: Refine where the chain of T
    refinements is at its end, Concede where no peer has another answer. Persist is always legal. A masked action
    raises ValueError and leaves the debate as it was; so does one that is no integer, and one for too many or too few
    agents.

    ## Observation space

    A Dict for every agent, all float32. D = 19: where answers are numbers and agents are alike; choices, agents that
    differ, models that report on their reasoning and peers that score each other have other and more entries
    (`features.solution_table`).

    | entry | shape | meaning |
    | --- | --- | --- |
    | `own` | (D,) | the agent's meta-cognitive state z |
    | `peers` | (N - 1, D) | the others' z, in the order of their indices |
    | `peer_mask` | (N - 1,) | 1 for peers that exist, and here all do |
    | `action_mask` | (K,) | see above |

    The entries of z are finite and within their ranges for everything that a model may write:

    | entry | range | meaning |
    | --- | --- | --- |
    | `valid` | 0 to 1 | [ours] z_ans: the answer could be parsed |
    | `answer` | -1 to 1 | [paper] z_ans: the number; [ours] as sign(x) log(1 + abs(x)) / log(10^6), clipped |
    | `steps` | 0 to 1 | [ours] z_prof measured from the trace: lines / 16, at most 1 |
    | `additive_operators` | 0 to 1 | [ours] z_prof measured: count of + and - between operands / 8, at most 1 |
    | `multiplicative_operators` | 0 to 1 | [ours] z_prof measured: count of * and / / 8, at most 1 |
    | `length` | 0 to 1 | [ours] z_prof measured: generated tokens / their bound |
    | `cut_off` | 0 to 1 | [ours] z_prof measured: the text hit its bound of tokens |
    | `critic_correct` | 0 to 1 | [paper] z_conf: the critic's verdict, [ours] as a probability; 0.5 without critic |
    | `critic_entropy` | 0 to 1 | [ours] z_conf: entropy of the verdict in bits; 1 without critic |
    | `mean_probability` | 0 to 1 | [ours] z_lp: exp of the mean token log-probability |
    | `min_probability` | 0 to 1 | [ours] z_lp: exp of the smallest token log-probability |
    | `answer_probability` | 0 to 1 | [ours] z_lp: exp of the mean over the answer's own tokens |
    | `depth` | 0 to 1 | [ours] refinements before it / rounds |
    | `repeats_parent` | 0 to 1 | [ours] the refinement kept its draft's answer |
    | `agreement` | 0 to 1 | [ours] social: share of the other agents with an equal answer |
    | `is_plurality` | 0 to 1 | [ours] social: the answer is the agents' present plurality |
    | `round` | 0 to 1 | [ours] rounds played / rounds |
    | `same_answer` | 0 to 1 | [ours] the answer equals the observer's; 1 in one's own z where it is parsed |
    | `is_target` | 0 to 1 | [ours] the peer whom Concede would adopt; 0 in one's own z |

    ## Rewards

    The reward is what the action brings in this round, given what the peers did [paper]:

        r = r_local + r_global, of -2, -1, 0, 1, 2
        r_local = [own answer correct after the action] - [correct before]
        r_global = [consensus correct] - [consensus correct without this agent], after the actions

    The consensus is the plurality of the answers, ties broken by summed confidence, then by the lowest agent [ours].
    The reward is the entry of `info["action_rewards"]` for the action taken: that vector holds what every action would
    have brought. With `team.refine_samples` = m, Refine's is the mean over m refinements, of which the one taken is
    drawn. With `team.answer` "most_confident", r_global is about that answer [ours]: whether the most confident of all
    solutions that the debate has made is right with what the action leads to, less whether it is without.

    The config may have credit given in another way [ours]:

    - `credit` "step" is the reward above. "outcome" is what the debate comes to: the right solutions' share of the
      final vote, weighted by the calibrated probabilities of being correct, in [0, 1], if this agent takes the action
      now and all follow the current policy after. Only an env runner that knows the policy, such as SoftRankPO's, can
      tell; without one it is "step".
    - `token_price` is what each token that the action has generated takes off.
    - `tie_tolerance`: rewards within it of the state's best become equal to the best.
    - `terms` are those of the reward above that are summed.
    - `scale` multiplies the reward, `noise` is the standard deviation of normal noise in it, and `outliers` the
      probability that 10 is added to it or taken off: what learning is to stand, in studies.

    ## Starting state

    Every agent stands at its own first answer to the next question. Questions come in shuffled passes, in each of which
    every question is met once. `reset(seed=...)` begins the passes anew in the seed's order; without a seed the order
    goes on, and the first is random. The seed does not reach the models: their texts are as reproducible as the engine,
    those of a recording entirely. `options` are not used. With several env runners each debates the questions that it
    owns.

    ## Episode end

    After round T all agents terminate together. No episode is truncated. A step after the end raises ValueError.

    ## Infos

    After a reset: `question`, its id. After a round: `action_rewards`, float32 (K,), NaN where illegal; `r_local`,
    `r_global` and `tokens` (generated by it) of the action taken. After the last round also, the same for all agents:
    `correct`, whether the team's answer is; `prompt_tokens`, of which `cached_tokens`, and `generated_tokens` of the
    solutions that the debate visited and of their ancestors, and of what judged these.

    ## Arguments

    `config`, a dict, or RLlib's EnvContext, of:

    | key | default | meaning |
    | --- | --- | --- |
    | `questions` | | a callable that returns the question set |
    | `team` | | a `Team`: `agents`, `rounds`, and how they answer, refine, concede and judge |
    | `engine` | | a callable that makes the engine, once the first solution is missing |
    | `credit` | "step" | see Rewards |
    | `token_price` | 0 | at least 0 |
    | `tie_tolerance` | 0 | at least 0 |
    | `terms` | both | some of "local", "consensus" |
    | `scale` | 1 | positive |
    | `noise` | 0 | at least 0 |
    | `outliers` | 0 | 0 to 1 |
    | `calibration` | None | a `Calibration` for the vote of outcome credit; without one its weights are confidences |

    `ExperimentConfig.env_config` makes such a dict from a YAML file's settings. ConfigError is raised where an entry
    is missing, unknown or out of range, or an env runner owns no question; EngineError where the engine fails although
    it tried again.

    ## Version history

    - v0: initial version.
    """

    metadata: dict[str, Any] = {"name": "deliberation_v0", "render_modes": []}
    render_mode = None

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        index, runners = (config.worker_index, config.num_workers) if isinstance(config, EnvContext) else (0, 0)
        shard = (index - 1, runners) if index else (0, 1)
        try:
            inspect.signature(DebateSession).bind(**config, shard=shard)
        except TypeError as error:
            raise ConfigError(f"env_config: {error}; `ExperimentConfig.env_config` makes one") from error
        self.session = DebateSession(**config, shard=shard)
        if runners and not index:
            # That of the algorithm's own process speaks for all: errors of the others' envs are only logged by RLlib.
            idle = runners - len({owner(question.id, runners) for question in self.session.debates.tree.questions})
            if idle:
                raise ConfigError(
                    f"num_env_runners is {runners}: {idle} of them own no question; use fewer env runners"
                )
        self.possible_agents = list(self.session.agents)
        self.agents = list(self.possible_agents)
        low, high = bounds(self.session.debates.tree.table + DEBATE_FEATURES)
        peers, actions = len(self.agents) - 1, self.session.debates.num_actions
        space = Dict(
            {
                "own": Box(low, high),
                "peers": Box(np.tile(low, (peers, 1)), np.tile(high, (peers, 1))),
                "peer_mask": Box(0, 1, (peers,), np.float32),
                "action_mask": Box(0, 1, (actions,), np.float32),
            }
        )
        self.observation_spaces = dict.fromkeys(self.possible_agents, space)
        self.action_spaces: dict[str, Discrete] = dict.fromkeys(self.possible_agents, Discrete(actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed, options=options)
        observations, infos = self.session.reset(1, seed)
        return observations[0], infos[0]

    def step(self, action_dict: dict[str, int]):
        if action_dict.keys() != set(self.agents):
            raise ValueError(
                f"actions are for {', '.join(map(str, action_dict)) or 'nobody'}; give one for each of {self.agents}"
            )
        observations, rewards, terminateds, truncateds, infos = self.session.step([action_dict])
        return observations[0], rewards[0], terminateds[0], truncateds[0], infos[0]

    def close(self):
        self.session.close()
