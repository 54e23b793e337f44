"""AFlow: a tree search over workflows of operators, scored on validation questions (Zhang et al., arXiv 2410.10762).

Each round selects one of the best workflows so far and has a model change it, in sight of its score and of what was
tried from it. The search ends early where the mean of the best three does not change for five rounds.

As published: the initial workflow is one call; the candidates of the selection and their probabilities (the paper's,
its code has flatter ones); the model is told to make one change at a time, and not held to it; for what was tried
already it is asked again.

Ours: a workflow is data, not code, of three operators that ask what debates ask, see `workflow`; the published ones
also run programs and write prompts, and their ensemble is a model's choice where ours is a vote. Ensembles that change
nothing are left out, so that none is scored under two names. Each workflow is scored once, not five times, since a
recording gives the same draws again; of equal accuracies the one with fewer generated tokens is better, then the
earlier one. The model is also told which other workflows were tried, and is not shown what they got wrong; after three
proposals of none that is new the round is lost. Without a model an untried edit of the selected workflow is drawn.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mpdf_rllib.baselines.system import Advisor, Panel, Requests, Session, System, outcome
from mpdf_rllib.baselines.workflow import (
    INITIAL,
    MAX_OPERATORS,
    MAX_REQUESTS,
    Workflow,
    as_list,
    edits,
    read_workflow,
    run,
)
from mpdf_rllib.engine import Engine, Position
from mpdf_rllib.envs.solution import Solution
from mpdf_rllib.errors import PromptError
from mpdf_rllib.prompts import packaged_text
from mpdf_rllib.questions import Question

TOP = 3
"""The best workflows: candidates of the selection, and those whose mean accuracy ends the search [paper]."""
LAMBDA, ALPHA = 0.2, 0.4
"""The uniform share of the selection, and its sharpness by percent of accuracy [paper]."""
PATIENCE = 5
"""Rounds in a row without a change of the best workflows' mean accuracy, after which the search ends [paper]."""
ATTEMPTS = 3
"""Of a model to propose in one round [ours]."""


@dataclass(frozen=True)
class Trial:
    """A workflow that was scored.

    Attributes:
        workflow: Not that of any other trial.
        parent: The workflow that was changed to it; None for the initial one.
        accuracy: On the validation questions, in [0, 1].
        generated: Mean generated tokens a question.
    """

    workflow: Workflow
    parent: Workflow | None
    accuracy: float
    generated: float


class Proposer(Protocol):
    """What changes workflows."""

    async def propose(self, trials: Sequence[Trial], selected: Trial) -> Workflow | None:
        """A workflow that was not tried, from the selected one; None where none is found.

        Raises:
            EngineError: The engine failed.
        """
        ...


class AFlow(System):
    """The best workflow on validation questions that a search finds."""

    def __init__(self, rounds: int, validation: int, seed: int, proposer: Advisor | None):
        """Has nothing tried yet.

        Args:
            rounds: Workflows to propose besides the initial one; the paper's are 20.
            validation: Training questions to score on; all where there are fewer. The paper's are a fifth.
            seed: Of the validation questions, the selections, and the edits where no model proposes them.
            proposer: The model that changes workflows; None to draw edits.
        """
        self.label = "AFlow" if proposer else "AFlow (edits enumerated)"
        self._rounds, self._validation, self._seed, self._advisor = rounds, validation, seed, proposer
        self._workflow = INITIAL

    async def fit(self, panel: Panel, questions: Sequence[Question]) -> None:
        rng = np.random.default_rng(self._seed)
        drawn = [questions[i] for i in rng.permutation(len(questions))[: self._validation]]
        proposer = _Asked(self._advisor, panel.engine, self._seed) if self._advisor else _Drawn(rng)
        trials, lost = await _search(panel, drawn, self._rounds, proposer, rng)
        best = ranked(trials)[0]
        self._workflow = best.workflow
        accuracy = f"{best.accuracy:.3f}".removeprefix("0")
        rounds = f"{len(trials) - 1 + lost} rounds" + (f", {lost} of them without a new workflow" if lost else "")
        self.learned = f"{', '.join(best.workflow)} ({accuracy} of {len(drawn)} validation questions; {rounds})"

    async def solve(self, session: Session) -> Solution | None:
        return await run(self._workflow, session)

    def requests(self, agents: int) -> Requests:
        proposals = self._rounds * ATTEMPTS if self._advisor else 0
        return Requests(fit=proposals + (1 + self._rounds) * self._validation * MAX_REQUESTS, answer=MAX_REQUESTS)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """The trials, the best first."""
    return sorted(trials, key=lambda trial: (-trial.accuracy, trial.generated))


def candidates(trials: Sequence[Trial]) -> list[Trial]:
    """Whose workflows may be changed next: the best, and the initial one, which is the first trial."""
    best = ranked(trials)[:TOP]
    return best if trials[0] in best else [*best, trials[0]]


def selection_probabilities(accuracies: Sequence[float]) -> np.ndarray:
    """The paper's mixture of a uniform choice and a softmax, shape (n,), of accuracies in [0, 1], at least one."""
    percent = 100 * np.asarray(accuracies)
    weights = np.exp(ALPHA * (percent - percent.max()))
    return LAMBDA / len(percent) + (1 - LAMBDA) * weights / weights.sum()


async def _search(
    panel: Panel, questions: Sequence[Question], rounds: int, proposer: Proposer, rng: np.random.Generator
) -> tuple[list[Trial], int]:
    """The trials, and in how many rounds nothing was proposed."""

    async def tried(workflow: Workflow, parent: Workflow | None) -> Trial:
        scored = await outcome(panel, questions, lambda session: run(workflow, session))
        return Trial(workflow, parent, scored.accuracy, scored.generated)

    trials = [await tried(INITIAL, None)]
    means, lost = [_mean_of_best(trials)], 0
    for _ in range(rounds):
        choice = candidates(trials)
        selected = choice[rng.choice(len(choice), p=selection_probabilities([trial.accuracy for trial in choice]))]
        if workflow := await proposer.propose(trials, selected):
            trials.append(await tried(workflow, selected.workflow))
        else:
            lost += 1
        means.append(_mean_of_best(trials))
        if means[-PATIENCE - 1 :] == [means[-1]] * (PATIENCE + 1):
            break
    return trials, lost


def _mean_of_best(trials: Sequence[Trial]) -> float:
    """Exact, so that equal means are equal however many trials there are."""
    return statistics.mean(trial.accuracy for trial in ranked(trials)[:TOP])


class _Drawn:
    """Draws an edit of the selected workflow; where all of its edits were tried, one of any workflow's."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng

    async def propose(self, trials: Sequence[Trial], selected: Trial) -> Workflow | None:
        options = _untried(trials, [selected]) or _untried(trials, trials)
        return options[self._rng.integers(len(options))] if options else None


def _untried(trials: Sequence[Trial], of: Sequence[Trial]) -> list[Workflow]:
    tried = {trial.workflow for trial in trials}
    return [edit for trial in of for edit in edits(trial.workflow) if edit not in tried]


class _Asked:
    """Asks a model, again where it proposes no workflow or one that was tried; each time is another draw."""

    def __init__(self, advisor: Advisor, engine: Engine, seed: int):
        self._advisor, self._engine, self._seed = advisor, engine, seed
        self._asked = 0

    async def propose(self, trials: Sequence[Trial], selected: Trial) -> Workflow | None:
        prompt = _prompt(trials, selected)
        for _ in range(ATTEMPTS):
            position = Position("aflow", self._seed, self._asked)
            self._asked += 1
            request = self._advisor.request([("user", prompt)], position, temperature=1.0)
            try:
                workflow = read_workflow((await self._engine.generate(request)).text)
            except PromptError:  # and so would be the next
                return None
            if workflow and workflow not in {trial.workflow for trial in trials}:
                return workflow
        return None


def _prompt(trials: Sequence[Trial], selected: Trial) -> str:
    changes = [trial for trial in trials if trial.parent == selected.workflow]
    others = [trial for trial in trials if trial not in (selected, *changes)]
    return packaged_text("workflow.txt").format(
        longest=MAX_OPERATORS,
        selected=_scored(selected),
        changes=_lines(f"{_scored(change)}, {_verdict(change, selected)}" for change in changes),
        others=_lines(map(_scored, others)),
    )


def _scored(trial: Trial) -> str:
    return f"{as_list(trial.workflow)}: {100 * trial.accuracy:.1f} % right"


def _verdict(change: Trial, selected: Trial) -> str:
    return "a success" if change.accuracy > selected.accuracy else "a failure"


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines) or "none"
