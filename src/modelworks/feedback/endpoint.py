"""A larger model elsewhere as the judge: any server of OpenAI's chat completions that reports log-probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelworks.core.errors import ModelworksError
from modelworks.core.http import Endpoint, PostError
from modelworks.feedback.judge import Comparison, Labels, Verdict, asked, chunks
from modelworks.feedback.scores import Messages

_PATH = "chat/completions"
_TOP = 20  # as many as OpenAI's API reports


class JudgeError(ModelworksError):
    """A judge cannot be reached, or answers with what is no verdict."""


class EndpointJudge:
    """A judge behind an OpenAI-compatible URL, by the `top_logprobs` of its first token, `streams` asked at a time.

    The probabilities of all spellings of a label ("A", " A") add up. A label that is not among the likeliest tokens
    counts as likely as the least of them, which is the most that it can be; where neither is, there is no verdict.
    `key` names an environment variable. What may pass (no connection, 429, 5xx) is tried again, `tries` times in all,
    each time after a longer wait. Raises ConfigError for a URL that is none or a variable that is not set, and, when
    asked, JudgeError for a server that stays away, refuses, or reports no log-probabilities.
    """

    def __init__(
        self,
        url: str,
        model: str,
        labels: Labels = ("A", "B"),
        *,
        key: str = "",
        timeout: float = 60.0,
        tries: int = 4,
        streams: int = 4,
        wait: float = 1.0,
    ) -> None:
        self._endpoint = Endpoint(url, key=key, timeout=timeout, tries=tries, wait=wait, whose="judge")
        self._url, self._model, self._labels = f"{self._endpoint.url}/{_PATH}", model, labels
        self._streams = streams

    def __call__(self, comparisons: Iterable[Comparison]) -> Iterator[Verdict]:
        with ThreadPoolExecutor(self._streams) as pool:
            for chunk in chunks(comparisons, 4 * self._streams):
                yield from pool.map(self._judge, chunk)

    def _judge(self, comparison: Comparison) -> Verdict:
        orders = []
        for swapped in (False, True):
            found = self._logprobs(asked(comparison, self._labels, swapped=swapped))
            if found is None:
                return Verdict(None, f"neither {self._labels[0]} nor {self._labels[1]} is among its likeliest tokens")
            orders.append(found[::-1] if swapped else found)
        (a, b), (c, d) = orders
        return Verdict(((a, b), (c, d)))

    def _logprobs(self, messages: Messages) -> tuple[float, float] | None:
        answer = self._post(
            {
                "model": self._model,
                "messages": messages,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": True,
                "top_logprobs": _TOP,
            }
        )
        try:
            tokens = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
            listed = [(str(token["token"]).strip(), float(token["logprob"])) for token in tokens]
        except (KeyError, IndexError, TypeError, ValueError):
            listed = []
        if not listed:
            raise JudgeError(f"{self._url}: it reports no top_logprobs, without which {self._model} cannot judge")
        least = min(logprob for _, logprob in listed)
        sums = [math.fsum(math.exp(value) for token, value in listed if token == label) for label in self._labels]
        if not any(sums):
            return None
        first, second = (math.log(total) if total else least for total in sums)
        return first, second

    def _post(self, body: Mapping[str, Any]) -> Any:
        try:
            return self._endpoint.post(_PATH, body)
        except PostError as error:
            times = f" after {error.tries} tries" if error.tries > 1 else ""
            raise JudgeError(f"{self._url}: no verdict{times}: {error.reason}") from error
