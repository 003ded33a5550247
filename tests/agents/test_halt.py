from __future__ import annotations

import threading
import time

from modelworks.agents.halt import Halt


def test_a_halt_reaches_waiters_and_listeners_once() -> None:
    halt, heard = Halt(), list[str]()
    halt.on_set(lambda: heard.append("first"))
    halt.on_set(lambda: heard.append("gone"))()  # taken off again
    threading.Timer(0.05, halt.set).start()
    begun = time.monotonic()
    assert halt.wait(10)
    assert time.monotonic() - begun < 5
    while not heard:
        time.sleep(0.01)
    halt.set()
    assert heard == ["first"]


def test_who_listens_after_the_halt_is_called_at_once() -> None:
    halt, heard = Halt(), list[int]()
    halt.set()
    halt.on_set(lambda: heard.append(1))()
    assert halt.is_set()
    assert heard == [1]
