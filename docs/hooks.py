"""Hooks of the docs site: pages made from the code, and pages for the files of the repository that others link to."""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!\!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".toml": "toml", ".yaml": "yaml", ".json": "json", ".sh": "bash"}
PREFIX = "repository/"
"""Folder of the site for files that are not under docs/."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the reference, and one page per file of the repository that a page links to, directly or through another such page."""
    generated = {"reference/commands.md": commands(), "reference/python.md": reference()}
    pages = {
        f"docs/{file.src_uri}": (ROOT / "docs" / file.src_uri).read_text("utf-8")
        for file in files.documentation_pages()
    }
    waiting = list(pages.items())
    while waiting:
        path, text = waiting.pop()
        for target in outside(path, text):
            name = site_name(target)
            if name not in generated:
                content = (ROOT / target).read_text("utf-8")
                generated[name] = as_page(target, content)
                if target.endswith(".md"):
                    waiting.append((target, content))
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Points links to files outside docs/ at their pages."""
    uri = page.file.src_uri
    path = uri.removeprefix(PREFIX) if uri.startswith(PREFIX) else f"docs/{uri}"
    if uri.startswith(PREFIX) and not page.title and not markdown.startswith("#"):
        return markdown
    here = posixpath.dirname(uri)

    def replace(match: re.Match[str]) -> str:
        target = resolve(path, match["target"])
        if target is None:
            return match[0]
        place = ROOT / target
        if place.is_dir():
            return match["text"]  # a folder has no page
        if not place.is_file():
            return match[0]  # mkdocs warns of it
        if target.startswith("docs/") and place.suffix in (".md", ".png"):
            name = target.removeprefix("docs/")
        else:
            name = site_name(target)
        return f"[{match['text']}]({posixpath.relpath(name, here or '.')}{match['anchor'] or ''})"

    return LINK.sub(replace, markdown)


SHORT_CODE = re.compile(r"<code>(?=[^<]{1,28}</code>)")


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Marks short inline code, which is not broken into two lines (docs/stylesheets/words.css)."""
    return SHORT_CODE.sub('<code class="short">', html)


def resolve(path: str, target: str) -> str | None:
    """A link's target as a path in the repository; None for an address or an anchor."""
    if re.match(r"[a-z]+:", target):
        return None
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    return None if found.startswith("..") else found


def outside(path: str, text: str) -> Iterator[str]:
    """Files that the page links to and that mkdocs would not find."""
    for match in LINK.finditer(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        target = resolve(path, match["target"])
        if (
            target
            and (ROOT / target).is_file()
            and not (target.startswith("docs/") and target.endswith((".md", ".png")))
        ):
            yield target


def site_name(target: str) -> str:
    """Name of the site's page for a file of the repository."""
    return PREFIX + (target if target.endswith(".md") else f"{target}.md")


def as_page(target: str, content: str) -> str:
    """A Markdown page of a file's content."""
    if target.endswith(".md"):
        return content
    language = LANGUAGES.get(Path(target).suffix, "text")
    return f"# {target}\n\n````{language}\n{content}\n````\n"


def commands() -> str:
    """One section per subcommand of `imagefoundry`: what it does, an example, and its script for clusters."""
    from engine.cli.table import COMMANDS

    parts = [
        "# Commands\n\n`imagefoundry COMMAND --help` lists the flags; each is a field of the configuration that Python takes.\n"
    ]
    for name, command in COMMANDS.items():
        script = f" On a cluster: `jobs/{command.script}.py`." if command.script else ""
        parts.append(
            f"## {name}\n\n{command.summary}{script}\n\n```bash\nimagefoundry {name} {command.example}".rstrip()
            + "\n```\n"
        )
    return "\n".join(parts)


def reference() -> str:
    """One section per public name of `import engine`, from its docstring."""
    import engine

    parts = ["# Python\n\nThe names of `import engine`. Each is imported when it is first used.\n"]
    groups: dict[str, list[str]] = {}
    for name, module in engine._MODULES.items():
        groups.setdefault(module, []).append(name)
    for module, names in groups.items():
        parts.append(f"## {module}\n")
        parts += [f"::: {module}.{name}\n" for name in names]
    return "\n".join(parts)
