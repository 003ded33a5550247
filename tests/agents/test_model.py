"""Whatever stands behind an agent is asked in one way."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from modelworks.agents.endpoint import EndpointModel
from modelworks.agents.local import LocalModel
from modelworks.agents.model import ChatModel, Reply
from modelworks.agents.planning.budget import Budgeted
from modelworks.agents.planning.finish import Finishing
from modelworks.agents.small.model import SmallModel


def asked_with(function: Any) -> list[tuple[str, Any, Any]]:
    parameters = inspect.signature(function).parameters.values()
    return [(each.name, each.kind, each.default) for each in parameters]


@pytest.mark.parametrize("kind", [LocalModel, EndpointModel, SmallModel, Budgeted, Finishing])
@pytest.mark.parametrize("method", ["reply", "count"])
def test_every_model_is_asked_as_the_contract_says(kind: type, method: str) -> None:
    assert asked_with(getattr(kind, method)) == asked_with(getattr(ChatModel, method))


def test_a_reply_that_only_says_something_calls_nothing_and_counts_nothing() -> None:
    reply = Reply("yes")
    assert (reply.calls, reply.prompt_tokens, reply.completion_tokens, reply.cut, reply.margin) == (
        (),
        0,
        0,
        False,
        None,
    )
