"""modelworks: train, align, shrink and ground a language-model assistant that you own.

Importing this package is light: torch and the document readers load on first use of a name that needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelworks.agents.loop import Agent as Agent
    from modelworks.agents.tool import tool as tool
    from modelworks.engine.generate import generate as generate
    from modelworks.models.load import load as load
    from modelworks.retrieval.collection import Collection as Collection

__version__ = "0.1.0"
__all__ = ["Agent", "Collection", "generate", "load", "tool"]

_HOMES = {
    "Agent": "modelworks.agents.loop",
    "Collection": "modelworks.retrieval.collection",
    "generate": "modelworks.engine.generate",
    "load": "modelworks.models.load",
    "tool": "modelworks.agents.tool",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'modelworks' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
