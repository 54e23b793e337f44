"""Benchmarks by name, from files in their formats."""

import functools
import http.server
import shutil
import threading
import time
from pathlib import Path

import pytest
from benchmark_fixtures import GSM8K, HUMANEVAL, MATH, MBPP, MMLU, experiment, write_rows
from sandbox_fixtures import need_sandbox

from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.questions import Question, hub
from mpdf_rllib.questions.benchmarks import load_benchmark
from mpdf_rllib.questions.data_sets import MATH as MATH_SET
from mpdf_rllib.questions.sandbox import check_sandbox


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keeps what the libraries store away from the user's own cache."""
    import datasets

    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder / "hub"))
    load_benchmark.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "gsm8k/train.jsonl", GSM8K[:20])
    write_rows(tmp_path / "gsm8k/test.jsonl", GSM8K[20:])
    write_rows(tmp_path / "math/train.jsonl", MATH[:16])
    write_rows(tmp_path / "math/test.jsonl", MATH[16:])
    write_rows(tmp_path / "humaneval/HumanEval.jsonl.gz", HUMANEVAL)
    write_rows(tmp_path / "mbpp/full/train-00000-of-00001.parquet", MBPP)
    write_rows(tmp_path / "mmlu/train.jsonl", MMLU[:12])
    write_rows(tmp_path / "mmlu/test.jsonl", MMLU[12:])
    return tmp_path


def test_gsm8k_as_on_the_hub(folder):
    config = experiment(folder, benchmark="gsm8k", path=str(folder))
    train, test = config.questions_of("train"), config.questions_of("test")
    assert [q.text for q in train] == [row["question"] for row in GSM8K[:20]]
    assert [q.reference.canonical for q in test] == [str(n) for n in range(20, 30)]
    assert {(q.kind, q.source) for q in train + test} == {("number", "generic")}
    assert (train[3].id, test[3].id) == ("gsm8k-train-3", "gsm8k-test-3")


@pytest.mark.parametrize("name", ["main/{}-00000-of-00001.parquet", "{}.parquet", "{}.jsonl.gz"])
def test_files_are_those_of_the_hub_or_one_a_split(folder, name):
    asked = experiment(folder, benchmark="gsm8k", path=str(folder)).questions_of("test")
    other = folder / "other"
    for split, rows in (("train", GSM8K[:20]), ("test", GSM8K[20:])):
        write_rows(other / "gsm8k" / name.format(split), rows)
    write_rows(other / "gsm8k/socratic/test-00000-of-00001.parquet", GSM8K[:3])
    assert experiment(folder, benchmark="gsm8k", path=str(other)).questions_of("test") == asked


SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)


def write_subjects(folder: Path, subjects=SUBJECTS) -> None:
    """Writes MATH as the hub has it: 4 training and 1 test row a subject."""
    for subject in subjects:
        rows = [{**row, "problem": f"{subject}: {row['problem']}"} for row in MATH[:5]]
        write_rows(folder / subject / "train-00000-of-00001.parquet", rows[:4])
        write_rows(folder / subject / "test-00000-of-00001.parquet", rows[4:])


def test_math_has_its_subjects_in_folders_and_its_answers_in_boxes(folder):
    shutil.rmtree(folder / "math")
    write_subjects(folder / "math")
    config = experiment(folder, benchmark="math", path=str(folder))
    train, test = config.questions_of("train"), config.questions_of("test")
    assert (len(train), len(test)) == (28, 7)
    assert {question.kind for question in train} == {"expression"}
    assert [q.reference.canonical for q in train[:4]] == ["1/2", "1", "3/2", "2"]


def test_a_folder_with_some_of_the_hubs_files_is_not_taken_for_all(folder):
    shutil.rmtree(folder / "math")
    write_subjects(folder / "math", SUBJECTS[:5])
    with pytest.raises(ConfigError) as error:
        experiment(folder, benchmark="math", path=str(folder)).questions_of("test")
    assert (
        f"questions.path: not all rows (without prealgebra/test-*.parquet, precalculus/test-*.parquet) of math's test "
        f"split in {folder}/math: put test.parquet"
    ) in str(error.value)


def test_a_download_that_was_interrupted_is_not_taken_for_all(folder, monkeypatch):
    import huggingface_hub

    files = MATH_SET.files
    snapshot = Path(huggingface_hub.constants.HF_HUB_CACHE) / "datasets--EleutherAI--hendrycks_math" / "snapshots"
    write_subjects(snapshot / files.revision, SUBJECTS[:5])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError) as error:
        experiment(folder, benchmark="math").questions_of("test")
    assert "(no prealgebra/test-*.parquet, precalculus/test-*.parquet), and could not be had" in str(error.value)
    write_subjects(snapshot / files.revision, SUBJECTS[5:])
    assert len(experiment(folder, benchmark="math").questions_of("test")) == 7


@pytest.mark.parametrize("benchmark", ["math500", "aime", "amc"])
def test_a_benchmark_without_a_training_split_trains_on_another(folder, benchmark):
    write_rows(
        folder / benchmark / "test.jsonl",
        [
            {"problem": "What is 5 + 5?", "answer": 10.0, "solution": "\\framebox{10}"},
            {"problem": "What is 9 + 9?", "answer": 18.0, "solution": "?"},
        ],
    )
    config = experiment(folder, benchmark=benchmark, path=str(folder))
    assert config.questions.train_on == "math"
    assert "train_on: math" in config.to_yaml()
    assert [q.text for q in config.questions_of("train")] == [row["problem"] for row in MATH[:16]]
    assert [q.reference.canonical for q in config.questions_of("test")] == ["10", "18"]
    other = experiment(folder, benchmark=benchmark, path=str(folder), train_on="gsm8k")
    assert other.questions_of("train")[0].text == GSM8K[0]["question"]
    assert len(other.questions_of("test")) == 2


def test_mmlu_shows_lettered_choices_which_tell_questions_apart(folder):
    config = experiment(folder, benchmark="mmlu", path=str(folder))
    train, test = config.questions_of("train"), config.questions_of("test")
    assert (len(train), len(test)) == (12, 8)
    assert test[0].text == "Which is even?\nA. 12\nB. 13\nC. 15"
    assert (test[0].choices, test[1].choices) == (("12", "13", "15"), ("13", "14", "16"))
    assert [q.reference.canonical for q in test] == ["A", "B"] * 4
    assert test[1].accepts(test[1].checker.read("It is 14, so the answer is (B).").canonical)


@pytest.fixture
def sandbox():
    need_sandbox()


def right(question: Question, text: str) -> bool:
    answer = question.checker.read(text)
    return answer is not None and question.accepts(answer.canonical)


@pytest.fixture
def no_bubblewrap(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    check_sandbox.cache_clear()
    yield
    check_sandbox.cache_clear()


@pytest.mark.usefixtures("no_bubblewrap")
def test_without_a_sandbox_code_is_refused_unless_the_config_says_unsafe(folder):
    code = {"benchmark": "humaneval", "path": str(folder)}
    with pytest.raises(ConfigError, match=r"install it .*bubblewrap.* questions\.unsafe_code_without_sandbox: true"):
        experiment(folder, **code).questions_of("test")
    question = experiment(folder, **code, unsafe_code_without_sandbox=True).questions_of("test")[1]
    assert question.accepts(question.reference.canonical)
    assert not right(question, "def times_3(x):\n    return 6")


def test_other_questions_have_nothing_that_is_unsafe(folder):
    with pytest.raises(ConfigError, match="unsafe_code_without_sandbox is of questions of code; leave it out"):
        experiment(folder, benchmark="gsm8k", unsafe_code_without_sandbox=True)


@pytest.mark.usefixtures("sandbox")
def test_humaneval_asks_for_the_rest_of_a_function_and_tests_it(folder):
    question = experiment(folder, benchmark="humaneval", path=str(folder)).questions_of("test")[1]
    assert (question.kind, question.text) == ("code", HUMANEVAL[1]["prompt"].strip())
    assert question.task.examples == ("times_3(2)",)
    assert question.accepts(question.reference.canonical)
    assert right(question, "```python\ndef times_3(x):\n    return x * 3\n```")
    assert not right(question, "```python\ndef times_3(x):\n    return 6\n```")


@pytest.mark.usefixtures("sandbox")
def test_mbpp_shows_its_first_test_and_hides_the_others(folder):
    config = experiment(folder, benchmark="humaneval", path=str(folder))
    assert config.questions.train_on == "mbpp"
    questions = config.questions_of("train")
    assert len(questions) == 12
    question = questions[5]
    assert question.text == (
        "Write a function that adds 5 to each number.\nThe function is called added. For example:\n"
        "assert set(added([1, 2])) == {6, 7}"
    )
    assert question.task.examples == ("added([1, 2])",)
    assert question.accepts(question.reference.canonical)
    assert right(question, "def added(numbers):\n    return [5 + number for number in numbers]")
    assert not right(question, "def added(numbers):\n    return [6, 7]")


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(
    "wrong",
    [
        {"code": "def other(x):\n    return x"},
        {"code": "def added(:"},
        {"test_list": []},
        {"test_list": None},
        {"text": None},
        {"code": "class Pair: pass\ndef added(x):\n    return x", "test_list": ["assert added(Pair()) == 1"]},
        {"code": "import math\ndef added(x):\n    return x", "test_list": ["assert math.isclose(added(1), 1)"]},
    ],
)
def test_a_program_without_what_it_needs_is_no_training_row(folder, wrong):
    write_rows(folder / "mbpp/full/train-00000-of-00001.parquet", [*MBPP[:11], {**MBPP[11], **wrong}])
    config = experiment(folder, benchmark="humaneval", path=str(folder))
    assert len(config.questions_of("train")) == 11
    assert config.questions.benchmark_splits()["train"].left_out == {"incomplete": 1}


@pytest.mark.parametrize("nested", [False, True])
def test_columns_of_other_names_and_rows_within_a_column(folder, nested):
    rows = [
        {"question": r["question"], "type": "numbers", "choices": r["choices"], "answer": "ab"[r["answer"]]}
        for r in MMLU
    ]
    write_rows(folder / "mmlu/train.jsonl", [{"train": row} if nested else row for row in rows[:12]])
    train = experiment(folder, benchmark="mmlu", path=str(folder)).questions_of("train")
    assert [q.answer for q in train] == ["A", "B"] * 6


def test_a_training_row_that_is_a_test_row_is_left_out_and_counted(folder):
    shout = {**GSM8K[25], "question": GSM8K[25]["question"].upper().replace(" ", "\n ")}
    write_rows(
        folder / "gsm8k/train.jsonl", [shout, *GSM8K[:20], GSM8K[4], {"question": " ", "answer": "#### 1"}, GSM8K[29]]
    )
    config = experiment(folder, benchmark="gsm8k", path=str(folder))
    train = config.questions_of("train")
    assert [q.text for q in train] == [row["question"] for row in GSM8K[:20]]
    assert train[0].id == "gsm8k-train-1"
    assert len(config.questions_of("test")) == 10
    left_out = config.questions.benchmark_splits()["train"].left_out
    assert left_out == {"in the test split": 2, "repeated": 1, "incomplete": 1}


def test_a_training_row_that_an_agents_prompts_answer_is_left_out(folder):
    (folder / "my.yaml").write_text(
        f"{{max_tokens: 9, agents: [{{answer: [['{GSM8K[2]['question']}', '2']], refine: []}}], critic: []}}"
    )
    config = experiment(folder, benchmark="gsm8k", path=str(folder))
    texts = [q.text for q in config.questions.of("train", [str(folder / "my.yaml")])]
    assert len(texts) == 19
    assert GSM8K[2]["question"] not in texts


def test_a_repeated_test_row_stays_under_an_id_of_its_own(folder):
    write_rows(folder / "gsm8k/test.jsonl", [GSM8K[20], GSM8K[20], GSM8K[21]])
    test = experiment(folder, benchmark="gsm8k", path=str(folder)).questions_of("test")
    assert [q.id for q in test] == ["gsm8k-test-0", "gsm8k-test-1", "gsm8k-test-2"]


def test_maths_empty_boxes_are_no_training_rows(folder):
    write_rows(folder / "math/train.jsonl", [*MATH[:15], {**MATH[15], "solution": "So it is $\\boxed{}$."}])
    config = experiment(folder, benchmark="math", path=str(folder))
    assert len(config.questions_of("train")) == 15
    assert config.questions.benchmark_splits()["train"].left_out == {"incomplete": 1}


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(folder):
    draws = {
        (count, seed): experiment(folder, benchmark="gsm8k", path=str(folder), train=count, seed=seed).questions_of(
            "train"
        )
        for count, seed in ((10, 0), (15, 0), (15, 1))
    }
    assert draws[15, 0][:10] == draws[10, 0]
    assert draws[15, 0] != draws[15, 1]
    with pytest.raises(
        ConfigError, match=r"^questions\.train: 21 is more than the 20 in .*train\.jsonl; ask for fewer"
    ):
        experiment(folder, benchmark="gsm8k", path=str(folder), train=21).questions_of("train")


def test_a_missing_file_is_named_with_all_that_is_needed_to_get_it(folder):
    (folder / "gsm8k/test.jsonl").unlink()
    with pytest.raises(ConfigError) as error:
        experiment(folder, benchmark="gsm8k", path=str(folder)).questions_of("train")
    message = str(error.value)
    assert message.startswith(
        f"questions.path: no rows of gsm8k's test split in {folder}/gsm8k: put test.parquet or test.jsonl"
    )
    for part in (
        "question, answer",
        "openai/gsm8k",
        "--revision 740312add88f781978c0658806c59bc2815b9866",
        "main/test-*.parquet",
    ):
        assert part in message


def test_a_missing_column_is_named(folder):
    write_rows(folder / "gsm8k/test.jsonl", [{"question": "1 + 1?", "final": 2}])
    with pytest.raises(
        DataError, match=r"test\.jsonl: no column 'answer' for the answer; there are 'question', 'final'$"
    ):
        experiment(folder, benchmark="gsm8k", path=str(folder)).questions_of("test")


def test_wrong_rows_of_the_test_split_are_named_by_number(folder):
    write_rows(folder / "mmlu/test.jsonl", [MMLU[12], {**MMLU[13], "answer": 3}, {**MMLU[14], "question": None}])
    with pytest.raises(DataError) as error:
        experiment(folder, benchmark="mmlu", path=str(folder)).questions_of("train")
    assert [line.strip() for line in str(error.value).splitlines()] == [
        f"{folder}/mmlu/test.jsonl: the test split cannot be used whole; correct or replace these rows:",
        "row 1: the answer 3 is neither the letter of a choice nor its number from 0",
        "row 2: the text is empty",
    ]


def test_a_file_that_is_no_rows(folder):
    (folder / "gsm8k/test.jsonl").write_text("question,answer\n1 + 1?,2\n")
    with pytest.raises(DataError, match=r"test\.jsonl: it cannot be read: "):
        experiment(folder, benchmark="gsm8k", path=str(folder)).questions_of("test")


def test_without_network_the_one_error_comes_at_once(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(ConfigError) as error:
        experiment(folder, benchmark="mmlu").questions_of("test")
    assert time.monotonic() - started < 20
    message = str(error.value)
    for part in (
        "questions.benchmark: cais/mmlu is not in ",
        "offline mode",
        "hf download cais/mmlu",
        "put test.jsonl",
    ):
        assert part in message
    assert "set questions.path=DATA" in message


class _Silent(http.server.BaseHTTPRequestHandler):
    """Never answers before the test ends."""

    def __init__(self, asked: threading.Event, ended: threading.Event, *args):
        self.asked, self.ended = asked, ended
        super().__init__(*args)

    def do_GET(self):
        self.asked.set()
        self.ended.wait(60)

    do_HEAD = do_GET


def test_a_hub_that_does_not_answer_is_not_waited_for(folder, monkeypatch):
    asked, ended = threading.Event(), threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, asked, ended))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "TIMEOUT", 1.0)
    started = time.monotonic()
    try:
        with pytest.raises(ConfigError, match="openai/gsm8k is not in .* could not be had from the hub"):
            experiment(folder, benchmark="gsm8k").questions_of("test")
    finally:
        ended.set()
        server.shutdown()
    assert asked.is_set() and time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ({"benchmark": "gsm8"}, "questions.benchmark: 'gsm8': did you mean gsm8k? known: gsm8k, math"),
        ({"benchmark": "gsm8k", "families": ["addition"]}, ": give one of benchmark, families and file"),
        ({"benchmark": "gsm8k", "parameters": {"a": 1}}, ": parameters are of a reasoning_gym: task; leave them out"),
        ({"families": ["addition"], "train": 10, "test": 5, "path": "x"}, ": path is of the benchmarks gsm8k, math"),
        ({"benchmark": "reasoning_gym:chain_sum"}, ": a task has no end; give the numbers of train and test questions"),
        ({"benchmark": "gsm8k", "train_on": "amc"}, "questions.train_on: 'amc': input should be 'gsm8k', 'math'"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, questions, message):
    with pytest.raises(ConfigError) as error:
        experiment(tmp_path, **questions)
    assert message in str(error.value)


def test_a_path_does_not_depend_on_where_a_trial_runs(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = experiment(folder, benchmark="gsm8k", path=".")
    monkeypatch.chdir("/")
    assert len(config.questions_of("test")) == 10
