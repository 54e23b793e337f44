import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import mpdf_rllib

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("envs", "algorithms", "tuned_examples")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, symlinks kept."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("mpdf_rllib", *LINKED):
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    command = "pip wheel --quiet --no-deps --no-index --no-build-isolation --wheel-dir dist ."
    result = run(sys.executable, "-m", *command.split(), cwd=checkout)
    assert result.returncode == 0, result.stderr
    (path,) = (checkout / "dist").glob("*.whl")
    return path


def test_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert mpdf_rllib.__version__ == project["version"]


@pytest.mark.parametrize("name", LINKED)
def test_package_links_to_the_folder_at_the_top(name: str) -> None:
    link = ROOT / "mpdf_rllib" / name
    assert link.readlink() == Path("..", name)
    assert link.resolve() == ROOT / name


@pytest.mark.parametrize("name", ["envs", "algorithms"])
def test_plain_import_of_a_folder_names_the_package(checkout: Path, name: str) -> None:
    result = run(sys.executable, "-c", f"import {name}", cwd=checkout)
    assert result.returncode == 1
    assert "ImportError" in result.stderr
    assert f"mpdf_rllib.{name}" in result.stderr


def test_checkout_imports_without_installation(checkout: Path) -> None:
    program = "import mpdf_rllib.algorithms, mpdf_rllib.envs; print(mpdf_rllib.envs.__file__)"
    result = run(sys.executable, "-c", program, cwd=checkout)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == checkout / "mpdf_rllib" / "envs" / "__init__.py"


def test_wheel_holds_every_file_of_the_package(checkout: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.partition("/")[0].endswith(".dist-info")}
        licenses = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
        links = [entry.filename for entry in archive.infolist() if entry.external_attr >> 28 == 0xA]
    expected = {
        path.relative_to(checkout).as_posix()
        for top in (checkout / "mpdf_rllib", *(checkout / "mpdf_rllib" / name for name in LINKED))
        for path in top.rglob("*")
        if path.is_file()
    }
    assert {"mpdf_rllib/py.typed", "mpdf_rllib/envs/__init__.py", "mpdf_rllib/algorithms/__init__.py"} <= expected
    assert held == expected
    assert licenses
    assert not links


def test_wheel_imports_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); import mpdf_rllib.envs as e; print(e.__file__)"
    )
    result = run(sys.executable, "-c", program, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == tmp_path / "site" / "mpdf_rllib" / "envs" / "__init__.py"
