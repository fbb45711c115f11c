"""Reads a langgraph.json in the form of the LangGraph CLI: graphs, `dependencies`, `env`.

A key that would change how graphs run, and that is not supported, is refused.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dotenv import dotenv_values
from packaging.requirements import InvalidRequirement, Requirement

from turnstream.graph.langgraph.graph_modules import add_to_path
from turnstream.schemas.errors import CatalogError

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = '{"graphs": {"name": "./file.py:graph"}}'

HONOURED = frozenset({"graphs", "dependencies", "env"})
OF_IMAGES = frozenset(
    {
        "$schema",
        "python_version",
        "node_version",
        "dockerfile_lines",
        "pip_config_file",
        "pip_installer",
        "image_distro",
        "base_image",
        "api_version",
        "keep_pkg_tools",
        "source",
        "name",
        "_INTERNAL_docker_tag",
    }
)
"""Keys for the images that the LangGraph CLI builds. They have no effect here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedGraph:
    """A graph as langgraph.json names it: `place:variable`."""

    name: str
    place: str
    variable: str
    description: str = ""

    @property
    def reference(self) -> str:
        """Return the reference as it stands in the file."""
        return f"{self.place}:{self.variable}"


def read(path: Path) -> list[NamedGraph]:
    """Return the graphs of a langgraph.json, after its `env` and `dependencies` are in place.

    Raises `CatalogError` that names what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CatalogError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{path} is not JSON: {error}") from error
    graphs = content.get("graphs") if isinstance(content, dict) else None
    if not isinstance(graphs, dict) or not graphs:
        raise CatalogError(f"{path} names no graphs; it should look like {EXAMPLE}")
    known = HONOURED | OF_IMAGES
    if refused := sorted(key for key, value in content.items() if value and key not in known):
        raise CatalogError(
            f"{path}: {', '.join(map(repr, refused))} is not supported; leave it out"
            f" (supported: {', '.join(sorted(HONOURED))})"
        )
    found = [_named(path, name, value) for name, value in graphs.items()]
    folder = path.resolve().parent
    _set_environment(path, folder, content.get("env"))
    _check_dependencies(path, folder, content.get("dependencies"))
    return found


def _named(path: Path, name: str, value: object) -> NamedGraph:
    reference = value.get("path") if isinstance(value, dict) else value
    place, _, variable = reference.rpartition(":") if isinstance(reference, str) else ("", "", "")
    if not place or not variable:
        raise CatalogError(
            f"{path}: graph {name!r} is {reference!r}; write it as './file.py:variable'"
        )
    description = value.get("description") if isinstance(value, dict) else ""
    return NamedGraph(name=name, place=place, variable=variable, description=str(description or ""))


def _set_environment(path: Path, folder: Path, env: object) -> None:
    """Set variables that the process's environment does not set; the operator's values stay."""
    if not env:
        return
    if isinstance(env, str):
        file = folder / env
        if not file.is_file():
            raise CatalogError(f"{path}: env names {env!r}, and there is no file {file}")
        values: dict[str, Any] = {**dotenv_values(file)}
    elif isinstance(env, dict):
        values = env
    else:
        raise CatalogError(f"{path}: env is {env!r}; write a file's path, or an object of texts")
    for name, value in values.items():
        if value is None:
            continue
        text = json.dumps(value) if isinstance(value, bool) else value
        if not isinstance(text, str | int | float) or "=" in name or not name:
            raise CatalogError(f"{path}: env sets {name!r} to {value!r}; write a text")
        os.environ.setdefault(name, str(text))


def _check_dependencies(path: Path, folder: Path, dependencies: object) -> None:
    """Add local folders to the import path; refuse packages that are not installed."""
    if not isinstance(dependencies, list | None) or not all(
        isinstance(one, str) for one in dependencies or ()
    ):
        raise CatalogError(f"{path}: dependencies is {dependencies!r}; write a list of texts")
    local = [one for one in dependencies or () if one.startswith((".", "/"))]
    for one in local:
        place = folder / one
        if not place.is_dir():
            raise CatalogError(f"{path}: dependency {one!r}: there is no folder {place.resolve()}")
        add_to_path(place)
        if (place / "src").is_dir():
            add_to_path(place / "src")
    for one in dependencies or ():
        if one not in local:
            _check_installed(path, one)


def _check_installed(path: Path, text: str) -> None:
    try:
        wanted = Requirement(text)
    except InvalidRequirement as error:
        raise CatalogError(
            f"{path}: dependency {text!r} is neither a folder (./name) nor a package: {error}"
        ) from error
    if wanted.marker is not None and not wanted.marker.evaluate():
        return
    fix = f"install it for the workers and edges: pip install '{text}' (docs/graphs.md)"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        raise CatalogError(f"{path}: dependency {text!r} is not installed; {fix}") from None
    if not wanted.specifier.contains(version, prereleases=True):
        raise CatalogError(f"{path}: dependency {text!r}: version {version} is installed; {fix}")
