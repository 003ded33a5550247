from __future__ import annotations

import pytest

from modelworks.engine.engine import Engine, QueueFullError
from modelworks.engine.generate import complete
from modelworks.engine.handle import Feed, Handle
from modelworks.engine.many import answer_all
from modelworks.engine.row import Piece
from modelworks.engine.sample import Sampling


def test_answers_come_whole_and_in_order(bare):
    prompts = [[3 + at, 7, 2 * at + 5] for at in range(20)]
    sampling = [Sampling(max_tokens=1 + at % 5) for at in range(20)]
    with Engine(bare, kv_bytes=1 << 20, max_running=4) as engine:
        answers = list(answer_all(engine, zip(prompts, sampling), in_flight=7))
    expected = complete(bare, prompts, sampling)
    assert [(answer.ids, answer.finish_reason) for answer in answers] == [
        (answer.ids, answer.finish_reason) for answer in expected
    ]


class Counting:
    """An engine that holds at most `room` requests, and answers a request when it is read."""

    def __init__(self, room: int) -> None:
        self.room, self.open, self.most = room, [], 0

    def submit(self, prompt, sampling):
        if len(self.open) >= self.room:
            # What has been read to its end makes room.
            self.open = [feed for feed in self.open if feed._pieces]
        if len(self.open) >= self.room:
            raise QueueFullError("full")
        feed = Feed(1)
        feed.push(Piece(0, (prompt[0],), "", (0.0,), ({},), "stop"))
        self.open.append(feed)
        self.most = max(self.most, len(self.open))
        return Handle(feed)


def test_a_full_queue_is_waited_for():
    engine = Counting(room=3)
    answers = answer_all(engine, (([at], Sampling()) for at in range(12)), in_flight=8)
    assert [answer.ids for answer in answers] == [(at,) for at in range(12)]
    assert engine.most == 3


def test_a_queue_that_others_keep_full_is_an_error():
    with pytest.raises(QueueFullError):
        next(answer_all(Counting(room=0), [([1], Sampling())]))


def test_no_more_is_asked_ahead_than_told():
    asked = []

    def requests():
        for at in range(10):
            asked.append(at)
            yield [at], Sampling()

    answers = answer_all(Counting(room=99), requests(), in_flight=2)
    next(answers)
    assert len(asked) == 3
