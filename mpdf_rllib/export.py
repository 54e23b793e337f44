"""`python -m mpdf_rllib.export --run RUN --to FOLDER`: a trained policy with a model card, in Hugging Face's layout."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from mpdf_rllib import __version__, cli, run_folder
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.deliberation_team import DeliberationTeam
from mpdf_rllib.envs.credit import CreditKind
from mpdf_rllib.errors import ConfigError, EngineError
from mpdf_rllib.results import SystemResult, accuracy, label, read_results, shown
from mpdf_rllib.trained_policies import policy_folders

EXPERIMENT = "experiment.yaml"
TEMPLATE = Path(__file__).with_name("model_card.md")


def export(run_path: Path, folder: Path, credit: CreditKind | None = None, seed: int = 0) -> None:
    """Writes a run's trained policy, its experiment and a model card into a new folder.

    Args:
        run_path: The run folder.
        folder: Where to, which is made.
        credit: See `DeliberationTeam.from_run`.
        seed: Of the policy.

    Raises:
        ConfigError: There is no such kind of credit or seed, or the folder is there already or cannot be written.
        DataError: The run is not finished.
    """
    team = DeliberationTeam.from_run(run_path, credit, seed)
    results = read_results(run_path / run_folder.RESULTS)
    trained = [*run_folder.read_checkpoints(run_path)]
    card = _card(team, results, folder, credit or trained[0], seed)
    try:
        folder.mkdir(parents=True)
        for policy in policy_folders(run_path, credit, seed):
            into = folder if policy.parent.name == run_folder.POLICIES else folder / policy.name
            shutil.copytree(policy, into, dirs_exist_ok=True)
        (folder / EXPERIMENT).write_text(_shared(team.config), encoding="utf-8")
        card.save(folder / "README.md")
    except FileExistsError as error:
        raise ConfigError(f"to: {folder} is there already; give a folder that is not") from error
    except OSError as error:
        raise ConfigError(f"to: {folder} cannot be written ({error}); give another folder") from error


def push(folder: Path, repository: str) -> str:
    """Uploads an exported policy to the Hugging Face hub, which is asked by its own client; returns its address.

    Raises:
        EngineError: The hub cannot be reached, or refuses it.
    """
    try:
        address = HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # what its HTTP client raises is not its interface
        raise EngineError(
            f"The hub did not take {repository} ({error}). Log in by `hf auth login`, or set HF_TOKEN, with rights to "
            f"write there; what was exported lies in {folder}."
        ) from error
    return str(address)


def _card(
    team: DeliberationTeam, results: Sequence[SystemResult], folder: Path, credit: CreditKind, seed: int
) -> ModelCard:
    config = team.config
    own = next(result for result in results if result.system == label(credit))
    exported = SystemResult(f"this policy, seed {seed}", (own.outcomes[seed],))
    lines = ["| system | accuracy | generated tokens |", "| --- | --- | --- |"]
    for result in (exported, *results):
        lines.append(f"| {result.system} | {shown(accuracy(result))} | {result.tokens[2]:.0f} |")
    sources = [source for source, _ in config.questions.prompts]
    data = ModelCardData(
        model_name=config.name,
        license="apache-2.0",
        library_name="mpdf-rllib",
        tags=["reinforcement-learning", "multi-agent", "rllib"],
        eval_results=[
            EvalResult(
                task_type="question-answering",
                dataset_type=", ".join(sources),
                dataset_name=", ".join(sources),
                metric_type="accuracy",
                metric_value=round(accuracy(exported).mean, 4),
            )
        ],
    )
    own_each = len(team.networks) > 1
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=config.name,
        version=__version__,
        agents=config.team.size,
        models=", ".join(Path(model).name for model in config.team.models),
        parameters=f"{sum(weights.numel() for network in team.networks for weights in network.parameters()):,}",
        folder=folder.name,
        policies=f"[folder / f'agent_{{i}}' for i in range({len(team.networks)})]" if own_each else "[folder]",
        example="12 bags hold 4 pens each. How many pens in all?",
        prompts=next(iter(team.prompts), ""),
        train=config.number_of("train"),
        test=len(results[0].outcomes[0].correct),
        questions=", ".join(sources),
        credit=credit,
        seed=seed,
        seeds=len(own.outcomes),
        results="\n".join(lines),
        config=_shared(config),
    )


def _shared(config: ExperimentConfig) -> str:
    """The experiment, but for where it lay here."""
    return config.model_copy(update={"run_folder": None, "recording": None}).to_yaml()


def _command(options: argparse.Namespace) -> None:
    folder = Path(options.to).expanduser().absolute()
    export(Path(options.run).expanduser().absolute(), folder, options.credit, options.seed)
    cli.output.print(f"exported to {folder}", highlight=False, soft_wrap=True)
    if options.push_to_hub:
        cli.output.print(push(folder, options.push_to_hub), highlight=False, soft_wrap=True)


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m mpdf_rllib.export", description="Write a trained policy with a model card, to share."
    )
    cli.add_policy(arguments)
    arguments.add_argument("--to", required=True, metavar="FOLDER", help="a new folder")
    arguments.add_argument("--push-to-hub", metavar="USER/NAME", help="repository to upload it to, made if need be")
    return arguments


if __name__ == "__main__":
    given = _arguments().parse_args()
    sys.exit(cli.status_of(lambda: _command(given), "the folder may be incomplete: remove it"))
