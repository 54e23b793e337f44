"""Teams whose agents differ, in all that may differ, and policies of their own."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import yaml
from debate_fixtures import DEBATE_FEATURES, PENS, Script
from recording_fixtures import make_request
from rllib_fixtures import debate_config, small_config

from mpdf_rllib import run_folder, train
from mpdf_rllib.algorithms.checkpoints import load_modules
from mpdf_rllib.algorithms.debate_settings import map_to_own_policy
from mpdf_rllib.algorithms.meta_policy import greedy
from mpdf_rllib.algorithms.ppo import ppo_config
from mpdf_rllib.config_file import load_config
from mpdf_rllib.engine import Generation, GenerationRequest, RecordingEngine, generate_many, run
from mpdf_rllib.engine.model_router import ModelRouter
from mpdf_rllib.engine.recording import NotRecordedError
from mpdf_rllib.engine.scripted import ScriptedEngine
from mpdf_rllib.envs.debate import CONCEDE, PERSIST, REFINE
from mpdf_rllib.envs.deliberation_env import DeliberationEnv
from mpdf_rllib.envs.team import Agent, Team
from mpdf_rllib.errors import ConfigError, DataError, EngineError
from mpdf_rllib.evaluate import evaluate
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.record import record

TRIO = (
    Agent(model="small", prompts="addition", shots=2),
    Agent(model="large", chat=True, persona="You are a careful accountant.", temperature=0.5),
    Agent(model="small", top_p=0.9, shots=0),
)


def played(refiner: str = "author") -> Script:
    """Agent 1 concedes to agent 2 and refines what it got; the others refine at once."""
    script = Script()
    debates = script.debates(Team(TRIO, 2, refiner=refiner))
    debates.reset([0])
    debates.step([[REFINE, PERSIST, PERSIST]])
    debates.step([[PERSIST, REFINE, REFINE]])
    return script


def test_each_agent_asks_its_own_model_with_its_own_prompts_and_sampling():
    asked = {(r.position.root, r.position.depth, bool(r.score_words)): r for r in played().requests}
    first, refined = asked[0, 0, False], asked[0, 1, False]
    shots = load_prompts("addition").answer[0]
    assert first.prompt.count("Q: ") == 3
    assert first.prompt.startswith(f"Q: {shots[0][0]}\nA: {shots[0][1]}\n\nQ: {shots[1][0]}")
    assert refined.prompt.count("Draft: ") == 3

    (role, opening), *_ = asked[1, 0, False].prompt
    assert role == "user"
    assert opening.startswith("You are a careful accountant.\n\nQ: ")
    assert asked[1, 1, False].prompt[0][1].startswith("You are a careful accountant.\n\nDraft: ")
    assert "accountant" not in asked[1, 0, True].prompt[0][1]

    assert asked[2, 0, False].prompt == f"Q: {PENS.text}\nA:"
    sampling = {
        root: (asked[root, 0, False].sampling.temperature, asked[root, 0, False].sampling.top_p) for root in range(3)
    }
    assert sampling == {0: (1.0, 1.0), 1: (0.5, 1.0), 2: (1.0, 0.9)}
    assert {(root, request.model) for (root, _, _), request in asked.items()} == {
        (0, "small"),
        (1, "large"),
        (2, "small"),
    }


def test_each_agent_judges_the_others_by_its_own_model_and_prompt():
    team = Team(TRIO, 2, critic=False, peer_likelihood=True)
    script = Script()
    script.debates(team).reset([0])
    judged = {(r.continuation, r.position.root, r.model, r.prompt) for r in script.requests if r.continuation}
    texts = [" 12 * 4 = 40\n", " 12 * 4 = 48", " 12 * 4 = 44\n"]  # of a chat no line end is known
    assert judged == {
        (texts[author], judge, TRIO[judge].model, team.answer_prompt(judge, PENS))
        for author in range(3)
        for judge in range(3)
        if judge != author
    }


def test_agents_with_the_same_prompts_are_each_shown_their_own_examples():
    team = Team((Agent(prompts="addition"), Agent(), Agent(prompts="addition"), Agent()))
    sets = {source: load_prompts(source).answer for source in ("addition", "multiplication")}
    shown = [team.answer_prompt(agent, PENS).split("\n")[0].removeprefix("Q: ") for agent in range(4)]
    of_set = [("addition", 0), ("multiplication", 0), ("addition", 1), ("multiplication", 1)]
    assert shown == [sets[source][index][0][0] for source, index in of_set]


@pytest.mark.parametrize(("refiner", "author"), [("author", 1), ("actor", 0)])
def test_the_author_of_a_solution_goes_with_it(refiner, author):
    """Agent 0 adopts agent 1's answer and refines it."""
    script = Script()
    debates = script.debates(Team(TRIO, 3, critic=False, refiner=refiner))
    debates.reset([0])
    features = debates.tree.table + DEBATE_FEATURES
    authors = [[feature.name for feature in features].index(f"author_{i}") for i in range(3)]
    assert debates.observe()["own"][0][:, authors].tolist() == np.eye(3).tolist()
    assert debates.observe()["peers"][0, 0][:, authors].tolist() == [[0, 1, 0], [0, 0, 1]]
    debates.step([[CONCEDE, PERSIST, PERSIST]])
    assert debates.observe()["own"][0, 0, authors].tolist() == [0, 1, 0]
    debates.step([[REFINE, PERSIST, PERSIST]])
    own = debates.observe()["own"][0, 0]
    assert own[authors].tolist() == np.eye(3)[author].tolist()
    assert script.requests[-1].model == TRIO[author].model


def test_alike_agents_have_no_authors():
    alike, differing = Team((TRIO[0],) * 3), Team((TRIO[0], TRIO[0], TRIO[1]))
    assert not [feature for feature in alike.table([PENS]) if "author" in feature.name]
    assert len([feature for feature in differing.table([PENS]) if "author" in feature.name]) == 3


class Models:
    """Two models, who say who they are, and how often each was loaded and closed."""

    def __init__(self):
        self.loaded: list[str] = []
        self.closed: list[str] = []

    def makers(self) -> dict[str, Callable]:
        return {name: lambda name=name: self._load(name) for name in ("small", "large")}

    def _load(self, name: str) -> ScriptedEngine:
        self.loaded.append(name)
        models = self

        class Model(ScriptedEngine):
            async def close(self) -> None:
                models.closed.append(name)

        return Model(lambda request: f"{name} on {request.position.question}")


def requests(*models: str) -> list[GenerationRequest]:
    return [make_request(f"q{i}", model=model) for i, model in enumerate(models)]


def test_models_run_at_once_each_loaded_when_it_is_first_asked():
    models = Models()
    router = ModelRouter(models.makers())
    asked = requests("small", "large", "small")

    async def job() -> list[str]:
        (first,) = await generate_many(router, asked[:1])
        assert models.loaded == ["small"]
        texts = [first.text, *[g.text for g in await generate_many(router, asked[1:])]]
        await router.close()
        return texts

    assert run(job()) == ["small on q0", "large on q1", "small on q2"]
    assert sorted(models.closed) == sorted(models.loaded) == ["large", "small"]


def test_what_is_no_answer_reaches_nobody():
    broken = Generation("5", (7,), (math.nan,), (1,), "stop", 1, 0, 1)
    engine = ModelRouter({"small": lambda: ScriptedEngine(lambda _: broken)})
    with pytest.raises(EngineError, match="'q0'.* a log-probability is nan"):
        run(generate_many(engine, requests("small")))


def test_a_recording_tells_the_models_by_their_weights(tmp_path):
    models = Models()
    asked = requests("small", "large")

    def recording(fingerprints, makers=None) -> RecordingEngine:
        return RecordingEngine(str(tmp_path), fingerprints, makers and (lambda: ModelRouter(makers)))

    async def made() -> None:
        engine = recording({"small": "a", "large": "b"}, models.makers())
        await generate_many(engine, asked)
        await engine.close()

    run(made())
    again = recording({"small": "a", "large": "b"})
    assert [g.text for g in run(generate_many(again, asked))] == ["small on q0", "large on q1"]
    renamed = recording({"mine": "b"})
    assert run(generate_many(renamed, [make_request("q1", model="mine")]))[0].text == "large on q1"
    with pytest.raises(NotRecordedError):
        run(generate_many(recording({"small": "other weights", "large": "b"}), asked))


CONFIG = {
    "name": "mixed",
    "seeds": 2,
    "questions": {"families": ["multiplication", "addition"], "train": 12, "test": 12},
    "team": {
        "prompt": "completion",
        "critic": False,
        "rounds": 2,
        "agents": [{"prompts": "multiplication"}, {"prompts": "addition"}, {"prompts": "mixed", "temperature": 0.5}],
    },
    "engine": {"kind": "scripted"},
    "algorithm": {"iterations": 2, "warm_start_iterations": 1, "dim": 16},
}


def write(tmp_path, values: dict):
    path = tmp_path / "config.yaml"
    places = {"run_folder": str(tmp_path / "run"), "recording": str(tmp_path / "recording")}
    path.write_text(yaml.safe_dump(values | places))
    return path


def test_agents_have_of_the_team_what_they_do_not_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    team = CONFIG["team"] | {"temperature": 0.8, "agents": [{"shots": 3}, {"prompts": "own.yaml", "temperature": 0}]}
    config = load_config(write(tmp_path, CONFIG | {"team": team}))
    assert config.make_team() == Team(
        (
            Agent("smollm2-135m-instruct", shots=3, temperature=0.8),
            Agent("smollm2-135m-instruct", prompts=str(tmp_path / "own.yaml"), temperature=0.0),
        ),
        rounds=2,
        critic=False,
    )
    assert config.team.solutions == 2 * 3


@pytest.mark.parametrize(
    ("agents", "message"),
    [
        (1, r"team\.agents: 1: .*greater than or equal to 2"),
        ("three", r"team\.agents: 'three': .*integer"),
        ([{}], r"team\.agents: \[\{\}\]: .*at least 2 items"),
        ([{}, {"temprature": 1}], r"team\.agents\.1\.temprature: unknown key; did you mean temperature\?"),
        ([{}, {"shots": -1}], r"team\.agents\.1\.shots: -1: .*greater than or equal to 0"),
        ([{}, 3], r"team\.agents\.1: 3: give keys and values"),
    ],
)
def test_wrong_agents_are_named_by_key(tmp_path, agents, message):
    path = write(tmp_path, CONFIG | {"team": {"agents": agents}})
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.usefixtures("ray_instance")
@pytest.mark.parametrize("policies", ["shared", "per_agent"])
def test_a_mixed_team_is_trained_and_evaluated(tmp_path, policies):
    config = load_config(write(tmp_path, CONFIG), [f"algorithm.policies={policies}"])
    rows = {result.system: result for result in train.train(config)}
    assert {len(outcome.correct) for result in rows.values() for outcome in result.outcomes} == {12}
    learned = rows["SoftRankPO, paper's credit"]
    assert len(learned.outcomes) == 2
    assert all((outcome.actions.sum(-1) == 3 * 2).all() for outcome in learned.outcomes)
    checkpoints = run_folder.read_checkpoints(config.run_path)["step"]
    assert [len(load_modules(path, 3)) for path in checkpoints] == [3 if policies == "per_agent" else 1] * 2
    again = {result.system: result for result in evaluate(config, record(config))}
    for before, after in zip(learned.outcomes, again[learned.system].outcomes, strict=True):
        assert (before.actions == after.actions).all()


def weights_of(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weights.flatten() for weights in network.state_dict().values()])


def test_agents_with_policies_of_their_own_learn_apart(ray_instance, tmp_path):
    agents = [f"agent_{i}" for i in range(3)]
    config = small_config(16, team=Team(TRIO, 2, critic=False)).training(warm_start_iterations=1)
    algorithm = config.multi_agent(policies=agents, policy_mapping_fn=map_to_own_policy).build_algo()
    before = [weights_of(algorithm.get_module(agent).policy) for agent in agents]
    for _ in range(3):
        result = algorithm.train()
    assert all(np.isfinite(result["learners"][agent]["policy_loss"]) for agent in agents)
    algorithm.save_to_path(tmp_path)
    networks = [module.policy for module in load_modules(tmp_path, 3)]
    for agent, network in zip(agents, networks, strict=True):
        for name, weights in algorithm.get_module(agent).policy.state_dict().items():
            assert torch.equal(weights, network.state_dict()[name])
    algorithm.stop()
    assert not any(torch.equal(old, weights_of(new)) for old, new in zip(before, networks, strict=True))
    with pytest.raises(DataError, match=r"each agent has a policy of its own there; .*policies: shared"):
        ppo_config(tmp_path)

    policy = greedy(networks)
    env = DeliberationEnv(debate_config(team=Team(TRIO, 2, critic=False)))
    env.reset(seed=3)
    observation = env.session.debates.observe()
    with torch.no_grad():
        for i, network in enumerate(networks):
            own = {key: torch.from_numpy(array[:, i]) for key, array in observation.items()}
            assert policy(observation, 0)[:, i].tolist() == network(own).argmax(-1).tolist()
