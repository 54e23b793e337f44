"""Each code block of the documentation is run here, or says above it which test runs it, or why none does.

- `python` and `bash` are run, the `python` blocks of a page one after the other, in a folder with a trained run,
  runs/math, and with the examples on the scripted engine. Above a block that is not run here stands a comment,
  `<!-- run by: tests/FILE.py::TEST -->` or `<!-- not run: REASON -->`. Whatever stands there, the options of our
  commands have to be such that they take, and so have the targets of `make` and the extras of `pip install`.
- `yaml` is read as a config of an experiment, or as a study.
- `text` is no code. Other languages need a comment, and a block without a language is refused.
"""

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from markdown_it import MarkdownIt
from process_fixtures import ENVIRONMENT, REPOSITORY, TIMEOUT

from mpdf_rllib.config import ExperimentConfig
from mpdf_rllib.config_file import load_config
from mpdf_rllib.studies.config import load_study

PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").rglob("*.md")])
MARK = re.compile(r"<!-- (run by|not run): (.+) -->")
WITHOUT_COMMENT = ("python", "bash", "yaml", "text")
SMALL = {"engine": {"kind": "scripted"}, "questions": {"train": 12, "test": 12}, "seeds": 1}


@dataclass(frozen=True)
class Block:
    """A code block.

    Attributes:
        place: Page and line.
        language: Of its fence; "" without one.
        code: What it holds.
        mark: What the comment above it says, such as ("not run", "it needs a GPU"); None without one.
    """

    place: str
    language: str
    code: str
    mark: tuple[str, str] | None


def blocks_of(page: str, text: str) -> list[Block]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    blocks = []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("fence", "code_block"):
            mark = MARK.fullmatch(before.content.strip()) if before and before.type == "html_block" else None
            place = f"{page}:{token.map[0] + 1}"
            blocks.append(Block(place, token.info.strip(), token.content, mark and (mark[1], mark[2])))
    return blocks


BLOCKS = [block for page in PAGES for block in blocks_of(str(page.relative_to(REPOSITORY)), page.read_text())]


def check(block: Block) -> None:
    """Checks all that can be told without running it."""
    assert block.language, f"{block.place}: name the block's language; what is printed is `text`"
    if block.language not in WITHOUT_COMMENT:
        assert block.mark, f"{block.place}: say above it what runs it, or why nothing does"
    if block.mark and block.mark[0] == "run by":
        file, _, test = block.mark[1].partition("::")
        assert f"def {test}(" in (REPOSITORY / file).read_text(), f"{block.place}: there is no test {block.mark[1]}"
    if block.language == "python":
        compile(block.code, block.place, "exec")
    if block.language == "yaml":
        check_config(block.code)
    if block.language == "bash":
        for command in block.code.replace("\\\n", " ").splitlines():
            check_command(shlex.split(command, comments=True))


def check_config(text: str) -> None:
    """Reads a config, or a part of one, or a study, as if it lay in docs/."""
    path = Path.cwd() / "docs-block.yaml"
    values = {"name": "docs"} | yaml.safe_load(text)
    if "arms" in values:
        values.pop("name")
        path.write_text(yaml.safe_dump(values | {"experiment": str(REPOSITORY / "docs" / values["experiment"])}))
        load_study(str(path))
        return
    if "questions" not in values:  # they are of one kind
        values.setdefault("extends", "../tuned_examples/math.yaml")
    if "extends" in values:
        values["extends"] = str(REPOSITORY / "docs" / values["extends"])
    path.write_text(yaml.safe_dump(values))
    load_config(path)


class Parsed(Exception):
    """The options that a command was given."""


def check_command(words: list[str]) -> None:
    """Has our own commands parse their options, and read the config with what replaces its values."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    match words:
        case ["ray", "job", "submit", *rest]:
            check_command(rest[rest.index("--") + 1 :])
        case ["make", *rest]:
            plain = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
            made = subprocess.run(  # as if it were not `make test ARGS=...` that runs this
                ["make", "-n", "-o", ".venv/.ready", *rest],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                env={name: value for name, value in plain.items() if name != "ARGS"},
            )
            assert made.returncode == 0, made.stderr
            for line in made.stdout.splitlines():
                check_command(shlex.split(line))
        case ["pip", "install", *rest]:
            project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
            extras = {extra for word in rest for extra in re.findall(r"[\w-]+", "".join(re.findall(r"\[(.*)\]", word)))}
            assert extras <= project["optional-dependencies"].keys(), f"{words}: unknown extras"
        case [python, "-m", module, *rest] if python.endswith("python") and module.startswith("mpdf_rllib."):
            check_options(module, rest)


def check_options(module: str, arguments: list[str]) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
        raise Parsed(parse_args(self, argv))

    with (
        patch.object(argparse.ArgumentParser, "parse_args", parsed),
        patch.object(sys, "argv", [module, *arguments]),
        pytest.raises(Parsed) as raised,
    ):
        runpy.run_module(module, run_name="__main__")
    (options,) = raised.value.args
    config = getattr(options, "config", "tuned_examples/math.yaml")
    load_config(REPOSITORY / config, getattr(options, "overrides", []))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Nothing is written into the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore:'mpdf_rllib")  # modules that are loaded already run again
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_says_what_there_is(block):
    check(block)


GOOD = "# Page\n\n<!-- not run: it takes long -->\n```bash\nmake math ARGS=--fresh  # anew\n```\n"


@pytest.mark.filterwarnings("ignore:'mpdf_rllib")
@pytest.mark.parametrize(
    "bad",
    [
        "    indented without a language\n",
        "```\nno language\n```\n",
        "```json\n{}\n```\n",
        "```python\nprint(1\n```\n",
        "```yaml\nalgorithm: {taw: 1}\n```\n",
        "```yaml\nalgorithm: {tau: -1}\n```\n",
        "```bash\npython -m mpdf_rllib.train --config tuned_examples/math.yaml --freshly\n```\n",
        "```bash\npython -m mpdf_rllib.train --config tuned_examples/math.yaml --set algorithm.taw=1\n```\n",
        "```bash\npython -m mpdf_rllib.train --config tuned_examples/maths.yaml\n```\n",
        "```bash\npython -m mpdf_rllib.trian --config tuned_examples/math.yaml\n```\n",
        "```bash\npython -m mpdf_rllib.serve --run runs/math --prot 80\n```\n",
        "```bash\nray job submit --working-dir . -- python -m mpdf_rllib.train\n```\n",
        "```bash\nmake maths\n```\n",
        '```bash\nmake math ARGS="--set algorithm.taw=1"\n```\n',
        '```bash\npip install ".[gpus]"\n```\n',
        "<!-- run by: tests/test_docs.py::test_that_there_is_not -->\n```bash\nls\n```\n",
        "<!-- not run: -->\n```json\n{}\n```\n",
    ],
)
def test_a_block_with_a_mistake_is_found_out(bad):
    for block in blocks_of("page", GOOD):
        check(block)
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        for block in blocks_of("page", bad):
            check(block)


@pytest.fixture(scope="module")
def folder(trained_run, tmp_path_factory) -> Path:
    """Where a reader would be: a trained run, and the examples, on the scripted engine and with few questions."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(trained_run.run, folder / "runs" / "math")
    (folder / "tuned_examples").mkdir()
    for example in ("math.yaml", "math_sweep.yaml", "smoke.yaml"):
        config = SMALL | {"extends": str(REPOSITORY / "tuned_examples" / example)}
        (folder / "tuned_examples" / example).write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def reader(folder, tmp_path) -> Path:
    """A copy for what is written there."""
    return shutil.copytree(folder, tmp_path / "reader")


def run(folder: Path, *command: str, given: str = "") -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = ENVIRONMENT | {"PATH": path, "HOME": str(folder)}  # where Tune writes
    return subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=TIMEOUT
    )


def unmarked(language: str) -> dict[str, list[Block]]:
    """The blocks to run, by what they hold: some stand on two pages."""
    found: dict[str, list[Block]] = {}
    for block in BLOCKS:
        if block.language == language and not block.mark:
            found.setdefault(block.code, []).append(block)
    return found


PROGRAM = """
import json, sys
for page, code in json.load(sys.stdin).items():
    exec(compile(code, page, "exec"), {"__name__": page})
"""


def smaller(code: str) -> str:
    """The same with a 25th of the debates, one iteration and one sample."""
    code = re.sub(r"\b\d{3}\b|\b75\b", lambda number: str(int(number[0]) // 25), code)
    return code.replace('"training_iteration": 8', '"training_iteration": 1').replace("num_samples=2", "num_samples=1")


def test_python_runs(reader):
    """All pages in one process, each with its own names, which its blocks share."""
    pages: dict[str, str] = {}
    for blocks in unmarked("python").values():
        for block in blocks:
            page = block.place.partition(":")[0]
            pages[page] = pages.get(page, "") + smaller(block.code) + "\n"
    ended = run(reader, sys.executable, "-c", PROGRAM, given=json.dumps(pages))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("code", unmarked("bash"), ids=lambda code: "+".join(b.place for b in unmarked("bash")[code]))
def test_commands_run(code, reader):
    ended = run(reader, "bash", "-euo", "pipefail", "-c", code)
    assert ended.returncode == 0, ended.stderr


class Loaded(HTMLParser):
    """Collects what a browser loads of a page by itself."""

    def __init__(self):
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        link = values.get("href") if tag == "link" and values.get("rel") != "canonical" else None
        self.urls += [url for url in (values.get("src"), link) if url]


def test_the_site_loads_nothing_from_elsewhere_and_explains_every_key(tmp_path):
    site = tmp_path / "site"
    built = run(tmp_path, "mkdocs", "build", "--strict", "-f", str(REPOSITORY / "mkdocs.yml"), "--site-dir", str(site))
    assert built.returncode == 0, built.stderr
    loaded = Loaded()
    for page in site.rglob("*.html"):
        loaded.feed(page.read_text())
    assert loaded.urls and not [url for url in loaded.urls if re.match(r"(\w+:)?//", url)]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(.?(https?:)?//|@import", sheet.read_text()), sheet
    reference = (site / "configuration.html").read_text()
    rows = re.findall(r"<tr>\n<td><code>(\w+)</code></td>\n.*\n.*\n<td>(.*)</td>", reference)
    schema = ExperimentConfig.model_json_schema()
    keys = {key for section in (schema, *schema["$defs"].values()) for key in section["properties"]}
    assert keys == {key for key, _ in rows}
    assert {key for key, meaning in rows if not meaning} == {"kind"}
