"""Recipes are scripts beside each other, and are imported as they import each other."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def script(request: pytest.FixtureRequest) -> Callable[[str], ModuleType]:
    """A script of the folder `recipes`, by its path without the ending."""

    def loaded(path: str) -> ModuleType:
        folder, _, name = path.rpartition("/")
        sys.path.insert(0, str(request.config.rootpath / "recipes" / folder))
        try:
            return importlib.import_module(name)
        finally:
            sys.path.pop(0)

    return loaded
