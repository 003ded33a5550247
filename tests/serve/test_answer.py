"""From the engine's pieces to parts: merging, counting, and handing in several prompts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from modelworks.core.errors import ConfigError
from modelworks.engine.engine import QueueFullError
from modelworks.serve.answer import Answers, Part, start
from modelworks.serve.errors import ApiError


async def collect(answers: Answers) -> list[Part]:
    return [part async for part in answers]


def begun(served, prompts: list[Any], **more: Any) -> Any:
    sampling = replace(served.service.sampling, temperature=0.0, max_tokens=8)
    return start(served.service, prompts, sampling, **more)


def test_parts_of_several_answers_come_with_their_index(served) -> None:
    async def check() -> None:
        answers = await begun(served, ["one|", "three|"], count=2)
        texts = ["", "", "", ""]
        reasons: list[Any] = [None] * 4
        for part in await collect(answers):
            texts[part.index] += part.text
            reasons[part.index] = part.reason
        assert texts == ["one", "one", "three", "three"]
        assert reasons == ["stop"] * 4
        assert answers.prompt_tokens == 4 + 6
        assert answers.completion_tokens == 2 * (3 + 1) + 2 * (5 + 1)

    asyncio.run(check())


def test_where_one_prompt_is_refused_none_is_answered(served) -> None:
    before = served.stats().counts
    for bad, error in (("", ConfigError), ("x" * 5000, Exception)):
        with pytest.raises(error):
            asyncio.run(begun(served, ["fine|", bad]))
    served.wait_until(lambda stats: stats.running == stats.queued == 0, 5)
    assert served.stats().counts.requests == before.requests + 2


def test_where_the_queue_fills_half_way_all_are_taken_back(serving) -> None:
    served = serving(engine={"max_running": 1, "max_queued": 2})
    served.model.pause = 0.02
    with pytest.raises(QueueFullError):
        asyncio.run(begun(served, ["aaaaaaaa|"], count=8))
    served.wait_until(lambda stats: stats.running == stats.queued == 0, 2)


def test_an_iteration_that_is_left_ends_the_answers(serving) -> None:
    served = serving()
    served.model.pause = 0.01

    async def check() -> None:
        answers = await begun(served, ["abcdefgh|"] * 3)
        async for _ in answers:
            break
        answers.cancel()

    asyncio.run(check())
    served.wait_until(lambda stats: stats.running == 0, 1)
    assert served.stats().counts.finished == 0


def test_more_answers_than_one_request_may_have(served) -> None:
    with pytest.raises(ApiError, match="17 answers, at most 16"):
        asyncio.run(begun(served, ["a"] * 17))
