"""Imports the files of brought graphs, under names that do not depend on where their folder is.

A checkpoint names the module of each pydantic or dataclass value that it holds. So a file's module
is named after its place relative to langgraph.json. A module name that is not loaded here comes
from a file that was moved, or from an older version of turnstream. Its classes are looked up in the
files that are loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import os
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from turnstream.schemas.errors import CatalogError

if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "turnstream_graph_"


def load_module(folder: Path, place: str, where: str) -> tuple[ModuleType, bytes]:
    """Return the module of `./file.py` or `package.module`, and its source.

    `folder` is that of langgraph.json. A file is executed once, however many graphs are in it.
    """
    if not place.endswith(".py"):
        add_to_path(folder)
        module = importlib.import_module(place)
        return module, Path(module.__file__ or "").read_bytes() if module.__file__ else b""
    file = (folder / place).resolve()
    if not file.is_file():
        raise CatalogError(f"{where}: there is no file {file}")
    add_to_path(file.parent)
    name = module_name(folder, file)
    source = file.read_bytes()
    loaded = sys.modules.get(name)
    digest = hashlib.sha256(source).hexdigest()
    if loaded is not None and getattr(loaded, "__turnstream__", "") == f"{file}\n{digest}":
        return loaded, source
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise CatalogError(f"{where}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    module.__turnstream__ = f"{file}\n{digest}"  # type: ignore[attr-defined]
    return module, source


def module_name(folder: Path, file: Path) -> str:
    """Return the name of a file's module: readable, and its own among the files of one folder."""
    place = Path(os.path.relpath(file, folder.resolve())).as_posix()
    digest = hashlib.sha256(place.encode()).hexdigest()[:8]
    return f"{PREFIX}{re.sub(r'[^0-9A-Za-z]+', '_', place.removesuffix('.py'))}_{digest}"


def add_to_path(folder: Path) -> None:
    """Put a folder first on the import path; a folder of packages goes last."""
    path = str(folder.resolve())
    if path in sys.path:
        return
    if any(folder.glob("*.dist-info")):  # `pip install --target`: what we run on stays as it is
        sys.path.append(path)
    else:
        sys.path.insert(0, path)


class _Moved(ModuleType):
    """Stands for a graph's module that is not loaded under this name."""

    def __getattr__(self, name: str) -> object:
        if not name.startswith("__"):
            for other, module in list(sys.modules.items()):
                if other.startswith(PREFIX) and not isinstance(module, _Moved):
                    found = vars(module).get(name)
                    if isinstance(found, type):
                        return found
        raise AttributeError(f"no graph that is loaded has a class {name!r}")


class _MovedFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  the interface's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname.startswith(PREFIX) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: its attributes are looked up when they are asked for."""


sys.meta_path.append(_MovedFinder())
