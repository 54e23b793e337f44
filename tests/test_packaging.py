import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mpdf_rllib

ROOT = Path(__file__).resolve().parent.parent
LINKED = ("envs", "algorithms", "tuned_examples")


TINY = """
name: tiny
seeds: 1
questions: {families: [multiplication, addition], train: 10, test: 10}
team: {critic: false}
engine: {kind: scripted}
algorithm: {warm_start_iterations: 1, iterations: 1}
"""


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command, in an environment that knows the package from nowhere but the given path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def make_python(folder: Path, packages: Sequence[Path]) -> Path:
    """The interpreter of a fresh environment that finds what else lies in some folders, but nothing installed there."""
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "others.pth").write_text("\n".join(map(str, packages)))
    return folder / "bin" / "python"


def install(python: Path, *what: str | Path) -> None:
    options = ["--quiet", "--ignore-installed", "--no-deps", "--no-index", "--no-build-isolation"]
    result = run(sys.executable, "-m", "pip", "--python", python, "install", *options, *what, cwd=python.parent)
    assert result.returncode == 0, result.stderr


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


OTHERS = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter without the package."""
    return make_python(tmp_path_factory.mktemp("bare"), OTHERS)


@dataclass(frozen=True)
class Way:
    """One of the ways to have the package.

    Attributes:
        python: The interpreter.
        package: Where it then finds the package.
        path: What PYTHONPATH has to be.
    """

    python: Path
    package: Path
    path: Path | None = None


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Way:
    python = make_python(tmp_path_factory.mktemp("installed"), OTHERS)
    install(python, wheel)
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    return Way(python, site / "mpdf_rllib")


@pytest.fixture(scope="module")
def editable(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Way:
    python = make_python(tmp_path_factory.mktemp("editable"), OTHERS)
    install(python, "--editable", checkout)
    return Way(python, checkout / "mpdf_rllib")


@pytest.fixture(scope="module")
def plain(checkout: Path, bare: Path) -> Way:
    return Way(bare, checkout / "mpdf_rllib", checkout)


@pytest.fixture
def way(request: pytest.FixtureRequest) -> Way:
    return request.getfixturevalue(request.param)


def distribution(requirement: str) -> str:
    return re.split("[^a-z0-9-]", requirement.lower().replace("_", "-"))[0]


def test_every_import_is_of_a_declared_dependency() -> None:
    """The environments here have all that lies in this one; a user's has what is declared."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("cpu", "gpu", "reasoning", "wandb", "mlflow")]
    declared = {distribution(name) for names in (project["dependencies"], *extras) for name in names}
    imported: set[str] = set()
    for path in (path for name in ("mpdf_rllib", *LINKED) for path in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    imported -= {"mpdf_rllib", "torch", *sys.stdlib_module_names}  # vLLM brings torch
    installed = packages_distributions()
    undeclared = {name for name in imported if not declared & {distribution(d) for d in installed.get(name, ())}}
    assert not undeclared


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
        if path.is_file() and "__pycache__" not in path.parts  # of tests that trained there
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


@pytest.mark.parametrize("way", ["installed", "editable", "plain"], indirect=True)
def test_a_project_with_packages_of_the_same_names_is_not_disturbed(way: Way, tmp_path: Path) -> None:
    for name in ("envs", "algorithms"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the user'")
    (tmp_path / "main.py").write_text(
        "import algorithms, envs\n"
        "import mpdf_rllib.algorithms.meta_policy, mpdf_rllib.envs.debate\n"
        "import algorithms as later\n"
        "print(envs.OWNER, later.OWNER, mpdf_rllib.envs.debate.__file__, sep='|')\n"
    )
    result = run(way.python, "main.py", cwd=tmp_path, path=way.path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == f"the user|the user|{way.package / 'envs' / 'debate.py'}"


@pytest.mark.parametrize("way", ["installed", "editable"], indirect=True)
def test_the_installed_package_trains_in_any_folder(way: Way, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    result = run(way.python, "-m", "mpdf_rllib.train", "--config", "tiny.yaml", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "SoftRankPO, paper's credit" in result.stdout
    assert (tmp_path / "runs" / "tiny" / "results.parquet").exists()


def test_a_plain_checkout_trains(checkout: Path, bare: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    places = ["--set", f"run_folder={tmp_path / 'run'}", "--set", f"recording={tmp_path / 'recording'}"]
    command = [bare, "-m", "mpdf_rllib.train", "--config", tmp_path / "tiny.yaml", *places]
    result = run(*command, cwd=checkout)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "results.parquet").exists()


def test_a_ray_working_dir_trains_where_nothing_is_installed(checkout: Path, bare: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "driver.py").write_text(
        f"""
import importlib.util
import ray

assert importlib.util.find_spec("mpdf_rllib") is None
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={{"working_dir": {str(checkout)!r}}})

@ray.remote(num_cpus=0)
def job():
    import mpdf_rllib.envs
    from mpdf_rllib.config_file import load_config
    from mpdf_rllib.train import train
    places = ["run_folder={tmp_path / "run"}", "recording={tmp_path / "recording"}"]
    systems = train(load_config({str(tmp_path / "tiny.yaml")!r}, places))
    return mpdf_rllib.envs.__file__, [system.system for system in systems]

print(ray.get(job.remote()))
"""
    )
    result = run(bare, "driver.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "working_dir_files" in result.stdout and str(checkout) not in result.stdout
    assert "SoftRankPO, paper's credit" in result.stdout


def test_a_strangers_mypy_sees_the_types(wheel: Path, tmp_path: Path) -> None:
    numpy_alone = tmp_path / "numpy-alone"
    numpy_alone.mkdir()
    (numpy_alone / "numpy").symlink_to(OTHERS[1] / "numpy")
    python = make_python(tmp_path / "stranger", [numpy_alone])
    install(python, wheel)
    (tmp_path / "stranger.py").write_text(
        "from mpdf_rllib.algorithms.softrankpo import soft_rank_advantages\n"
        "from mpdf_rllib.envs.team import Team\n"
        "reveal_type(soft_rank_advantages)\n"
        "reveal_type(Team(agents=3).rounds)\n"
        "Team(agents='three')\n"
    )
    options = ["--strict", "--no-incremental", "--python-executable", python]
    result = run(sys.executable, "-m", "mypy", *options, "stranger.py", cwd=tmp_path)
    revealed, rounds, error, summary = result.stdout.splitlines()
    assert "rewards: numpy.ndarray" in revealed and "tau: float" in revealed
    assert rounds == 'stranger.py:4: note: Revealed type is "int"'
    assert error.startswith("stranger.py:5: error") and "[arg-type]" in error
    assert summary.startswith("Found 1 error")
