"""A model that keeps how it was asked, beside what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from modelworks.agents.model import ChatModel, Reply
from modelworks.agents.tool import Tool


class Watched:
    def __init__(self, model: ChatModel) -> None:
        self._model = model
        self.name, self.context_length, self.count = model.name, model.context_length, model.count
        self.tools: list[Tool] = []
        self.choices: list[str] = []

    def reply(self, messages: Any, tools: Sequence[Tool] = (), *, choice: Any = "auto", **options: Any) -> Reply:
        self.tools = list(tools)
        self.choices.append(choice)
        return self._model.reply(messages, tools, choice=choice, **options)


@pytest.fixture
def watched() -> Callable[[Any], Watched]:
    return Watched
