import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from mpdf_rllib import cli, cost, record, train
from mpdf_rllib.config import CreditConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.engine.config import VLLMConfig
from mpdf_rllib.envs.team import Agent, Team
from mpdf_rllib.errors import ConfigError
from mpdf_rllib.learners import algorithm_config
from mpdf_rllib.prompts import load_prompts

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "tuned_examples").glob("*.yaml"))

SMALL = {
    "name": "small",
    "questions": {"families": ["addition", "arithmetic"], "train": 10, "test": 5},
    "team": {"prompt": "completion", "critic": False},
    "engine": {"kind": "scripted"},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    return path


def complaint(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_tuned_example_loads_and_is_called_like_its_file(path):
    config = load_config(path)
    assert config.name == path.stem
    if config.questions.families:
        assert len(config.questions_of("train")) == config.questions.train
        assert len(config.questions_of("test")) == config.questions.test


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_resolved_config_is_a_config(path, tmp_path):
    config = load_config(path, ["algorithm.credits.step.token_price=0.25", "engine.args.max_num_seqs=7"])
    resolved = tmp_path / "config.yaml"
    resolved.write_text(config.to_yaml())
    assert load_config(resolved) == config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_tuned_example_says_how_to_run_it_and_can_be_looked_at(path, capsys, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", no_network)
    header = path.read_text().split("\n\n")[0]
    command = "compare" if path.name.startswith("compare") else "train"
    assert f"python -m mpdf_rllib.{command} --config tuned_examples/{path.name}" in header
    assert cli.main(train._arguments(), train._command, ["--config", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown) == load_config(path).model_dump(mode="json")
    assert "first answer" in shown


def no_network(*_):
    raise AssertionError("this needs no network")


PAPERS = [path for path in EXAMPLES if "mpdf_rllib.cost" in path.read_text()]


def test_each_benchmark_and_backbone_of_the_paper_has_an_example():
    names = ["gsm8k", "math", "aime", "amc", "mmlu", "humaneval"]
    backbones = ["llama3.2-3b", "qwen2.5-3b", "qwen2.5-7b"]
    expected = {*(f"{name}_llama3.1-8b" for name in names), *(f"gsm8k_{backbone}" for backbone in backbones)}
    assert {path.stem for path in PAPERS} == expected
    for path in PAPERS:
        config = load_config(path)
        assert config.questions.benchmark == path.stem.split("_")[0]
        assert path.stem.split("_")[1].replace("llama3", "llama-3") in config.team.model.lower()


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.name)
def test_what_an_example_says_to_expect_is_what_the_tree_comes_to(path, capsys):
    header = re.sub(r" \\\n#\s+", " ", path.read_text().split("\n\n")[0])
    (command,) = re.findall(r"^#\s+python -m mpdf_rllib\.cost (.*)$", header, re.MULTILINE)
    arguments = [str(path) if word.endswith(".yaml") else word for word in command.split()]
    assert cli.main(cost._arguments(), cost._command, arguments) == 0
    said = [line.removeprefix("#").strip() for line in header.splitlines()]
    assert [line for line in capsys.readouterr().out.splitlines() if line not in said] == []
    assert re.search(r"The paper's figure: \d+\.\d+ %", header)


def test_a_config_has_what_it_does_not_say_of_the_one_that_it_extends(file, tmp_path):
    (tmp_path / "middle.yaml").write_text(f"extends: {file.name}\nteam: {{rounds: 2, agents: 4}}\nseeds: 7\n")
    (tmp_path / "deep").mkdir()
    own = tmp_path / "deep" / "own.yaml"
    own.write_text("extends: ../middle.yaml\nname: own\nteam: {agents: [{shots: 1}, {shots: 2}]}\n")
    config, base = load_config(own, ["team.rounds=3"]), load_config(file)
    assert (config.name, config.seeds, config.team.rounds, config.team.critic) == ("own", 7, 3, False)
    assert [agent.shots for agent in config.team.members] == [1, 2]
    assert config.questions == base.questions


@pytest.mark.parametrize(
    ("of_base", "own"), [("", "kind: vllm, "), ("kind: vllm, ", ""), ("kind: vllm, ", "kind: vllm, ")]
)
def test_an_engine_of_the_same_kind_is_one_section_whether_it_says_so_or_not(tmp_path, of_base, own):
    others = yaml.safe_dump({key: value for key, value in SMALL.items() if key != "engine"})
    (tmp_path / "base.yaml").write_text(f"{others}engine: {{{of_base}args: {{seed: 1}}}}\n")
    (tmp_path / "own.yaml").write_text(f"extends: base.yaml\nengine: {{{own}timeout_s: 9}}\n")
    assert load_config(tmp_path / "own.yaml").engine == VLLMConfig(args={"seed": 1}, timeout_s=9)


def test_null_takes_a_value_out_and_another_kind_of_engine_has_nothing_of_the_first(file, tmp_path):
    base = tmp_path / "base.yaml"
    base.write_text(
        f"extends: {file.name}\nengine: {{kind: serve, replicas: 2, timeout_s: 5}}\n"
        "algorithm: {credits: {step: {token_price: 1}, outcome: {}}}\n"
    )
    own = tmp_path / "own.yaml"
    own.write_text(
        "extends: base.yaml\nengine: {kind: vllm}\nalgorithm: {credits: {step: {tie_tolerance: 1}, outcome: null}}\n"
        "questions: {families: null, benchmark: gsm8k}\n"
    )
    config = load_config(own)
    assert config.engine == VLLMConfig()
    assert config.questions.benchmark == "gsm8k"
    assert config.algorithm.credits == {"step": CreditConfig(token_price=1, tie_tolerance=1)}


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("none.yaml", r"config .*none\.yaml, which .*own\.yaml extends: No such file"),
        ("3", r"config .*own\.yaml: extends: 3: give the path"),
        ("own.yaml", r"config .*own\.yaml: extends: own\.yaml: it extends itself"),
        ("other.yaml", r"config .*other\.yaml: extends: own\.yaml: it extends itself"),
        ("wrong.yaml", r"config .*own\.yaml:\n  team\.agnets: unknown key; did you mean agents\?"),
    ],
)
def test_a_config_that_cannot_be_extended_is_named(file, tmp_path, extends, message):
    own = tmp_path / "own.yaml"
    own.write_text(f"extends: {extends}\nname: own\n")
    (tmp_path / "other.yaml").write_text("extends: own.yaml\n")
    (tmp_path / "wrong.yaml").write_text(f"extends: {file.name}\nteam: {{agnets: 3}}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(own)


def keys_of(values: dict, prefix: str = "") -> set[str]:
    nested = [keys_of(value, f"{prefix}{key}.") for key, value in values.items() if isinstance(value, dict)]
    return {f"{prefix}{key}" for key in values}.union(*nested)


def test_the_main_job_names_every_key():
    path = ROOT / "tuned_examples/math.yaml"
    assert keys_of(yaml.safe_load(path.read_text())) == keys_of(load_config(path).model_dump())


def test_the_settings_of_the_algorithm_reach_rllib(file):
    changed = {
        "tau": 0.75,
        "beta": 0.5,
        "objective": "log_policy",
        "entropy_coeff": 0.25,
        "static_corpus": True,
        "warm_start_iterations": 7,
        "weight_decay": 0.125,
        "lr": 0.5,
        "minibatch_size": 9,
    }
    overrides = [f"algorithm.{name}={json.dumps(value)}" for name, value in changed.items()]
    experiment = load_config(file, overrides)
    config = algorithm_config(experiment, experiment.env_config())
    assert {name: config[name] for name in changed} == changed


@pytest.mark.parametrize("setting", ["url: 'http://user:sk-1@host/v1'", "url: 'http://host/v1', api_key_env: sk-1"])
def test_a_key_in_the_config_is_refused_without_being_shown(file, setting):
    assert "sk-1" not in complaint(file, f"engine={{kind: endpoint, {setting}}}")


def test_live_debates_have_no_outcome_credit_and_no_sweep(file):
    said = complaint(file, "live=true", "algorithm.credits.outcome={}")
    assert "algorithm: " in said and "leave live out, or credits.outcome" in said
    said = complaint(file, "live=true", "sweep={space: {tau: {grid: [1]}}}")
    assert "sweep: " in said and "leave live out, or the sweep" in said


def test_what_is_not_said_has_its_default(file):
    config = load_config(file)
    assert (config.seeds, config.team.agents, config.team.rounds) == (5, 3, 3)
    assert (config.algorithm.tau, config.algorithm.beta) == (0.5, 0.3)
    assert list(config.algorithm.credits) == ["step"]


def test_overrides_have_the_types_of_yaml(file):
    config = load_config(
        file,
        [
            "seeds=2",
            "team.critic=true",
            "team.temperature=0.5",
            "questions.families=[addition]",
            "engine.kind=vllm",
            "engine.args.enforce_eager=true",
            "engine.args.compilation_config={level: 0}",
            "algorithm.credits.outcome={token_price: 0.001}",
            "algorithm.credits.outcome.tie_tolerance=0.1",
            "recording=s3://bucket/a=b",
            "run_folder=null",
            "seeds=3",
        ],
    )
    assert config.seeds == 3
    assert config.team.critic is True
    assert config.team.temperature == 0.5
    assert config.questions.families == ["addition"]
    assert config.engine.args == {"enforce_eager": True, "compilation_config": {"level": 0}}
    assert config.algorithm.credits["outcome"] == CreditConfig(token_price=0.001, tie_tolerance=0.1)
    assert list(config.algorithm.credits) == ["outcome"]
    assert config.recording_url == "s3://bucket/a=b"
    assert config.run_path == Path.cwd() / "runs/small"
    # The file's other values stand.
    assert config.questions.train == 10


def test_other_agents_judge_completions_alone_where_a_server_is_asked():
    def loaded(*overrides: str):
        return load_config(EXAMPLES[0].with_name("math.yaml"), ["team.peer_likelihood=true", *overrides])

    assert loaded("engine={kind: serve}").team.peer_likelihood
    assert loaded("team.prompt=chat").team.peer_likelihood
    with pytest.raises(ConfigError, match="engine: .*servers score completions, not chat turns: set team.prompt"):
        loaded("team.prompt=chat", "engine={kind: serve}")
    with pytest.raises(ConfigError, match="peer_likelihood: how likely a JSON object is"):
        loaded("team.self_report=true")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sedes=3", "sedes: unknown key; did you mean seeds?"),
        ("team.agent=3", "team.agent: unknown key; did you mean agents?"),
        (
            "algorithm.credits.step.tokenprice=1",
            "algorithm.credits.step.tokenprice: unknown key; did you mean token_price?",
        ),
        ("team.zzz=1", "team.zzz: unknown key; known here: model, agents, rounds, prompt, critic, self_report, "),
        ("algorithm.credits.outcom={}", "algorithm.credits.outcom: 'outcom': input should be 'step'"),
        ("team.agents=1", "team.agents: 1: input should be greater than or equal to 2"),
        ("team.agents=many", "team.agents: 'many': input should be a valid integer"),
        ("team.agents=2.5", "team.agents: 2.5: input should be a valid integer"),
        ("team.top_p=0", "team.top_p: 0: input should be greater than 0"),
        ("team.temperature=-0.1", "team.temperature: -0.1: input should be greater than or equal to 0"),
        ("team.prompt=yes please", "team.prompt: 'yes please': input should be 'auto', 'chat' or 'completion'"),
        ("algorithm.tau=0", "algorithm.tau: 0: input should be greater than 0"),
        ("algorithm.beta=.nan", "algorithm.beta: nan"),
        ("algorithm.objective=eq3", "algorithm.objective: 'eq3': input should be 'rank_matching' or 'log_policy'"),
        ("algorithm.entropy_coeff=-1", "algorithm.entropy_coeff: -1: input should be greater than or equal to 0"),
        ("algorithm.static_corpus=[]", "algorithm.static_corpus: []: input should be a valid boolean"),
        ("algorithm.beta=.inf", "algorithm.beta: inf"),
        ("algorithm.heads=5", "algorithm.heads: 5: it does not divide algorithm.dim, 48"),
        ("questions.seed=-1", "questions.seed: -1"),
        ("team.rounds=9", "team.rounds: 9"),
        ("run_folder=s3://bucket/run", "only the recording may be a URL"),
        ("engine.args.dealy=1", "engine.args.dealy: unknown key; did you mean delay?"),
        ("engine.args.delay=long", "engine.args.delay: 'long'"),
        ("engine={kind: gpt}", "engine.kind: 'gpt': known: vllm, serve, endpoint, scripted"),
        ("engine={kind: serve, replica: 2}", "engine.replica: unknown key; did you mean replicas?"),
        ("engine={kind: serve, replicas: {min: 2, max: 1}}", "engine.replicas: {'min': 2, 'max': 1}: min 2 is more"),
        ("engine={kind: serve, replicas: {mni: 1, max: 3}}", "engine.replicas.mni: unknown key; did you mean min?"),
        ("engine={kind: serve, replicas: many}", "engine.replicas: 'many': give keys and values"),
        ("engine={kind: serve, replicas: 0}", "engine.replicas.max: 0: input should be greater than or equal to 1"),
        ("engine={kind: endpoint}", "engine.url: missing"),
        ("engine={kind: endpoint, url: localhost}", "engine.url: 'localhost': give the server's base URL"),
        ("engine={kind: endpoint, url: 'http://key@host/v1'}", "keep keys out of it"),
        ("engine={kind: endpoint, url: 'http://host/v1', args: {}}", "engine.args: unknown key"),
        ("engine={kind: endpoint, url: 'http://host/v1', api_key: sk-1}", "did you mean api_key_env?"),
        ("algorithm.credits={}", "algorithm.credits: {}"),
        ("questions.families=[addition, geometry]", "questions.families.1: 'geometry'"),
        ("questions.families=[]", "questions.families: []"),
        ("questions.train=9", "questions.train: 9: input should be greater than or equal to 10"),
        ("name=a/b", "name: 'a/b'"),
        ("name=..", "name: '..'"),
        ("team=[3]", "team: [3]: give keys and values"),
        ("algorithm.credits.step=null", "algorithm.credits.step: None: give keys and values"),
        ("questions={}", "questions: {}: give one of benchmark, families and file"),
        ("questions.file={train: a.csv, test: b.csv}", ": give one of benchmark, families and file"),
        ("questions.test=null", ": families have no end; give the numbers of train and test questions"),
        ("questions.file.colums={}", "questions.file.colums: unknown key; did you mean columns?"),
        ("7=1", "7: unknown key"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_remedy(file, override, message):
    said = complaint(file, override)
    assert said.startswith(f"config {file}:\n")
    assert message in said


def test_all_wrong_settings_are_told_at_once(file):
    said = complaint(file, "sedes=3", "team.rounds=0", "algorithm.tau=-1", "questions.test=none", "engine.kind=gpt")
    keys = [line.strip().partition(":")[0] for line in said.splitlines()[1:]]
    assert sorted(keys) == ["algorithm.tau", "engine.kind", "questions.test", "sedes", "team.rounds"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds", "--set seeds: give it as key.of.config=value"),
        ("seeds.of=3", "--set seeds.of=3: seeds is a value, not a section"),
        ("name.of.it=3", "--set name.of.it=3: name is a value, not a section"),
        (
            "team={agents: 3, agents: 4}",
            "--set team={agents: 3, agents: 4}: the value is not YAML: key 'agents' is given twice",
        ),
        ("questions.families=[addition", "--set questions.families=[addition: the value is not YAML"),
    ],
)
def test_a_wrong_form_of_set_is_refused(file, override, message):
    assert message in complaint(file, "seeds=1", override)


def test_files_that_are_no_config(tmp_path):
    missing = tmp_path / "missing.yaml"
    assert complaint(missing) == f"config {missing}: No such file or directory; give an existing YAML file"
    assert "Is a directory" in complaint(tmp_path)
    for content, message in (
        (b"a: [", "is not YAML"),
        (b"a: b: c", "is not YAML"),
        (b"\xff\xfe\x00binary", "is not YAML"),
        (b"", "holds NoneType, not keys and values; see tuned_examples/math.yaml"),
        (b"- name", "holds list, not keys and values"),
    ):
        path = tmp_path / "broken.yaml"
        path.write_bytes(content)
        assert message in complaint(path)


def test_more_questions_than_there_are(file):
    config = load_config(file, ["questions.families=[arithmetic]", "questions.test=1000"])
    with pytest.raises(ConfigError, match=r"questions\.test: 1000 is more than the \d+ that arithmetic have"):
        config.questions_of("test")


def test_what_the_config_makes(file, tmp_path):
    config = load_config(file, ["team.agents=4", "team.rounds=2", "team.prompt=chat", f"recording={tmp_path}/r"])
    assert config.make_team() == Team((Agent("smollm2-135m-instruct", chat=True),) * 4, 2, critic=False)
    assert config.recording_url == f"{tmp_path}/r"
    assert {q.source for q in config.questions_of("test")} == {"addition", "arithmetic"}
    assert len(config.questions_of("train")) == 10


def test_paths_do_not_depend_on_where_a_worker_runs(file, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config(file)
    assert config.run_path == tmp_path / "runs" / "small"
    assert config.recording_url == str(tmp_path / "recordings" / "small")
    assert load_config(file, ["run_folder=~/x"]).run_path == Path.home() / "x"


@pytest.mark.parametrize("name", ["record", "train", "evaluate", "questions", "cost"])
def test_dry_run_prints_the_resolved_config_and_does_nothing(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", f"mpdf_rllib.{name}", "--config", file, "--set", "seeds=2", "--dry-run"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stderr) == (0, "")
    config = load_config(file, ["seeds=2"])
    assert result.stdout.startswith(config.to_yaml())
    assert yaml.safe_load(result.stdout) == config.model_dump(mode="json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs a command as its module does; returns its exit status, its output and its messages."""
    monkeypatch.chdir(tmp_path)

    def run(module: ModuleType, *arguments: str) -> tuple[int, str, str]:
        status = cli.main(module._arguments(), module._command, arguments)
        return status, *capsys.readouterr()

    return run


def test_dry_run_shows_the_prompts_that_agents_are_asked_with(file, run):
    agents = "[{prompts: addition, shots: 1}, {prompt: chat, persona: You are an accountant.}]"
    overrides = ["--set", f"team.agents={agents}", "--set", "team.critic=true"]
    _, shown, _ = run(train, "--config", str(file), *overrides, "--dry-run")
    shot = load_prompts("addition").answer[0][0]
    assert (
        f"# agent 0, addition: first answer\n# \n# Q: {shot[0]}\n# A: {shot[1]}\n# \n# Q: {{question}}\n# A:" in shown
    )
    assert "# agent 1, arithmetic: refinement\n# \n# [user] You are an accountant.\n# \n# Draft: " in shown
    assert "# Q: {question}\n# A: {solution}\n# Verdict:\n" in shown
    assert shown.count("# agent 0, ") == 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sedes=3", "team.agents=1"], "sedes: unknown key; did you mean seeds?"),
        (["foo[/bold]"], "--set foo[/bold]: give it as key.of.config=value"),
        (["name='[red]x'"], "name: '[red]x'"),
        (["questions.test=100000"], "questions.test: 100000 is more than"),
    ],
)
def test_a_users_error_is_one_message_and_status_2(overrides, message, file, run):
    settings = [word for override in overrides for word in ("--set", override)]
    status, out, err = run(record, "--config", str(file), *settings)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and err.count("error:") == 1
    assert message in err


def test_a_missing_file_is_one_message_and_status_2(run):
    expected = "error: config no/such[old]/file.yaml: No such file or directory; give an existing YAML file\n"
    assert run(record, "--config", "no/such[old]/file.yaml") == (2, "", expected)


@pytest.mark.parametrize("engine", ["5", "null", "{kind: }"])
def test_an_engine_without_a_kind_is_named(file, engine):
    file.write_text(yaml.safe_dump({key: SMALL[key] for key in ("name", "questions")}) + f"engine: {engine}\n")
    assert ": give it a kind, one of vllm, serve, endpoint, scripted" in complaint(file)


def test_a_key_given_twice_is_named(file):
    file.write_text(file.read_text() + "seeds: 3\nseeds: 4\n")
    assert "'seeds' is given twice" in complaint(file)


def test_a_shard_without_questions_is_named(file, run):
    status, _, err = run(record, "--config", str(file), "--shard", "99999/100000")
    assert status == 2
    assert "--shard 99999/100000: it owns no question" in err


def test_places_do_not_depend_on_where_a_trial_runs(file, monkeypatch):
    (file.parent / "model").mkdir()
    monkeypatch.chdir(file.parent)
    config = load_config(file, ["team.model=model", "recording=there"])
    monkeypatch.chdir("/")
    assert config.recording_url == str(file.parent / "there")
    assert config.run_path == file.parent / "runs/small"
    assert config.team.model == str(file.parent / "model")
