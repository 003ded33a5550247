"""A model behind any server of OpenAI's chat completions as a `ChatModel`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from modelworks.agents.halt import Halt
from modelworks.agents.model import Choice, Halted, Message, ModelError, Reply
from modelworks.agents.tool import Tool
from modelworks.core.http import Endpoint, PostError, PostHalted
from modelworks.text.tool_calls import ToolCall

_BYTES_A_TOKEN: Final = 2  # English has 4, digits and brackets of JSON hardly fewer than 2


class EndpointModel:
    """A model by its URL (up to `/v1`) and name; `key` is the environment variable that holds the key.

    `settings` are further fields of each request, such as `temperature` or `seed`. `timeout` is what a whole answer may
    take; a halt waits for none of it. Raises ConfigError for a URL that is none and a variable that is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key: str = "",
        *,
        context_length: int = 32_768,
        timeout: float = 600.0,
        tries: int = 4,
        wait: float = 1.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._endpoint = Endpoint(url, key=key, timeout=timeout, tries=tries, wait=wait, whose="model")
        self.name = model
        self.context_length = context_length
        self._settings = {"temperature": 0} if settings is None else dict(settings)

    def count(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> int:
        """An estimate from above: the server alone knows its tokens."""
        told = json.dumps([list(map(dict, messages)), [tool.described() for tool in tools]], ensure_ascii=False)
        return len(told.encode()) // _BYTES_A_TOKEN

    def reply(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        choice: Choice = "auto",
        max_tokens: int = 512,
        halt: Halt | None = None,
    ) -> Reply:
        """Answer, or call tools. Raises `ModelError` of one line, and `Halted` at once, the connection closed."""
        body = {"model": self.name, "messages": list(map(dict, messages)), "max_tokens": max_tokens} | self._settings
        if tools:
            body["tools"] = [{"type": "function", "function": tool.described()} for tool in tools]
            body["tool_choice"] = choice
        where = f"{self._endpoint.url}: {self.name}"
        try:
            return _reply(self._endpoint.post("chat/completions", body, halt))
        except PostHalted as error:
            raise Halted(str(error)) from error
        except PostError as error:
            times = f" after {error.tries} tries" if error.tries > 1 else ""
            raise ModelError(f"{where}: no answer{times}: {error.reason}") from error
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise ModelError(f"{where}: what it answered is no chat completion ({error!r})") from error


def _reply(answer: Any) -> Reply:
    """What a chat completion says; each call in its list is one, whatever index or id it shares with another."""
    chosen = answer["choices"][0]
    message = chosen["message"]
    calls = [_call(call["function"]) for call in message.get("tool_calls") or ()]
    usage = answer.get("usage") or {}
    return Reply(
        _text(message.get("content")).strip(),
        tuple(calls),
        int(usage.get("prompt_tokens") or 0),
        int(usage.get("completion_tokens") or 0),
        cut=chosen.get("finish_reason") == "length",
    )


def _text(content: Any) -> str:
    """A message's content, which may be null or come in parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def _call(function: Mapping[str, Any]) -> ToolCall:
    arguments = function.get("arguments") or "{}"
    return ToolCall(str(function["name"]), arguments if isinstance(arguments, str) else json.dumps(arguments))
