"""The prompts of an experiment as `--dry-run` prints them, with placeholders for what differs by question."""

from collections.abc import Iterator

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.envs.team import Prompt, Team
from mpdf_rllib.questions import Question


def shown_prompts(config: ExperimentConfig) -> Iterator[tuple[str, str]]:
    """What each prompt is for, and its text; of agents that only see other examples of a file the first alone."""
    team = config.make_team()
    shown = set()
    for source, kind in config.questions.prompts:
        question = Question("", "{question}", "", kind, source)
        for author, agent in enumerate(team.members):
            if (own := (agent, agent.prompts or source)) in shown:
                continue
            shown.add(own)
            for role, prompt in _by_role(team, author, question):
                yield f"agent {author}, {agent.prompts or source}: {role}", _as_text(prompt)


def _by_role(team: Team, author: int, question: Question) -> Iterator[tuple[str, Prompt]]:
    yield "first answer", team.answer_prompt(author, question)
    yield "refinement", team.refine_prompt(author, question, "{draft}")
    if team.critic:
        yield "verdict", team.critic_prompt(author, question, "{solution}")


def _as_text(prompt: Prompt) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"[{role}] {content}" for role, content in prompt)
