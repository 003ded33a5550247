"""Counters and histograms in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats, 0.0.4)."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterator

from modelworks.engine.engine import EngineStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Histogram:
    """How often values fell below each bound."""

    def __init__(self, name: str, summary: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        self.name, self._summary, self._bounds = name, summary, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def lines(self) -> Iterator[str]:
        yield from _head(self.name, self._summary, "histogram")
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{self.name}_bucket{{le="{bound}"}} {total}'
        yield f"{self.name}_sum {self._sum:.9g}"
        yield f"{self.name}_count {total}"


class Metrics:
    """What the server counts; only its event loop writes here."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By route, method and status."""
        self.in_flight = 0
        self.first_token = Histogram("modelworks_time_to_first_token_seconds", "From a request to its first token.")
        self.token = Histogram("modelworks_time_per_token_seconds", "Between the tokens of an answer, after the first.")
        self._began = time.time()

    def text(self, stats: EngineStats) -> str:
        """The exposition, with the engine's own numbers."""
        return "\n".join([*self._lines(stats), ""])

    def _lines(self, stats: EngineStats) -> Iterator[str]:
        name = "modelworks_requests_total"
        yield from _head(name, "HTTP requests by route, method and status.", "counter")
        for (route, method, status), count in sorted(self.requests.items()):
            yield f'{name}{{route="{route}",method="{method}",status="{status}"}} {count}'
        for name, kind, summary, value in (
            ("http_requests_in_flight", "gauge", "HTTP requests under way.", self.in_flight),
            ("requests_running", "gauge", "Answers being generated.", stats.running),
            ("requests_queued", "gauge", "Requests that wait for the engine.", stats.queued),
            ("requests_cancelled_total", "counter", "Generations ended before their end.", stats.counts.cancelled),
            (
                "requests_preempted_total",
                "counter",
                "Times that an answer had to be computed again.",
                stats.counts.preempted,
            ),
            ("prompt_tokens_total", "counter", "Tokens of prompts.", stats.counts.prompt_tokens),
            (
                "cached_prompt_tokens_total",
                "counter",
                "Of these, found in the prefix cache.",
                stats.counts.cached_tokens,
            ),
            ("generated_tokens_total", "counter", "Tokens of answers.", stats.counts.generated_tokens),
            ("cache_blocks_used", "gauge", "Cache blocks that requests hold.", stats.blocks_used),
            ("cache_blocks_cached", "gauge", "Cache blocks kept for prompts that begin alike.", stats.blocks_cached),
            ("cache_blocks_free", "gauge", "Cache blocks that hold nothing.", stats.blocks_free),
            ("start_time_seconds", "gauge", "When the server started, Unix time.", round(self._began, 3)),
        ):
            yield from _head(f"modelworks_{name}", summary, kind)
            yield f"modelworks_{name} {value}"
        yield from self.first_token.lines()
        yield from self.token.lines()


def _head(name: str, summary: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {summary}"
    yield f"# TYPE {name} {kind}"
