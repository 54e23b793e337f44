"""Debates as the report's browser shows them: plain values for JSON."""

from collections.abc import Sequence
from typing import Any

from mpdf_rllib.transcript import Node, Transcript


def question_values(walks: Sequence[Transcript]) -> dict[str, Any]:
    """A question with all of its solutions, and a walk of each policy on them.

    Args:
        walks: One a policy, all on the same question and solutions.
    """
    first = walks[0]
    return {
        "id": first.question.id,
        "text": first.question.text,
        "right": first.question.reference.canonical,
        "nodes": {node: _node(solution) for node, solution in first.nodes.items()},
        "walks": [_walk(walk) for walk in walks],
    }


def index_entry(walks: Sequence[Transcript], began_right: bool, disagree: bool) -> dict[str, Any]:
    """What a question is listed and filtered by.

    Args:
        walks: One a policy.
        began_right: Whether the team was right before the first round.
        disagree: Whether the agents' first answers differ.
    """
    question = walks[0].question
    return {
        "id": question.id,
        "text": question.text,
        "disagree": disagree,
        "began": began_right,
        "ended": [bool(walk.correct) for walk in walks],
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "author": node.author,
        "parent": node.parent,
        "text": node.text,
        "answer": node.answer,
        "correct": node.correct,
        "confidence": round(node.confidence, 4),
        "features": [round(value, 4) for value in node.features.values()],
        "tokens": node.tokens,
    }


def _walk(walk: Transcript) -> dict[str, Any]:
    rounds = [
        {
            "answer": each.answer,
            "decisions": [
                {
                    "node": decision.node,
                    "probabilities": [round(p, 4) for p in decision.probabilities],
                    "action": decision.action,
                    "target": decision.target,
                }
                for decision in each.decisions
            ],
        }
        for each in walk.rounds
    ]
    return {
        "rounds": rounds,
        "final": walk.final,
        "team_node": walk.team_node,
        "answer": walk.answer,
        "correct": walk.correct,
        "tokens": walk.tokens,
    }
