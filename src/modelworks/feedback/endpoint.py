"""A larger model elsewhere as the judge: any server of OpenAI's chat completions that reports log-probabilities."""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from modelworks.core.errors import ConfigError, ModelworksError
from modelworks.feedback.judge import Comparison, Labels, Verdict, asked, chunks
from modelworks.feedback.scores import Messages

_TOP = 20  # as many as OpenAI's API reports
_PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 30.0


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
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no URL of a judge; it begins with http:// or https://")
        if key and not os.environ.get(key):
            raise ConfigError(f"the environment variable {key}, which is to hold the judge's key, is not set")
        self._url, self._model, self._labels = f"{url.rstrip('/')}/chat/completions", model, labels
        self._key = os.environ.get(key, "") if key else ""
        self._timeout, self._tries, self._streams, self._wait = timeout, tries, streams, wait

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
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        for attempt in range(1, self._tries + 1):
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as reply:
                    return json.load(reply)
            except urllib.error.HTTPError as error:
                reason, passing = _told(error), error.code in _PASSING
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason, passing = str(getattr(error, "reason", error) or type(error).__name__), True
            except ValueError as error:
                reason, passing = f"its answer is not JSON: {error}", False
            if not passing:
                break
            if attempt < self._tries:
                time.sleep(min(self._wait * 2 ** (attempt - 1), _LONGEST_WAIT))
        times = f" after {attempt} tries" if attempt > 1 else ""
        raise JudgeError(f"{self._url}: no verdict{times}: {reason}")


def _told(error: urllib.error.HTTPError) -> str:
    """The status, and what the server says of it."""
    try:
        said = json.loads(error.read(10_000))["error"]
        return f"{error.code} {said['message'] if isinstance(said, dict) else said}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}"
