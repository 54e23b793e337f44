import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mpdf_rllib import run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.prompts import load_prompts
from mpdf_rllib.questions import Question

TRAIN = [{"question": f"What is {n} + 1?", "answer": n + 1} for n in range(12)]
TEST = [{"question": f"What is {n} + 2?", "answer": n + 2} for n in range(4)]


def write(path: Path, rows: list[dict]) -> None:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with good files of questions."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.jsonl", TRAIN)
    write(tmp_path / "test.csv", TEST)
    return tmp_path


def experiment(folder: Path, file: dict | None = None, **questions) -> ExperimentConfig:
    places = {"train": "train.jsonl", "test": "test.csv"}
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "questions": {"file": places | (file or {}), **questions}}))
    return load_config(path)


def refusal(config: ExperimentConfig) -> list[str]:
    """What is wrong, a line each, the same whichever split is asked for."""
    messages = []
    for split in ("train", "test"):
        with pytest.raises(DataError) as error:
            config.questions_of(split)
        messages.append(str(error.value))
    assert messages[0] == messages[1]
    first, *lines = messages[0].splitlines()
    assert first == "questions.file:"
    return [line.strip() for line in lines]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_the_same_rows_are_the_same_questions_in_every_format(folder, suffix):
    write(folder / f"rows{suffix}", TRAIN)
    questions = experiment(folder, {"train": f"rows{suffix}"}).questions_of("train")
    assert [(q.text, q.answer) for q in questions] == [(f"What is {n} + 1?", str(n + 1)) for n in range(12)]
    assert questions == experiment(folder).questions_of("train")


def test_columns_and_prompts_are_the_configs(folder):
    rows = [{"uid": n, "problem": row["question"], "final": f"#### {row['answer']}"} for n, row in enumerate(TRAIN)]
    write(folder / "train.csv", rows)
    write(folder / "test.parquet", [{**row, "uid": f"t{row['uid']}", "problem": f"{row['problem']}!"} for row in rows])
    columns = {"text": "problem", "answer": "final", "id": "uid"}
    config = experiment(
        folder, {"train": "train.csv", "test": "test.parquet", "columns": columns, "prompts": "addition"}
    )
    assert config.questions_of("train")[3] == Question("3", "What is 3 + 1?", "#### 4", "number", "addition")
    assert config.questions_of("test")[3] == Question("t3", "What is 3 + 1?!", "#### 4", "number", "addition")


@pytest.mark.parametrize(
    ("written", "answer"), [("48", "48"), ("48.0", "48.0"), ("1e16", "10000000000000000"), ('"1,234 "', "1,234")]
)
def test_answers_of_json_keep_their_value(folder, written, answer):
    (folder / "test.jsonl").write_text(f'{{"question": "How many?", "answer": {written}}}')
    [question] = experiment(folder, {"test": "test.jsonl"}).questions_of("test")
    assert question.answer == answer


def test_answers_of_csv_and_parquet_keep_their_value(folder):
    write(folder / "test.parquet", [{"question": "one?", "answer": 48}, {"question": "two?", "answer": 48.5}])
    assert [q.answer for q in experiment(folder, {"test": "test.parquet"}).questions_of("test")] == ["48.0", "48.5"]
    (folder / "test.csv").write_text("question,answer\none?,0048\ntwo?,48.50\n")
    assert [q.answer for q in experiment(folder).questions_of("test")] == ["0048", "48.50"]


def test_what_editors_leave_in_files_is_no_row(folder):
    (folder / "test.jsonl").write_bytes(
        b'\xef\xbb\xbf\r\n{"question": "a\xe2\x80\xa8b?", "answer": 1}\r\n\r\n   \n{"question": "c?", "answer": 2}'
    )
    (folder / "test.csv").write_bytes(b'\xef\xbb\xbfquestion,answer\r\n"a\xe2\x80\xa8b?",1\r\n\r\nc?,2\r\n')
    asked = [experiment(folder, {"test": name}).questions_of("test") for name in ("test.jsonl", "test.csv")]
    assert [(q.text, q.answer) for q in asked[0]] == [("a\u2028b?", "1"), ("c?", "2")]
    assert asked[0] == asked[1]


def test_ids_depend_on_the_text_alone(folder):
    ids = [q.id for q in experiment(folder).questions_of("train")]
    assert len(set(ids)) == 12
    write(folder / "train.jsonl", [{**row, "answer": 1} for row in reversed(TRAIN)])
    assert [q.id for q in experiment(folder).questions_of("train")] == ids[::-1]


def test_a_smaller_draw_is_the_beginning_of_a_larger_one(folder):
    write(folder / "train.jsonl", [{"question": f"{n}?", "answer": n} for n in range(100)])
    everything = experiment(folder).questions_of("train")
    assert [q.text for q in everything] == [f"{n}?" for n in range(100)]
    thirty, ten, other = (
        experiment(folder, train=count, seed=seed).questions_of("train") for count, seed in ((30, 0), (10, 0), (30, 1))
    )
    assert thirty[:10] == ten
    assert len(set(thirty)) == 30
    assert set(thirty) <= set(everything)
    assert set(thirty) not in (set(everything[:30]), set(other))
    assert len(experiment(folder, train=30).questions_of("test")) == len(TEST)


@pytest.mark.parametrize(("split", "there"), [("train", 12), ("test", 4)])
def test_more_than_there_are_is_refused(folder, split, there):
    assert len(experiment(folder, **{split: there if split == "test" else 12}).questions_of(split)) == there
    with pytest.raises(ConfigError, match=rf"^questions\.{split}: 13 is more than the {there} in {folder}/{split}\."):
        experiment(folder, **{split: 13}).questions_of(split)


def test_too_few_to_train_on(folder):
    write(folder / "train.jsonl", TRAIN[:9])
    with pytest.raises(ConfigError, match=r"train\.jsonl has 9 questions; give at least 10"):
        experiment(folder).questions_of("train")


def test_all_wrong_rows_of_both_files_are_named_at_once(folder):
    (folder / "train.jsonl").write_text(
        """{"uid": "a", "question": "just one?", "answer": 1}

        {"uid": "b", "question": "two?"}
        {"uid": "c", "question": "three?", "answer": "many"}
        {"uid": "a", "question": "four?", "answer": null}
        {"uid": "a", "question": "five?", "answer": 5}
        {"uid": "d", "question": "six?", "answer": 6
        [1, 2]
        {"uid": "e", "question": " ", "answer": [7]}
        {"uid": "f", "question": "just  one?", "answer": 1}
        {"uid": "g", "question": "What is 1 + 1? \\ud800", "answer": NaN}
        {"uid": "h", "question": "Is it?", "answer": true}
        {"question": "ten?", "answer": 10}
        """
    )
    (folder / "test.csv").write_text(
        "uid,question,answer\n"
        'a,"lines\n\nof a question?",3\n'  # lines 2 to 4
        "h,half?,1,5\n"
        "\n"
        'i,"one?",\n'
        'j," just\tone?",1\n'
        "k\n"
        'l,"quoted "badly"",1\n'
    )
    train, test = folder / "train.jsonl", folder / "test.csv"
    assert refusal(experiment(folder, {"columns": {"id": "uid"}})) == [
        f"{train} line 7: not JSON (Expecting ',' delimiter); write one object a line",
        f"{train} line 8: [1, 2] is not an object; write {{column: value, ...}}",
        f"{train} line 3: no answer: 'answer' is empty",
        f"{train} line 4: question c: its reference answer 'many' cannot be read as a number; correct it",
        f"{train} line 5: no answer: 'answer' is empty",
        f"{train} line 6: id 'a' again, first in {train} line 1; give each question its own",
        f"{train} line 9: no text: 'question' is empty",
        f"{train} line 9: no answer: 'answer' is [7], not a text or a number",
        f"{train} line 10: the same question is in {train} line 1; leave one out",
        f"{train} line 11: no text: 'question' holds half a surrogate pair",
        f"{train} line 11: no answer: 'answer' is empty",
        f"{train} line 12: no answer: 'answer' is True, not a text or a number",
        f"{train} line 13: no id: 'uid' is empty",
        f"{test} line 5: 4 fields, the header has 3; put one that holds a comma in quotes",
        f"{test} line 10: not CSV (',' expected after '\"'); what follows it was not read",
        f"{test} line 2: id 'a' again, first in {train} line 1; give each question its own",
        f"{test} line 7: no answer: 'answer' is empty",
        f"{test} line 8: the same question is in {train} line 1; leave one out",
        f"{test} line 9: no text: 'question' is empty",
        f"{test} line 9: no answer: 'answer' is empty",
    ]


def test_a_wrong_file_does_not_hide_the_other(folder):
    write(folder / "train.jsonl", [{**row, "final": row["answer"], "answer": "x"} for row in TRAIN])
    config = experiment(folder, {"test": "data/none.csv", "columns": {"answer": "answr", "id": "number"}})
    assert refusal(config) == [
        f"{folder}/train.jsonl: no column 'answr' for the answer; did you mean 'answer'? "
        "There are 'question', 'answer', 'final'",
        f"{folder}/train.jsonl: no column 'number' for the id; set questions.file.columns. "
        "There are 'question', 'answer', 'final'",
        f"{folder}/data/none.csv: there is no such file; give its path, absolute or from the working directory",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", ": it holds no questions"),
        ("empty.csv", b"", ": it holds no questions"),
        ("header.csv", b"question,answer\n", ": it holds no questions"),
        ("twice.csv", b"question,answer,,,answer\n1 + 1?,2,,,3\n", " line 1: column 'answer' is there twice; give"),
        ("latin.csv", b"question,answer\n1 \xb1 1?,2\n", " line 2: not UTF-8 (invalid start byte); save the file as"),
        ("latin.jsonl", b'\n\n{"question": "1 \xb1 1?", "answer": 2}\n', " line 3: not UTF-8 (invalid start byte)"),
        ("text.parquet", b"question,answer\n1 + 1?,2\n", ": it cannot be read: "),
        ("data.xlsx", b"PK", ": a file of another kind; give one whose name ends in .jsonl, .csv, .parquet"),
        ("deep.jsonl", b"[" * 100_000, " line 1: not JSON ("),
        ("digits.jsonl", b'{"question": "?", "answer": ' + b"9" * 5000 + b"}", " line 1: not JSON ("),
    ],
)
def test_files_that_are_no_questions(folder, name, content, message):
    (folder / name).write_bytes(content)
    [line] = refusal(experiment(folder, {"test": name}))
    assert line.startswith(f"{folder}/{name}{message}")


def test_one_file_is_not_both_train_and_test(folder):
    config = experiment(folder, {"test": "./train.jsonl"})
    for split in ("train", "test"):
        with pytest.raises(DataError, match=rf"^questions\.file: {folder}/train\.jsonl is both train and test; give"):
            config.questions_of(split)


def test_a_folder_and_a_csv_that_an_open_quote_swallows(folder):
    (folder / "dir.csv").mkdir()
    (folder / "quote.csv").write_text('question,answer\none?,1\n"two?,2\nthree?,3\n')
    assert refusal(experiment(folder, {"test": "dir.csv"})) == [f"{folder}/dir.csv: it cannot be read: Is a directory"]
    [line] = refusal(experiment(folder, {"test": "quote.csv"}))
    assert line.startswith(f"{folder}/quote.csv line 3: not CSV (")


def test_a_folder_of_parquet_files_is_no_file(folder):
    (folder / "dir.parquet").mkdir()
    write(folder / "dir.parquet" / "part.parquet", TEST)
    [line] = refusal(experiment(folder, {"test": "dir.parquet"}))
    assert line.startswith(f"{folder}/dir.parquet: it cannot be read: ")


def test_a_wrong_row_of_parquet_is_named_by_its_index(folder):
    write(folder / "test.parquet", [{"question": "a?", "answer": 1.0}, {"question": "b?", "answer": None}])
    assert refusal(experiment(folder, {"test": "test.parquet"})) == [
        f"{folder}/test.parquet row 1: no answer: 'answer' is empty"
    ]


def test_of_many_wrong_rows_all_are_named_and_the_first_described(folder):
    answers = ["many"] * 40 + [7] + ["many"] * 9
    write(folder / "train.jsonl", [{"question": f"{n}?", "answer": answer} for n, answer in enumerate(answers)])
    lines = refusal(experiment(folder, {"test": "none.csv"}))
    assert lines[0].startswith(f"{folder}/none.csv: there is no such file")
    assert lines[19].startswith(f"{folder}/train.jsonl line 19:")
    assert lines[20:] == [f"{folder}/train.jsonl lines 20-40, 42-50: likewise not to be used"]


def test_a_question_that_the_prompts_answer_is_refused(folder):
    shown = sorted(load_prompts("addition").questions)[0]
    write(folder / "test.csv", [{"question": f"{shown} ", "answer": 1}])
    experiment(folder).questions_of("test")
    [line] = refusal(experiment(folder, {"prompts": "addition"}))
    assert line == f"{folder}/test.csv line 2: the same question is in the prompts addition; leave one out"


def test_places_do_not_depend_on_where_a_trial_runs(folder, monkeypatch):
    (folder / "my.yaml").write_text("{max_tokens: 9, agents: [{answer: [], refine: []}], critic: []}")
    config = experiment(folder, {"prompts": "my.yaml"})
    monkeypatch.chdir("/")
    asked = config.questions_of("test")
    assert [q.text for q in asked] == [row["question"] for row in TEST]
    assert load_prompts(asked[0].source).max_tokens == 9


def test_a_run_may_move_with_its_questions_but_not_get_others(folder, monkeypatch):
    run_folder.prepare(experiment(folder), fresh=False)
    (folder / "runs" / "x" / run_folder.RESULTS).touch()
    moved = folder / "moved"
    moved.mkdir()
    for name in ("runs", "train.jsonl", "test.csv"):
        shutil.move(folder / name, moved / name)
    monkeypatch.chdir(moved)
    run_folder.check(experiment(moved))
    shutil.copy("test.csv", "other.csv")
    with pytest.raises(ConfigError, match=r"another questions\.file\.test;"):
        run_folder.check(experiment(moved, {"test": "other.csv"}))
