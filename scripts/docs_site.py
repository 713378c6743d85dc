"""Hook of mkdocs: pages that come from elsewhere in the repository, and links out of docs/."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from scripts.configuration_reference import build_page

ROOT = Path(__file__).resolve().parents[1]
# page of the site: file at the top of the repository
COPIES = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security.md": "SECURITY.md",
}
API = ("solvers", "necks", "csc", "backbones", "detectors", "data", "evaluation", "training")
_LINK = re.compile(r"(!?)\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\(([^)\s]+)\)")  # the label may be a picture
_IMAGE = re.compile(r'(<img[^>]*\ssrc=")([^"]+)"')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    pages = {page: localise((ROOT / source).read_text(encoding="utf-8"), "") for page, source in COPIES.items()}
    pages["configuration.md"] = build_page()
    pages["api/ifpn.md"] = "# ifpn\n\n::: ifpn\n"
    pages |= {f"api/{room}.md": f"# ifpn.{room}\n\n::: ifpn.{room}\n" for room in API}
    # A function whose module has its name, which hides it from the list of the package.
    pages["api/solvers.md"] += "\n::: ifpn.solvers.fixed_point.fixed_point\n    options: {show_root_heading: true}\n"
    for page, text in pages.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Treat links of a page of docs/ that lead to other files of the repository."""
    del config, files  # mkdocs passes them by name
    source = page.file.src_uri
    return markdown if source in COPIES else localise(markdown, str(PurePosixPath("docs", source).parent))


def localise(text: str, folder: str) -> str:
    """Make links of a file of the repository links of the site.

    Args:
        text: Markdown.
        folder: Of the file, from the top of the repository.

    Returns:
        The text: links to pages and pictures lead there, links to other files become their names.

    Raises:
        PluginError: A link leads to a file that does not exist.
    """

    def link(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        new, label = _on_site(target, folder), re.sub(_LINK, link, label)
        if new is not None:
            return f"{image}[{label}]({new})"
        named = label.startswith("![") or target.strip("./") in label
        return label if named else f"{label} (`{target.removeprefix('../')}`)"

    text = re.sub(_IMAGE, lambda m: f'{m[1]}{_on_site(m[2], folder) or m[2]}"', text)
    return "".join(
        part if i % 2 else re.sub(_LINK, link, part)
        for i, part in enumerate(re.split(r"(```.*?```)", text, flags=re.S))
    )


def _on_site(target: str, folder: str) -> str | None:
    """Where a link leads on the site, seen from a page at its top; None for a file that the site does not have."""
    path, hash_sign, anchor = target.partition("#")
    if re.match(r"[a-z]+:", target) or not path:
        return target
    parts: list[str] = []
    for part in PurePosixPath(folder, path).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    name = "/".join(parts)
    page = next((page for page, source in COPIES.items() if source == name), None)
    if page is not None:
        return page + hash_sign + anchor
    if parts[0] == "docs":  # mkdocs itself checks that the page is there
        return "/".join(parts[1:]) + hash_sign + anchor
    if not (ROOT / name).exists():
        raise PluginError(f"a link leads to {name}, which does not exist")
    return None
