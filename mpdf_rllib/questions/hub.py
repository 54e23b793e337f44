"""Rows of data sets: from files in a folder, or from the Hugging Face hub at a pinned revision.

Both are read by `datasets`, which keeps them in its cache on disk and maps them into memory. Files of the hub are
looked up in the hub's cache first; those of a split that are not there are downloaded.
"""

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mpdf_rllib.errors import ConfigError, DataError
from mpdf_rllib.questions.families import Split

TIMEOUT = 5.0
"""Seconds in which the hub has to answer."""
_READERS = {".parquet": "parquet", ".jsonl": "json", ".gz": "json"}


@dataclass(frozen=True)
class HubFiles:
    """Where a data set's rows are.

    Attributes:
        name: Of the data set, and of its folder in `questions.path`.
        hub_id: Of its repository.
        revision: Commit of the repository.
        patterns: The files of each split that it is used for, as the repository has them.
    """

    name: str
    hub_id: str
    revision: str
    patterns: Mapping[Split, tuple[str, ...]]

    def download(self, split: Split, folder: str) -> str:
        """The command that puts the files of a split into a folder."""
        included = " ".join(f"--include '{pattern}'" for pattern in self.patterns[split])
        return (
            f"`hf download {self.hub_id} --repo-type dataset --revision {self.revision} {included} "
            f"--local-dir {folder}`"
        )


class Rows(NamedTuple):
    """The rows of a split.

    Attributes:
        place: The files, for messages.
        data: A `datasets.Dataset`.
    """

    place: str
    data: Any


def read_rows(files: HubFiles, split: Split, path: str | None, columns: str) -> Rows:
    """Reads the rows of a split.

    Args:
        files: Where they are.
        split: Whose rows.
        path: A folder that holds the folder `files.name`; None for the hub. In it are files as the hub's repository has
            them, or SPLIT.parquet, SPLIT.jsonl or SPLIT.jsonl.gz.
        columns: What the files must have, for messages.

    Raises:
        ConfigError: The files are not there, or the hub cannot be reached; says which file to put where.
        DataError: A file cannot be read.
    """
    if path is None:
        folder = _snapshot(files, split, columns)
        found = _matching(folder, files.patterns[split])
        if not found:
            raise ConfigError(
                f"questions.benchmark: {files.hub_id} has no {' or '.join(files.patterns[split])} at revision "
                f"{files.revision}; put {split}.jsonl with {columns} into DATA/{files.name}, and set "
                "questions.path=DATA"
            )
    else:
        folder = Path(path) / files.name
        own = tuple(f"{split}{suffix}" for suffix in (".parquet", ".jsonl", ".jsonl.gz"))
        found = _matching(folder, (*files.patterns[split], *own))
        if not found:
            raise ConfigError(
                f"questions.path: no rows of {files.name}'s {split} split in {folder}: put {' or '.join(own)} with "
                f"{columns} there, or the hub's own files by {files.download(split, str(folder))}"
            )
    return Rows(", ".join(map(str, found)), _read(found))


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """The files of the first pattern that has any."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for pattern in patterns:
        if found := [path for name, path in names.items() if fnmatch.fnmatchcase(name, pattern)]:
            return found
    return []


def _snapshot(files: HubFiles, split: Split, columns: str) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import LocalEntryNotFoundError

    def fetch(local_files_only: bool) -> Path:
        with _quiet():
            return Path(
                huggingface_hub.snapshot_download(
                    files.hub_id,
                    repo_type="dataset",
                    revision=files.revision,
                    allow_patterns=list(files.patterns[split]),
                    local_files_only=local_files_only,
                )
            )

    with contextlib.suppress(LocalEntryNotFoundError):
        folder = fetch(local_files_only=True)
        if _matching(folder, files.patterns[split]):
            return folder
    try:
        # Without its retries, which take half a minute where there is no network.
        huggingface_hub.HfApi().dataset_info(files.hub_id, revision=files.revision, timeout=TIMEOUT)
        return fetch(local_files_only=False)
    except Exception as error:  # what its HTTP client raises is not its interface
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        command = files.download(split, f"DATA/{files.name}")
        raise ConfigError(
            f"questions.benchmark: {files.hub_id} is not in {huggingface_hub.constants.HF_HUB_CACHE}, and could not be "
            f"had from the hub ({reason}). Where there is a network, run {command}, or"
            f" put {split}.jsonl with {columns} into DATA/{files.name}; then set questions.path=DATA"
        ) from error


def _read(paths: list[Path]) -> Any:
    import datasets

    names = [str(path) for path in paths]
    try:
        with _quiet():
            return datasets.load_dataset(_READERS[paths[0].suffix], data_files=names, split="train")
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise DataError(f"{', '.join(names)}: it cannot be read: {reason}; give rows of one form") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars and messages in the middle of ours."""
    import datasets
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level = datasets.logging.get_verbosity()
    bars, hub_bars = not datasets.are_progress_bars_disabled(), not are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
        if hub_bars:
            enable_progress_bars()
