"""A run's report, as its last step writes it."""

from mpdf_rllib import run_folder
from mpdf_rllib.comparison.played import Played
from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.recorded_trees import RecordedTrees
from mpdf_rllib.report.page import page
from mpdf_rllib.report.runs import read_run


def write_report(config: ExperimentConfig, trees: RecordedTrees | None = None, played: Played | None = None) -> None:
    """Writes report.html of a run into its folder.

    Args:
        config: The experiment.
        trees: See `read_run`.
        played: See `read_run`.

    Raises:
        ConfigError: The folder cannot be written.
        DataError: See `read_run`.
    """
    with run_folder.writing(config.run_path):
        run_folder.write(config.run_path / run_folder.REPORT, page([read_run(config, trees, played)]))
