"""The prompts of an experiment as `--dry-run` prints them, with placeholders for what differs by question."""

from collections.abc import Callable, Iterator

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.team import Prompt, Team
from mpdf_rllib.questions import Question

Roles = Callable[[Team, int, Question], Iterator[tuple[str, Prompt]]]
"""What an agent is asked for about a question, and how."""


def shown_prompts(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """What each prompt of the debates is for, and its text; of agents that only see other examples the first alone."""
    return _shown(config, _of_debates)


def shown_system_prompts(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """The same of what the systems to compare with ask beside it."""
    return _shown(config, _of_systems)


def _shown(config: ExperimentConfig, roles: Roles) -> Iterator[tuple[str, str]]:
    team = config.make_team()
    shown = set()
    for source, kind in config.questions.prompts:
        question = Question("", "{question}", "", kind, source)
        for author, agent in enumerate(team.members):
            if (own := (agent, agent.prompts or source)) in shown:
                continue
            shown.add(own)
            for role, prompt in roles(team, author, question):
                yield f"agent {author}, {agent.prompts or source}: {role}", _as_text(prompt)


def _of_debates(team: Team, author: int, question: Question) -> Iterator[tuple[str, Prompt]]:
    yield "first answer", team.answer_prompt(author, question)
    yield "refinement", team.refine_prompt(author, question, "{draft}")
    if team.critic:
        yield "verdict", team.critic_prompt(author, question, "{solution}")


def _of_systems(team: Team, author: int, question: Question) -> Iterator[tuple[str, Prompt]]:
    yield "answer without working", team.direct_prompt(author, question)
    yield "with hints", team.hint_prompt(author, question, ["{answer}", "{answer}"])
    yield "in sight of others", team.discuss_prompt(author, question, "{own}", ["{other}", "{other}"])


def _as_text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"[{role}] {content}" for role, content in prompt)
