"""Rows of data sets: from files in a folder, or from the Hugging Face hub at a pinned revision.

Both are read by `datasets`, which keeps them in its cache on disk and maps them into memory. Files of the hub are
looked up in the hub's cache first; where not all of a split are there, they are downloaded.
"""

import contextlib
import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
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
        patterns: The files of each split that it is used for, as the repository has them; all are needed.
        elsewhere: The one file of a split as its authors publish it elsewhere.
    """

    name: str
    hub_id: str
    revision: str
    patterns: Mapping[Split, tuple[str, ...]]
    elsewhere: Mapping[Split, str] = field(default_factory=dict)

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
        ConfigError: Files are missing, or the hub cannot be reached; says which file to put where.
        DataError: A file cannot be read.
    """
    if path is None:
        found = _snapshot(files, split, columns)
    else:
        folder = Path(path) / files.name
        found, missing = _matching(folder, files.patterns[split])
        if missing:
            own = [f"{split}{suffix}" for suffix in (".parquet", ".jsonl", ".jsonl.gz")]
            names = [*own, files.elsewhere[split]] if split in files.elsewhere else own
            whole = next((folder / name for name in names if (folder / name).is_file()), None)
            if whole is None:
                lacking = f"not all rows (without {', '.join(missing)})" if found else "no rows"
                raise ConfigError(
                    f"questions.path: {lacking} of {files.name}'s {split} split in {folder}: put {' or '.join(own)} "
                    f"with {columns} there, or the hub's own files by {files.download(split, str(folder))}"
                )
            found = [whole]
    return Rows(", ".join(map(str, found)), _read(found))


def _matching(folder: Path, patterns: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """The files that match, and the patterns that none does."""
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    by_pattern = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
    found = [names[name] for matching in by_pattern.values() for name in matching]
    return found, [pattern for pattern, matching in by_pattern.items() if not matching]


def _snapshot(files: HubFiles, split: Split, columns: str) -> list[Path]:
    """All files of a split, from the hub's cache or from the hub."""
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

    # What the cache has may be a part: of a download that was interrupted, or of another split.
    missing = list(files.patterns[split])
    with contextlib.suppress(LocalEntryNotFoundError):
        found, missing = _matching(fetch(local_files_only=True), files.patterns[split])
        if not missing:
            return found
    try:
        # Without its retries, which take half a minute where there is no network.
        huggingface_hub.HfApi().dataset_info(files.hub_id, revision=files.revision, timeout=TIMEOUT)
        folder = fetch(local_files_only=False)
    except Exception as error:  # what its HTTP client raises is not its interface
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        command = files.download(split, f"DATA/{files.name}")
        raise ConfigError(
            f"questions.benchmark: {files.hub_id} is not in {huggingface_hub.constants.HF_HUB_CACHE} (no "
            f"{', '.join(missing)}), and could not be had from the hub ({reason}). Where there is a network, run "
            f"{command}, or put {split}.jsonl with {columns} into DATA/{files.name}; then set questions.path=DATA"
        ) from error
    found, missing = _matching(folder, files.patterns[split])
    if missing:
        raise ConfigError(
            f"questions.benchmark: {files.hub_id} has no {', '.join(missing)} at revision {files.revision}; put "
            f"{split}.jsonl with {columns} into DATA/{files.name}, and set questions.path=DATA"
        )
    return found


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
