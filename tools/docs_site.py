"""Hooks of mkdocs.yml: pages from outside docs/, links as they are on the site, and a table of every option.

The documents link to each other as files of the repository, so that their links are right where they are read there, too.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[1]
OUTSIDE = {"README.md": "start.md", "CONTRIBUTING.md": "contributing.md", "datasets/README.md": "datasets.md"}
"""Document of the repository -> its place on the site."""
KINDS = {
    "SearchOptions": "A search",
    "TrainOptions": "A training",
    "BenchmarkOptions": "A table of models (`evaluate -opt`)",
    "ClassificationSearchOptions": "A search with `task: classification`, beside the keys above",
    "ClassifierTrainOptions": "A training with `task: classification`, beside the keys above",
}
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "multipleOf": "a multiple of"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents from outside docs/."""
    for source, place in OUTSIDE.items():
        files.append(File.generated(config, place, content=(REPOSITORY / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links of the site, or into text where the site has not the file."""
    here = page.file.src_uri
    source = next((name for name, place in OUTSIDE.items() if place == here), f"docs/{here}")

    def of_the_site(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        name = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = OUTSIDE.get(name) or (name.removeprefix("docs/") if name.startswith("docs/") else None)
        return f"[{text}]({posixpath.relpath(place, posixpath.dirname(here) or '.')}{anchor})" if place else text

    markdown = re.sub(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", of_the_site, markdown)
    return markdown.replace("<!-- options -->", option_tables()) if here == "reference/options.md" else markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take the roles out of docstrings: what stands as :func:`~package.name` becomes name, in code's type."""
    html = re.sub(r":(?:attr|class|data|func|meth|mod):(?=(<code>|`))", "", html)
    return re.sub(r"(<code>|`)~(?:\w+\.)+(?=\w)", r"\1", html)


def option_tables() -> str:
    """Return a table in Markdown for each kind of option file, from options/schema.json."""
    schema = json.loads((REPOSITORY / "options" / "schema.json").read_text(encoding="utf-8"))
    seen: dict[str, str] = {}
    parts = []
    for kind, title in KINDS.items():
        parts += [f"## {title}\n", "| key | value | default | meaning |", "|---|---|---|---|"]
        keys = schema["$defs"][kind]["properties"]
        parts += [line for key, part in keys.items() if key != "_base_" for line in _rows(part, key, schema["$defs"], seen)]
        parts.append("")
    return "\n".join(parts)


def _rows(part: dict[str, Any], path: str, definitions: dict[str, Any], seen: dict[str, str]) -> list[str]:
    """Rows of a key and of all below it; what was printed under the same key is left out, under another it is named."""
    ways = [_resolved(way, definitions) for way in part.get("anyOf", [part])]
    ways = [way for way in ways if way.get("type") != "null"]
    described = {**ways[0], **part} if len(ways) == 1 else part
    text = _description(described)
    default = json.dumps(part["default"]).replace("|", "\\|") if "default" in part and "properties" not in ways[0] else ""
    value = " or ".join(dict.fromkeys(map(_kind, ways))).replace("|", "\\|")
    content = json.dumps(ways)
    if (known := seen.setdefault(content + (path if "properties" not in content else ""), path)) != path:
        return [f"| `{path}` | as `{known}` | {f'`{default}`' if default else ''} | {text} |"]
    if (again := f"{path} {content} {default}") in seen:
        return []
    seen[again] = path
    rows = [f"| `{path}` | {value} | {f'`{default}`' if default else ''} | {text} |"]
    for way in ways:
        name = way.get("properties", {}).get("type", {}).get("const")
        if name is not None:
            rows.append(f"| `{path}.type: {name}` | | | {_description(way)} |")
        for key, below in way.get("properties", {}).items():
            if key != "type" or name is None:
                rows += _rows(below, f"{path}.{key}", definitions, seen)
        named = [(".NAME", one) for one in (way.get("additionalProperties"), *way.get("patternProperties", {}).values())]
        for suffix, one in [("[]", way.get("items")), *named]:
            if isinstance(one, dict) and ("$ref" in (inner := json.dumps(one)) or '"properties"' in inner):
                rows += _rows(one, path + suffix, definitions, seen)
    return rows


def _description(part: dict[str, Any]) -> str:
    return " ".join(str(part.get("description", "")).split()).replace("|", "\\|")


def _resolved(part: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    reference = part.get("$ref", "").rpartition("/")[2]
    return {**definitions[reference], **part} if reference else part


def _kind(way: dict[str, Any]) -> str:
    """Return in words what a value may be."""
    if "enum" in way or "const" in way:
        return ", ".join(f"`{value}`" for value in way.get("enum", [way.get("const")]))
    if "properties" in way:
        return "a `type`" if "const" in way["properties"].get("type", {}) else "a section"
    names = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true, false", "array": "list"}
    bounds = [f"{sign} {way[key]}" for key, sign in BOUNDS.items() if key in way and abs(way[key]) < 2**62]
    return " ".join([names.get(way.get("type", ""), "mapping"), ", ".join(bounds)]).strip()
