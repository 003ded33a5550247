"""Counters and histograms in Prometheus' text format (prometheus.io/docs/instrumenting/exposition_formats, 0.0.4)."""

from __future__ import annotations

import bisect
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from modelworks.engine.engine import EngineStats

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(slots=True)
class Family:
    """A metric with its samples: each a suffix of the name, labels and a value."""

    name: str
    summary: str
    kind: Literal["counter", "gauge", "histogram"]
    samples: list[tuple[str, Mapping[str, str], float]] = field(default_factory=list)


def render(families: Mapping[str, Sequence[Family]]) -> str:
    """The exposition of what servers count, by the replica that does; with an empty name it is the only one."""
    joined: dict[str, list[str]] = {}
    for replica, counted in families.items():
        own = {"replica": replica} if replica else {}
        for family in counted:
            name = f"modelworks_{family.name}"
            head = [f"# HELP {name} {family.summary}", f"# TYPE {name} {family.kind}"]
            lines = joined.setdefault(name, head)
            lines += [
                f"{name}{suffix}{_labels({**own, **labels})} {value:.15g}" for suffix, labels, value in family.samples
            ]
    return "\n".join([*(line for lines in joined.values() for line in lines), ""])


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""


class Histogram:
    """How often values fell below each bound."""

    def __init__(self, name: str, summary: str, bounds: tuple[float, ...] = _SECONDS) -> None:
        self._name, self._summary, self._bounds = name, summary, bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect.bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def family(self) -> Family:
        family = Family(self._name, self._summary, "histogram")
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            family.samples.append(("_bucket", {"le": str(bound)}, total))
        family.samples += [("_sum", {}, self._sum), ("_count", {}, total)]
        return family


class Metrics:
    """What the server counts; only its event loop writes here."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """By route, method and status."""
        self.in_flight = 0
        self.first_token = Histogram("time_to_first_token_seconds", "From a request to its first token.")
        self.token = Histogram("time_per_token_seconds", "Between the tokens of an answer, after the first.")
        self._began = time.time()

    def families(self, stats: EngineStats) -> list[Family]:
        """What was counted, with the engine's own numbers."""
        return [*self._families(stats), self.first_token.family(), self.token.family()]

    def _families(self, stats: EngineStats) -> Iterator[Family]:
        requests = Family("requests_total", "HTTP requests by route, method and status.", "counter")
        for (route, method, status), count in sorted(self.requests.items()):
            requests.samples.append(("", {"route": route, "method": method, "status": str(status)}, count))
        yield requests
        counts = stats.counts
        gauges: Sequence[tuple[str, str, float]] = (
            ("http_requests_in_flight", "HTTP requests under way.", self.in_flight),
            ("requests_running", "Answers being generated.", stats.running),
            ("requests_queued", "Requests that wait for the engine.", stats.queued),
            ("cache_blocks_used", "Cache blocks that requests hold.", stats.blocks_used),
            ("cache_blocks_cached", "Cache blocks kept for prompts that begin alike.", stats.blocks_cached),
            ("cache_blocks_free", "Cache blocks that hold nothing.", stats.blocks_free),
            ("start_time_seconds", "When the server started, Unix time.", round(self._began, 3)),
        )
        counters: Sequence[tuple[str, str, float]] = (
            ("requests_cancelled_total", "Generations ended before their end.", counts.cancelled),
            ("requests_preempted_total", "Times that an answer had to be computed again.", counts.preempted),
            ("prompt_tokens_total", "Tokens of prompts.", counts.prompt_tokens),
            ("cached_prompt_tokens_total", "Of these, found in the prefix cache.", counts.cached_tokens),
            ("generated_tokens_total", "Tokens of answers.", counts.generated_tokens),
        )
        for name, summary, value in gauges:
            yield Family(name, summary, "gauge", [("", {}, value)])
        for name, summary, value in counters:
            yield Family(name, summary, "counter", [("", {}, value)])
