"""Messages in the form that chat templates are written for, and what each says that it counts in a loss."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from modelworks.core.errors import ModelworksError

Message = Mapping[str, Any]
_LARGEST_WEIGHT: Final = 1e30  # that a float32 holds, with room for sums


class ChatError(ModelworksError):
    """Messages are malformed, or the model's chat template does not accept them."""


def sequence_of(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages, where they are a list of at least one."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ChatError(f"messages must be a list of messages, not {type(messages).__name__}")
    if not messages:
        raise ChatError("there are no messages to render")
    return messages


def checked(index: int, message: Message) -> dict[str, Any]:
    """A copy of a message in the form templates are written for: content a string, arguments objects, no nulls."""
    where = f"message {index}"
    if not isinstance(message, Mapping):
        raise ChatError(f"{where}: expected an object with role and content, not {type(message).__name__}")
    copy: dict[str, Any] = {key: value for key, value in plain(message).items() if value is not None}
    role = copy.get("role")
    if not isinstance(role, str) or not role:
        raise ChatError(
            f"{where}: its role is {role!r}, expected a name such as 'user'" if role else f"{where}: no role"
        )
    if "tool_calls" in copy:
        calls = copy["tool_calls"]
        if not isinstance(calls, list):
            raise ChatError(f"{where}: its tool_calls are {type(calls).__name__}, expected a list")
        copy["tool_calls"] = [_checked_call(f"{where}: tool call {at}", call) for at, call in enumerate(calls)]
    content = copy.get("content")
    if isinstance(content, list):
        copy["content"] = "".join(_text_part(f"{where}: part {at}", part) for at, part in enumerate(content))
    elif content is None and copy.get("tool_calls"):
        copy["content"] = ""
    elif content is None:
        raise ChatError(f"{where}: no content")
    elif not isinstance(content, str):
        raise ChatError(f"{where}: its content is {type(content).__name__}, expected a string")
    return copy


def _text_part(where: str, part: Any) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise ChatError(f"{where} of its content is {kind!r}; this model reads text only")


def _checked_call(where: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ChatError(f"{where} has no function name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise ChatError(f"{where}: its arguments are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ChatError(f"{where}: its arguments are {type(arguments).__name__}, expected an object")
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def plain(value: Any) -> Any:
    """A copy made of JSON's types alone: templates are foreign code and get no object with methods of its own."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)  # of an enum's member the value, not the name
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    raise ChatError(f"messages and tools hold JSON's types only, not {type(value).__name__}")


def strings(value: Any) -> Iterable[str]:
    """Every text within a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from strings(item)


def take_weight(index: int, message: dict[str, Any]) -> float:
    """What a message says that it counts, taken out of it: templates do not know of that."""
    train, weight = message.pop("train", None), message.pop("weight", 1.0)
    if not isinstance(train, bool | type(None)):
        raise ChatError(f"message {index}: its train is {train!r}, expected true or false")
    if train and message["role"] not in ("assistant", "thinking"):
        raise ChatError(f"message {index}: train is true, but only the assistant's turns can be learned")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _LARGEST_WEIGHT:
        raise ChatError(f"message {index}: its weight is {weight!r}, expected a number from 0 upwards")
    return 0.0 if train is False else float(weight)


def adapted(
    messages: list[dict[str, Any]], counts: list[float], template: str
) -> tuple[list[dict[str, Any]], list[float]]:
    """Roles that a template need not know, said in those that it does."""
    made: list[dict[str, Any]] = []
    kept: list[float] = []
    thought: str | None = None
    thought_count = 1.0
    for index, (message, count) in enumerate(zip(messages, counts)):
        if thought is not None:
            if message["role"] != "assistant":
                raise ChatError(
                    f"message {index}: after a thinking message comes the assistant's, not {message['role']!r}"
                )
            if count != thought_count:
                raise ChatError(f"message {index}: it counts otherwise than its thinking, and both are one turn")
            message, thought = _thoughtful(message, thought, template), None
        elif message["role"] == "thinking":
            thought, thought_count = message["content"], count
            continue
        elif message["role"] == "developer" and "developer" not in template:
            message = message | {"role": "system"}
        made.append(message)
        kept.append(count)
    if thought is not None:
        raise ChatError(f"message {len(messages) - 1}: a thinking message is the last; the assistant's has to follow")
    return made, kept


def _thoughtful(message: dict[str, Any], thought: str, template: str) -> dict[str, Any]:
    """An assistant's message with what it thought first, in the field that the template reads, or else in tags."""
    for name in ("reasoning_content", "thinking"):
        if re.search(rf"\.{name}\b|\[['\"]{name}['\"]\]", template):
            return message | {name: thought}
    return message | {"content": f"<think>\n{thought}\n</think>\n\n{message['content']}"}
