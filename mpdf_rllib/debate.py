"""`python -m mpdf_rllib.debate --run RUN "question"`: plays one debate of a trained team, live in the terminal."""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from mpdf_rllib import cli
from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.envs.debate import ACTIONS, CONCEDE
from mpdf_rllib.transcript import Decision, Node, Round, Transcript, nodes_of, play_round, transcripts


def debate(team: DeliberationTeam, text: str, prompts: str | None = None) -> Transcript:
    """Plays a debate and prints it as it goes on.

    Args:
        team: Who debates.
        text: The question.
        prompts: What it is asked with; see `DeliberationTeam.answer`.

    Raises:
        ConfigError, DataError, EngineError: See `DeliberationTeam.answer`.
    """
    asked = team.question(text, prompts)
    others = ", ".join(name for name in team.prompts if name != asked.source)
    if prompts is None and others:
        cli.console.print(f"Asked as {asked.source}; --prompts can be {others}.", highlight=False)
    with cli.console.status("Loading the models, and asking for first answers"):
        debates = team.begin([asked])
    tree = debates.tree
    cli.output.print(_holdings("First answers", nodes_of(tree, 0), debates.node[0].tolist()))
    rounds: list[list[Round]] = []
    while not debates.done:
        with cli.console.status(f"Round {debates.round + 1} of {tree.rounds}"):
            rounds.append(play_round(debates, team.networks))
        title = f"Round {debates.round} of {tree.rounds}"
        decisions = rounds[-1][0].decisions
        cli.output.print(_holdings(title, nodes_of(tree, 0), debates.node[0].tolist(), decisions))
    (transcript,) = transcripts(debates, rounds)
    cli.output.print(Text.assemble("Answer: ", (plain(transcript.answer or "none"), "bold")))
    prompt, cached, generated = transcript.tokens
    cli.output.print(
        f"Tokens: {prompt} of prompts, {cached} of them cached, and {generated} generated", highlight=False
    )
    return transcript


def plain(text: str) -> str:
    """What a model wrote, without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _holdings(title: str, nodes: Mapping[int, Node], held: Sequence[int], decisions: Sequence[Decision] = ()) -> Table:
    """What the agents hold, a row an agent, and by what decisions."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("agent", *(("decision", "probabilities") if decisions else ()), "solution", "answer", "confidence"):
        table.add_column(name, overflow="fold")
    for agent, node in enumerate(held):
        solution = nodes[node]
        done = [*_told(decisions[agent])] if decisions else []
        answer = plain(solution.answer or "none")
        text = plain(solution.text.strip())
        table.add_row(*map(Text, (str(agent), *done, text, answer, f"{solution.confidence:.2f}")))
    return table


def _told(decision: Decision) -> Iterator[str]:
    name = ACTIONS[min(decision.action, CONCEDE)].capitalize()
    yield name if decision.target is None else f"{name} to {decision.target}"
    yield ", ".join(f"{_letter(action)} {p:.2f}" for action, p in enumerate(decision.probabilities))


def _letter(action: int) -> str:
    return ACTIONS[min(action, CONCEDE)][0].upper() + ("" if action <= CONCEDE else str(action - CONCEDE + 1))


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m mpdf_rllib.debate", description="Play one debate of a trained team, live in the terminal."
    )
    cli.add_team(arguments)
    arguments.add_argument("question", help="what to debate")
    arguments.add_argument(
        "--prompts", help="what the question is asked with, by default the first of the experiment's"
    )
    return arguments


def _command(options: argparse.Namespace) -> None:
    with DeliberationTeam.from_run(options.run, options.credit, options.seed, options.overrides) as team:
        debate(team, options.question, options.prompts)


if __name__ == "__main__":
    options = _arguments().parse_args()
    sys.exit(cli.status_of(lambda: _command(options), "nothing is kept of it"))
