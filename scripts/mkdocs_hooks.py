"""What the site has beside docs/: the configuration's tables, formulas as MathML, files that pages link to."""

import html
import posixpath
import re
from pathlib import Path

from config_reference import config_reference
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
CONFIG_TABLES = "<!-- the configuration's tables -->"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.+?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for each of the repository's files outside docs/ that a page links to."""
    waiting = [*FIRST]
    for file in files.documentation_pages():
        waiting += _links(f"docs/{file.src_uri}", file.content_string)
    added: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path.startswith("docs/") or path in added:
            continue
        added.add(path)
        if not (ROOT / path).exists():
            continue  # mkdocs names the link
        files.append(File.generated(config, _uri(path), content=_content(path)))
        if path.endswith(".md"):
            waiting += _links(path, (ROOT / path).read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Has links to the repository's files lead to their pages, and fills in the configuration's tables."""
    uri = page.file.src_uri
    path = uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"

    def on_the_site(link: re.Match[str]) -> str:
        target = _uri(_resolved(path, link[1]))
        return posixpath.relpath(target, posixpath.dirname(uri) or ".") + (link[2] or "")

    return LINK.sub(on_the_site, markdown.replace(CONFIG_TABLES, config_reference()))


def on_page_content(content: str, **_: object) -> str:
    """Makes MathML of the formulas, which browsers draw without help."""

    def as_mathml(formula: re.Match[str]) -> str:
        return convert(html.unescape(formula[2]), display="block" if formula[1] == "div" else "inline")

    return FORMULA.sub(as_mathml, content)


def _links(path: str, text: str) -> list[str]:
    return [_resolved(path, link[1]) for link in LINK.finditer(text)]


def _resolved(path: str, link: str) -> str:
    """The path in the repository of what a file there links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _uri(path: str) -> str:
    """Where the site has a file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"repository/{path.removesuffix('.md')}.md"


def _content(path: str) -> str:
    """The page of a file outside docs/: Markdown as it is, others in a block, of a folder the names of its files."""
    file = ROOT / path
    if file.suffix == ".md":
        return file.read_text(encoding="utf-8")
    if file.is_dir():
        shown = "\n".join(f"- `{each.name}`" for each in sorted(file.iterdir()) if not each.name.startswith("__py"))
    else:
        shown = f"````{file.suffix.removeprefix('.')}\n{file.read_text(encoding='utf-8')}\n````"
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n{shown}\n"
