"""What the documentation site has beside docs/: a hook of mkdocs, named in mkdocs.yml.

The pages of the API, one of each example, the changelog and its like are made from the sources;
none of these is imported. Links that lead out of docs/ in the repository lead to these pages here,
and are plain text where there is no such page.
"""

import ast
import posixpath
import re
import runpy
from pathlib import Path
from typing import Any

__all__ = [
    "API",
    "on_startup",
    "on_config",
    "on_files",
    "on_page_markdown",
    "on_post_build",
    "on_post_page",
    "on_post_template",
]

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"leyden.engine": "engine", "leyden.handlers": "handlers", "leyden.backends": "backends"}

#: The modules with a page of their own, and what is shown of those that have no ``__all__`` for it.
API = {
    "leyden": "Trainer, module, data, callback",
    "leyden.cli": "the command line",
    "leyden.callbacks": "callbacks under Lightning's names",
    "leyden.loggers": "loggers under Lightning's names",
    "leyden.profiler": "profilers under Lightning's names",
    "leyden.compat": "code written for Lightning 1.x",
    "leyden.exceptions": "errors",
    "leyden.engine": "engine and events",
    "leyden.handlers": "every handler",
    "leyden.backends.precision": "precisions",
    "leyden.backends.strategies": "ways to distribute",
}
#: Shown before the others.
FIRST = ("Trainer", "LightningModule", "LightningDataModule", "LeydenCLI", "Engine")
#: Bases that are shown right after a class, because much of it is there.
BASES = {
    "Trainer": ("leyden.properties.TrainerProperties",),
    "LightningModule": ("leyden.module_hooks.ModuleHooks", "leyden.hparams.HyperParameters"),
    "LightningDataModule": ("leyden.module_hooks.DataHooks",),
}
TITLES = {
    "char_transformer": "Character transformer",
    "gan": "GAN",
    "hf_transformer": "Transformer of Hugging Face",
    "lstm_tbptt": "LSTM, truncated back-propagation",
    "tpu": "TPU",
}
#: Files of the root that are pages here.
OF_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
#: Pages whose tables need the room of the table of contents.
WIDE = {"arguments.md", "from-lightning.md", "handlers.md", "hooks.md"}
#: What the offline plugin would fetch, and what is in docs/ for it.
FETCHED, OWN = "https://unpkg.com/iframe-worker/shim", "assets/file_search.js"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]*(?:\n[^\]\n]+)?)\]\((?P<to>[^)\s]+)\)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


# --- pages that are made


def examples() -> dict[str, str]:
    """Return ``{page: text}`` of the examples; docs/examples.md lists them."""
    pages = {}
    for path in sorted((ROOT / "examples").glob("*.py")):
        source = path.read_text(encoding="utf-8")
        first, _, rest = (ast.get_docstring(ast.parse(source)) or path.stem).partition("\n")
        title = TITLES.get(path.stem, path.stem.replace("_", " ").capitalize())
        # Past the docstring, which is on the page in words.
        code = source.split('"""', 2)[2].lstrip("\n")
        told = rest.strip("\n") or f"    python examples/{path.name}"
        pages[f"examples/{path.stem}.md"] = (
            f"# {title}\n\n{first}\n\n{told}\n\n```python\n{code}```\n"
        )
    return pages


def source_of(module: str) -> Path | None:
    """Return the file of a module, in the folder that it is installed from."""
    package = next((name for name in FOLDERS if f"{module}.".startswith(f"{name}.")), "leyden")
    folder = ROOT / FOLDERS.get(package, "trainer")
    inner = module.removeprefix(package).lstrip(".").replace(".", "/")
    found = [folder / inner / "__init__.py", folder / f"{inner}.py"]
    return next((path for path in found if path.is_file()), None)


def public(source: str) -> list[str]:
    """Return the names in ``__all__``."""
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else None
        if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node, ast.Assign):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def is_shown(module: str, name: str, source: str) -> bool:
    """Whether a public name is a class or a function: constants and modules have no page."""
    if source_of(f"{module}.{name}") or name.startswith("__"):
        return False
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom) and any(name == a.name for a in node.names):
            above = source_of(node.module or "")
            inner = above.read_text(encoding="utf-8") if above else ""
            return bool(inner) and is_shown(node.module or "", name, inner)
    return False


def api() -> dict[str, str]:
    """Return ``{page: text}`` of the API."""
    pages, rows = {}, []
    for module, told in API.items():
        path = source_of(module)
        if path is None:
            continue
        source = path.read_text(encoding="utf-8")
        names = [name for name in public(source) if is_shown(module, name, source)]
        if not names:
            continue
        names.sort(key=lambda name: (FIRST + (name,)).index(name))
        shown = "\n\n".join(_shown(module, name) for name in names)
        head = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0]
        pages[f"api/{module}.md"] = f"# {module}\n\n{head}\n\n{shown}\n"
        rows.append(f"| [`{module}`]({module}.md) | {told} | {len(names)} |")
    head = "# API\n\nMade from the docstrings, whose examples run in the tests.\n\n"
    table = "| module | what is in it | names |\n| --- | --- | ---: |\n"
    pages["api/index.md"] = head + table + "\n".join(rows) + "\n"
    return pages


def _shown(module: str, name: str) -> str:
    return "\n\n".join(f"::: {one}" for one in (f"{module}.{name}", *BASES.get(name, ())))


def made() -> dict[str, str]:
    """Return ``{page: text}`` of everything that is not in docs/."""
    root = {
        page: (ROOT / name).read_text(encoding="utf-8")
        for name, page in OF_ROOT.items()
        if name != "README.md"
    }
    return {**root, **examples(), **api()}


# --- links


def page_for(path: str) -> str | None:
    """Return the page of the site that shows a file of the repository."""
    if path in OF_ROOT:
        return OF_ROOT[path]
    if path == "docs":
        return "index.md"
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".py"):
        return f"{path.removesuffix('.py')}.md"
    return "examples.md" if path == "examples" else None


def relink(text: str, page: str) -> str:
    """Let the links of a page lead to pages of the site; ``page`` is its name there."""
    origin = {there: here for here, there in OF_ROOT.items() if there != "index.md"}
    source = origin.get(page, f"docs/{page}")
    here = posixpath.dirname(page)

    def replaced(match: re.Match[str]) -> str:
        to, _, anchor = match["to"].partition("#")
        if not to or "://" in to or to.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), to))
        target = page_for(path)
        if target is None:
            return match["text"]
        link = posixpath.relpath(target, here or ".")
        return f"[{match['text']}]({link}{'#' + anchor if anchor else ''})"

    parts = _FENCE.split(text)
    return "".join(p if p.startswith("```") else _LINK.sub(replaced, p) for p in parts)


# --- what mkdocs calls


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the sources as installed, where mkdocstrings looks for them."""
    lay_out = runpy.run_path(str(ROOT / "tools" / "typetree.py"))["lay_out"]
    lay_out(ROOT, ROOT / "build" / "sources")


def on_config(config: Any) -> Any:
    """Complete the navigation: pages that are made, and those of docs/ that nobody put into it."""
    named = set(re.findall(r"[\w./-]+\.md", repr(config.nav)))
    pages = {"API": sorted(api(), key=lambda page: page != "api/index.md")}
    pages["Examples"] = ["examples.md", *examples()]
    named.add("examples.md")
    for section in config.nav:
        for title, entries in section.items() if isinstance(section, dict) else ():
            for entry in entries:
                for name in pages.keys() & (entry.keys() if isinstance(entry, dict) else set()):
                    entry[name] = list(pages[name])
            if title == "Use":
                there = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
                entries += [name for name in there if name not in named]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made."""
    from mkdocs.structure.files import File

    for page, text in made().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead the links to where things are on the site."""
    uri = str(page.file.src_uri)
    if uri in WIDE:
        page.meta["hide"] = ["toc"]
    if uri == "states.md":
        markdown = runpy.run_path(str(ROOT / "tools" / "site_states.py"))["with_picture"](markdown)
    return markdown if uri.startswith(("api/", "examples/")) else relink(markdown, uri)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Take our own script for the search in pages from a folder, not one that is fetched."""
    return output.replace(FETCHED, page.file.src_uri.count("/") * "../" + OWN)


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """Do the same in the page for pages that are not there."""
    return output.replace(FETCHED, OWN)


def fetched(site: Path) -> list[str]:
    """Return what the pages of a site would fetch from elsewhere when they are read."""
    tag = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
    return [
        f"{path.relative_to(site)}: {found}"
        for path in sorted(site.rglob("*.html"))
        for found in sorted(set(tag.findall(path.read_text(encoding="utf-8"))))
    ]


def on_post_build(config: Any) -> None:
    """Refuse a site whose pages fetch anything from elsewhere."""
    found = fetched(Path(config.site_dir))
    if found:
        from mkdocs.exceptions import PluginError

        raise PluginError("the site fetches from elsewhere:\n" + "\n".join(found))
