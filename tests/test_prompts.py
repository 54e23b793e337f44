import hashlib
import json
from typing import get_args

import jsonschema
import pytest

from mpdf_rllib.envs.self_report import read_report, report_schema
from mpdf_rllib.errors import DataError
from mpdf_rllib.prompts import VERDICTS, Instructions, Prompts, as_text, load_prompts
from mpdf_rllib.questions import Kind

FAMILIES = ("multiplication", "addition", "arithmetic")
ALL_FAMILIES = (*FAMILIES, "subtraction", "division")

FIRST_ANSWER = """\
Q: Mia buys 5 pens on each of 3 days. How many pens?
A: 3 * 5 = 15

Q: Ben buys 12 eggs on each of 12 days. How many eggs?
A: 12 * 12 = 144

Q: Leo has 3 boxes with 3 eggs each. How many eggs?
A: 3 * 3 = 9

Q: Amy buys 6 apples on each of 5 days. How many apples?
A: 5 * 6 = 30

Q: Eva has 7 boxes with 3 cards each. How many cards?
A: 7 * 3 = 21

Q: Eva buys 6 keys on each of 5 days. How many keys?
A: 5 * 6 = 30

Q: 12 bags hold 10 pens each. How many pens in all?
A: 12 * 10 = 120

Q: Ann buys 6 apples on each of 9 days. How many apples?
A: 9 * 6 = 54

Q: <question>
A:"""

REFINEMENT = """\
Draft: 57
Q: 12 * 5
A: 60

Draft: 13
Q: 2 + 12
A: 14

Draft: 41
Q: 7 * 6
A: 42

Draft: 12
Q: 3 + 9
A: 12

Draft: 1
Q: 10 - 7
A: 3

Draft: 23
Q: 12 + 11
A: 23

Draft: 20
Q: 4 * 5
A: 20

Draft: 5
Q: 15 - 10
A: 5

Draft: <draft number>
Q: <question>
A:"""

VERDICT = """\
Q: Ivy found 26 books on one day and 4 books on the next day. How many books?
A: 26 + 4 = 30
Verdict: right

Q: Sam found 34 stamps on one day and 6 stamps on the next day. How many stamps?
A: 34 + 6 = 39
Verdict: wrong

Q: There are 42 cards in one bag and 2 in another bag. How many cards in all?
A: 42 + 2 = 45
Verdict: wrong

Q: Amy found 22 keys on one day and 6 keys on the next day. How many keys?
A: 22 + 6 = 28
Verdict: right

Q: Ben found 47 cups on one day and 8 cups on the next day. How many cups?
A: 47 + 8 = 54
Verdict: wrong

Q: Amy found 10 apples on one day and 2 apples on the next day. How many apples?
A: 10 + 2 = 12
Verdict: right

Q: Eva found 33 coins on one day and 6 coins on the next day. How many coins?
A: 33 + 6 = 39
Verdict: right

Q: There are 33 books in one bag and 9 in another bag. How many books in all?
A: 33 + 9 = 44
Verdict: wrong

Q: <question>
A: <solution>
Verdict:"""

# SHA-256 of the prompts that the embedded default was measured with, placeholders included.
MEASURED = {
    ("multiplication", "answer", 0): "15d1326bd4653fd820279d48ac1bc58b7d2c24a4fc13268035254e50e8a49a2f",
    ("multiplication", "refine", 0): "0731e0620ffc5b24924d0a99b5661438e825215330490c6a7b500b90147140dd",
    ("multiplication", "answer", 1): "81a46cbfaeb703b6d3a9173a2be54975007a67f0fefe3425cba788ce8a2a251a",
    ("multiplication", "refine", 1): "65b82345a2bba9bb674a951082fd7add4796c6ae42d9ff971260838704ce4c32",
    ("multiplication", "answer", 2): "061db9ae0833a46410cf3e4ab8892419af3166ca560f112b047a74e2dc6a2b9a",
    ("multiplication", "refine", 2): "20f7c77089729dd3bf0d64d15b973d2d6be58129ffab39f08cd671ae7bf96aa7",
    ("multiplication", "critic", 0): "ac413cbc1ccc932505c43208688ccf6460e3d4e03598276ad93747307fa388e3",
    ("addition", "answer", 0): "57c0e27e2a648bc0f4181617909bd4ec102f912b319daf1aa78cb00f5032cc94",
    ("addition", "refine", 0): "29ae0c71a83d85640fa937c5b091fda4a6dbdaf91c859cb4f93d73fd1e7674e6",
    ("addition", "answer", 1): "68f83be6430bd051e290fe5a9703b43502543d74e92a72730566774a8eddf50f",
    ("addition", "refine", 1): "f169c1cf6206b60ff15922e38512aa6ef3294ed703d02a4be171af21acaabba8",
    ("addition", "answer", 2): "634073f7b4bb450282f2c91e17527fe21fcee22cf17b0db120113bec2a99c9fd",
    ("addition", "refine", 2): "4d80314fa29c3d12a34723326eb0becb616b389bcb19d3c18ea20c730f38a6f2",
    ("addition", "critic", 0): "402132d200e3598cfdcaaca45e3abbcef8f68f1cb506f27b49ef1b830da49a92",
    ("arithmetic", "answer", 0): "7aab1a9095d0989683a2f9c1ce5c969a4fab1b73f527a6ccd04f2cec80746564",
    ("arithmetic", "refine", 0): "5545e4e12e04205402d7b290da70876fd446c4885e64a8d4eab64752b9dd4ddd",
    ("arithmetic", "answer", 1): "97bb453b504395a2715b9b8c7caca107376a7ac9146652c53c4a004e38eae796",
    ("arithmetic", "refine", 1): "fc572fac1b366c7650baee593199af9bbeda0859bebd082be233e763c21a1b90",
    ("arithmetic", "answer", 2): "645c4722d5a9a23cbee2f1bfff288bbd4e3164d7a4b17ace4ef17415be577816",
    ("arithmetic", "refine", 2): "59c351fde5fb057cdb79d20dbbb6f1e5807fe8df3fbca348e677aca1fcd9a99c",
    ("arithmetic", "critic", 0): "73062f45894eba1abf3ed74f80984d03585eb80aa61a20e2b8f88e712eb86977",
}


def render(source: str, role: str, agent: int) -> str:
    prompts = load_prompts(source)
    if role == "answer":
        return as_text(prompts.answer_turns(agent, "<question>"))
    if role == "refine":
        return as_text(prompts.refine_turns(agent, "<question>", "<draft number>"))
    return as_text(prompts.critic_turns("<question>", "<solution>"), "Verdict:")


def test_a_first_answer_word_for_word():
    assert render("multiplication", "answer", 0) == FIRST_ANSWER


def test_a_refinement_word_for_word():
    assert render("arithmetic", "refine", 1) == REFINEMENT


def test_a_verdict_word_for_word():
    assert render("addition", "critic", 0) == VERDICT
    assert VERDICTS == (" right", " wrong")


@pytest.mark.parametrize(("source", "role", "agent"), MEASURED)
def test_prompts_are_the_measured_ones(source, role, agent):
    digest = hashlib.sha256(render(source, role, agent).encode()).hexdigest()
    assert digest == MEASURED[source, role, agent]


def test_the_bounds_on_tokens_are_the_measured_ones():
    assert [load_prompts(source).max_tokens for source in FAMILIES] == [14, 14, 6]


@pytest.mark.parametrize("source", ALL_FAMILIES)
def test_agents_beyond_the_third_have_its_shots_in_another_order(source):
    prompts = load_prompts(source)
    for agent in range(16):
        turns = prompts.answer_turns(agent, "?")
        shots = list(zip(turns[:-1:2], turns[1::2], strict=True))
        written = prompts.answer_turns(agent % 3, "?")
        turn = agent // 3
        first = list(zip(written[:-1:2], written[1::2], strict=True))
        assert shots == first[turn:] + first[:turn]
        assert turns[-1] == ("user", "Q: ?")
    for role in ("answer", "refine"):
        assert len({render(source, role, agent) for agent in range(16)}) == 16


def test_the_mixed_prompts_show_each_family_as_often():
    shots = {source: load_prompts(source) for source in FAMILIES}
    mixed = load_prompts("mixed")
    (answers,), (refinements,) = mixed.answer, mixed.refine
    for source in FAMILIES:
        of_family = [shot for agent in shots[source].answer for shot in agent]
        assert sum(shot in of_family for shot in answers) == 3
        assert sum(shot in shots[source].refine[0] for shot in refinements) == 8
        assert sum(shot in shots[source].critic for shot in mixed.critic) == 3
    assert mixed.max_tokens == 14


def test_reports_are_of_the_familys_own_examples():
    own, reports = load_prompts("multiplication"), load_prompts("multiplication_reports")
    schema = json.loads(report_schema("number", max_tokens=reports.max_tokens))
    for plain, reported in ((own.answer, reports.answer), (own.refine, reports.refine)):
        for shots, with_reports in zip(plain, reported, strict=True):
            for (*asked, answer), (*also_asked, text) in zip(shots, with_reports, strict=True):
                jsonschema.validate(json.loads(text), schema)
                report = read_report(text)
                assert report is not None and report.reasoning == answer
                assert asked == also_asked and report.answer == answer.rsplit(" = ")[-1]


@pytest.mark.parametrize("source", ALL_FAMILIES)
def test_examples_are_right_and_half_of_the_drafts_wrong(source):
    prompts = load_prompts(source)
    for answers, refinements in zip(prompts.answer, prompts.refine, strict=True):
        for question, answer in answers:
            asked, _, result = answer.partition(" = ") if " = " in answer else (question, "", answer)
            assert eval(asked) == int(result)
        rights = [draft == answer.rsplit(" = ")[-1] for draft, _, answer in refinements]
        assert sum(rights) == len(rights) / 2
    assert {verdict for _, _, verdict in prompts.critic} == {word.strip() for word in VERDICTS}
    for _, answer, verdict in prompts.critic:
        if " = " in answer:
            asked, _, result = answer.partition(" = ")
            assert (eval(asked) == int(result)) == (verdict == VERDICTS[0].strip())


@pytest.mark.parametrize("source", ALL_FAMILIES)
def test_chat_turns_alternate_and_end_with_the_question(source):
    prompts = load_prompts(source)
    asked = {
        "Q: 1 + 1": prompts.answer_turns(4, "1 + 1"),
        "Draft: 3\nQ: 1 + 1": prompts.refine_turns(4, "1 + 1", "3"),
        "Q: 1 + 1\nA: = 3": prompts.critic_turns("1 + 1", "= 3"),
    }
    for last, turns in asked.items():
        assert [role for role, _ in turns] == ["user", "assistant"] * 8 + ["user"]
        assert turns[-1][1] == last
        assert all(content and content == content.strip() for _, content in turns)


def test_a_prompt_without_shots_is_the_question():
    prompts = Prompts(answer=((),), refine=((),), critic=(), max_tokens=1)
    assert as_text(prompts.critic_turns("1 + 1", "= 2"), "Verdict:") == "Q: 1 + 1\nA: = 2\nVerdict:"


def test_a_source_without_prompts_is_named():
    with pytest.raises(DataError, match="no prompts trivia; give one of addition, arithmetic, .* or the path"):
        load_prompts("trivia")


def test_prompts_without_examples_say_what_to_do():
    prompts = load_prompts("generic")
    assert prompts.questions == set()
    told = prompts.instructions
    hint = "Hint: the answer is near to 3, 4."
    for instruction, query, turns in (
        (told.answer, "Q: 1 + 1", prompts.answer_turns(5, "1 + 1")),
        (told.refine, "Draft: 3\nQ: 1 + 1", prompts.refine_turns(5, "1 + 1", "3")),
        (told.critic, "Q: 1 + 1\nA: 3", prompts.critic_turns("1 + 1", "3")),
        (told.direct, "Q: 1 + 1", prompts.direct_turns("1 + 1")),
        (told.answer, f"{hint}\nQ: 1 + 1", prompts.hint_turns(5, "1 + 1", ["3", "4"])),
        (told.discuss, "Draft: 3\nPeer: 2\nQ: 1 + 1", prompts.discuss_turns(5, "1 + 1", "3", ["2"])),
        (told.discuss, "Peer: 2\nPeer: 4\nQ: 1 + 1", prompts.discuss_turns(5, "1 + 1", None, ["2", "4"])),
    ):
        assert instruction and turns == [("user", f"{instruction}\n\n{query}")]


@pytest.mark.parametrize("kind", get_args(Kind))
def test_each_kind_of_questions_has_instructions_of_its_own(kind):
    instructions = load_prompts("generic", kind).instructions
    texts = [*instructions.model_dump().values()]
    assert all(text == text.strip() != "" for text in texts)
    assert instructions.discuss.endswith(instructions.answer)
    for other in get_args(Kind):
        if other != kind:
            others = {*load_prompts("generic", other).instructions.model_dump().values()}
            assert {*texts} & others <= {instructions.critic}


ADD_ONE = Instructions(answer="Add one.")


DISCUSS = ((("2", "3", "4"), "1 + 1", "2"), (("7", "5"), "2 + 3", "5"))


@pytest.mark.parametrize(
    ("discuss", "own", "asked"),
    [
        (DISCUSS, "9", ["Draft: 2\nPeer: 3\nPeer: 4\nQ: 1 + 1", "Draft: 7\nPeer: 5\nQ: 2 + 3"]),
        (DISCUSS, None, ["Peer: 2\nPeer: 3\nPeer: 4\nQ: 1 + 1", "Peer: 7\nPeer: 5\nQ: 2 + 3"]),
        ((), "9", ["Draft: 6\nQ: 3 + 4"]),
        ((), None, ["Peer: 6\nQ: 3 + 4"]),
    ],
)
def test_examples_of_discussions_are_as_the_question(discuss, own, asked):
    prompts = Prompts(answer=((),), refine=((("6", "3 + 4", "7"),),), critic=(), max_tokens=1, discuss=discuss)
    *examples, (_, query) = prompts.discuss_turns(0, "4 + 4", own, ["8"])
    assert [content for role, content in examples if role == "user"] == asked
    assert query == ("Draft: 9\n" if own else "") + "Peer: 8\nQ: 4 + 4"


def test_an_instruction_opens_the_first_example():
    prompts = Prompts(answer=((("2", "3"),),), refine=((),), critic=(), max_tokens=1, instructions=ADD_ONE)
    assert as_text(prompts.answer_turns(0, "4")) == "Add one.\n\nQ: 2\nA: 3\n\nQ: 4\nA:"
    assert prompts.refine_turns(0, "4", "9") == [("user", "Draft: 9\nQ: 4")]


def test_prompts_of_ones_own_have_the_format_of_the_packaged(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text(
        "max_tokens: 9\nagents: [{answer: [[1 + 1, 2]], refine: [[3, 1 + 1, 2]]}]\ncritic: [[1 + 1, 2, right]]"
    )
    assert load_prompts(str(own)) == Prompts(
        answer=((("1 + 1", "2"),),), refine=((("3", "1 + 1", "2"),),), critic=(("1 + 1", "2", "right"),), max_tokens=9
    )


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("max_tokens: 0\nagents: []\ncritic: []\nshots: 3", ["max_tokens", "agents", "shots"]),
        (
            "agents: [{answer: [[a]]}]\ncritic: [[a, b, maybe]]\ninstructions: bykind",
            [
                *("max_tokens: field required", "agents.0.answer.0.1: field required", "agents.0.refine"),
                *("critic.0.2: 'maybe': input should be 'right' or 'wrong'", "instructions: 'bykind': "),
            ],
        ),
        ("", ["None: give keys and values"]),
    ],
)
def test_what_is_wrong_with_prompts_of_ones_own_is_named(tmp_path, content, wrong):
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(DataError) as error:
        load_prompts(str(own))
    first, *others = str(error.value).split("\n  ")
    assert first == f"prompts {own}:" and len(others) == len(wrong)
    for line, beginning in zip(others, wrong, strict=True):
        assert line.startswith(beginning)


@pytest.mark.parametrize(
    ("content", "message"), [("a: [", "expected the node content"), ("a: 1\na: 2", "key 'a' is given twice")]
)
def test_prompts_of_ones_own_that_are_not_yaml(tmp_path, content, message):
    own = tmp_path / "own.yaml"
    own.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_prompts(str(own))
    assert str(error.value).startswith(f"prompts {own}: ")
