"""Rows of the formats that training data comes in, to samples.

A format is known by its columns, the most particular one first; a column that is null is absent. Where a row says more
than its format needs, that is kept in `extra`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from modelworks.core.errors import DataError
from modelworks.data.files import FileRow
from modelworks.data.sample import (
    Completion,
    Dialogue,
    Message,
    Pair,
    Prompt,
    Rated,
    Sample,
    Stepwise,
    Text,
    Tokens,
    Turns,
)

Columns = dict[str, Any]

_ROLES: Final = {
    **{role: role for role in ("system", "developer", "user", "assistant", "tool", "thinking")},
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "reasoning": "thinking",
}
_LARGEST: Final = 1e30  # that a float32 holds, with room for sums
_IGNORED_LABEL: Final = -100  # PyTorch's ignore_index, by which such data marks what is not learned
_HH_TURN: Final = re.compile(r"\n\n(Human|Assistant):")


class _Malformed(Exception):
    """What is wrong with a row; `to_sample` adds where."""


def to_sample(row: FileRow, *, columns: Mapping[str, str] | None = None, as_chat: bool = False) -> Sample:
    """The sample that a row states.

    `columns` renames the row's columns to those of the formats: `{"question": "prompt", "answer": "completion"}`. With
    `as_chat`, prompts and completions that are texts become turns of a user and an assistant. Raises DataError for a
    row of no known format and for one whose columns hold something else than their format says; it names the row.
    """
    value = {(columns or {}).get(name, name): item for name, item in row.value.items() if item is not None}
    for form in FORMATS:
        if all(any(name in value for name in names.split("|")) for names in form.needs.split()):
            break
    else:
        found = ", ".join(map(str, row.value)) or "none"
        known = "; ".join(f"{form.name} ({form.needs.replace(' ', ', ').replace('|', ' or ')})" for form in FORMATS)
        raise DataError(f"{row.place}: no known format: its columns are {found}. Known are {known}")
    try:
        weight = _weight("weight", value.pop("weight", 1.0))
        # A reader takes out of `value` what it reads; the rest stays there.
        return form.read(value, {"weight": weight, "place": row.place, "extra": value}, as_chat)
    except _Malformed as error:
        raise DataError(f"{row.place}: {form.name}: {error}") from error


# --- parts of rows ----------------------------------------------------------------------------------------------------


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _Malformed(f"{name} is {_kind(value)}, expected a text")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_LARGEST <= value <= _LARGEST:
        raise _Malformed(f"{name} is {value!r}, expected a number")
    return float(value)


def _weight(name: str, value: Any) -> float:
    if (weight := _number(name, value)) < 0:
        raise _Malformed(f"{name} is {weight}, less than 0")
    return weight


def _label(name: str, value: Any) -> bool:
    if value not in (True, False) or isinstance(value, float):
        raise _Malformed(f"{name} is {value!r}, expected true or false")
    return bool(value)


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Malformed(f"{name} is {_kind(value)}, expected a list")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number"}
    return names.get(type(value), f"of type {type(value).__name__}")


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    """Messages with `role` and `content`, or with ShareGPT's `from` and `value`, to the former."""
    items = _list(name, value)
    if not items:
        raise _Malformed(f"{name} is empty")
    return tuple(_message(f"{name}[{at}]", item) for at, item in enumerate(items))


def _message(name: str, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise _Malformed(f"{name} is {_kind(value)}, expected an object with role and content")
    message = {key: item for key, item in value.items() if item is not None}
    stated = message.pop("from", message.get("role"))
    role = _ROLES.get(stated) if isinstance(stated, str) else None
    if role is None:
        raise _Malformed(f"{name}: its role is {stated!r}; known are {', '.join(_ROLES)}")
    message["role"] = role
    if "value" in message:
        message["content"] = message.pop("value")
    if isinstance(call := message.pop("function_call", None), Mapping):  # OpenAI's form before tool_calls
        message |= {"tool_calls": [{"function": call}], "content": message.get("content", "")}
    if stated == "function_call":
        message["tool_calls"] = _calls(f"{name}: its call", message.pop("content", None))
        message["content"] = ""
    if "content" not in message and not message.get("tool_calls"):
        raise _Malformed(f"{name}: no content")
    if not isinstance(message.get("content", ""), str | list):
        raise _Malformed(f"{name}: its content is {_kind(message['content'])}, expected a text")
    if "tool_calls" in message:
        calls = _list(f"{name}: tool_calls", message["tool_calls"])
        message["tool_calls"] = [_call(f"{name}: tool_calls[{at}]", call) for at, call in enumerate(calls)]
    if not isinstance(message.get("train", True), bool):
        raise _Malformed(f"{name}: train is {message['train']!r}, expected true or false")
    if "weight" in message:
        message["weight"] = _weight(f"{name}: weight", message["weight"])
    return message


def _calls(name: str, value: Any) -> list[dict[str, Any]]:
    """ShareGPT's function_call, the JSON of one call or of a list of them, as OpenAI's tool_calls."""
    calls = _parsed(name, value)
    return [_call(name, {"function": call}) for call in (calls if isinstance(calls, list) else [calls])]


def _call(name: str, value: Any) -> dict[str, Any]:
    """A call in the form of OpenAI's API, its arguments an object."""
    function = value.get("function") if isinstance(value, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise _Malformed(f"{name} has no function name")
    arguments = _parsed(f"{name}: arguments", function.get("arguments", function.get("parameters", {})) or {})
    if not isinstance(arguments, Mapping):
        raise _Malformed(f"{name}: its arguments are {_kind(arguments)}, expected an object")
    rest = {key: item for key, item in value.items() if key not in ("type", "function") and item is not None}
    return {"type": "function", **rest, "function": {"name": function["name"], "arguments": arguments}}


def _tools(value: Columns) -> tuple[Mapping[str, Any], ...]:
    """The row's tools, a list or its JSON, each as OpenAI's API states it."""
    tools = _parsed("tools", value.pop("tools", []) or [])
    made = []
    for at, tool in enumerate(_list("tools", tools)):
        if not isinstance(tool, Mapping):
            raise _Malformed(f"tools[{at}] is {_kind(tool)}, expected an object")
        made.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(made)


def _parsed(name: str, value: Any) -> Any:
    """A value, or what its JSON says."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"{name} is a text that is not JSON: {error}") from error


def _turns(name: str, value: Any, role: str, as_chat: bool) -> Turns:
    """A text, one message or several; `role` is a text's where it becomes a message."""
    if isinstance(value, str):
        return ({"role": role, "content": value},) if as_chat else value
    return _messages(name, [value] if isinstance(value, Mapping) else value)


def _alpaca_prompt(value: Columns) -> tuple[Message, ...]:
    """System, history, and the instruction with its input, as turns."""
    messages: list[Message] = []
    if system := value.pop("system", None):
        messages.append({"role": "system", "content": _text("system", system)})
    for at, turn in enumerate(_list("history", value.pop("history", []))):
        if len(_list(f"history[{at}]", turn)) != 2:
            raise _Malformed(f"history[{at}] has {len(turn)} texts, expected a question and its answer")
        for role, said in zip(("user", "assistant"), turn):
            messages.append({"role": role, "content": _text(f"history[{at}]", said)})
    parts = [_text("instruction", value.pop("instruction")), _text("input", value.pop("input", ""))]
    messages.append({"role": "user", "content": "\n\n".join(filter(None, parts))})
    return tuple(messages)


def _prompt(value: Columns, as_chat: bool) -> Turns | None:
    """The prompt by whichever name; None where the row has none."""
    if "instruction" in value:
        return _alpaca_prompt(value)
    for name in ("prompt", "messages", "conversations"):
        if name in value:
            return _with_system(value, _turns(name, value.pop(name), "user", as_chat))
    return None


def _with_system(value: Columns, turns: Turns) -> Turns:
    """ShareGPT states the system's message beside the turns."""
    if isinstance(turns, str) or "system" not in value:
        return turns
    return ({"role": "system", "content": _text("system", value.pop("system"))}, *turns)


# --- formats ----------------------------------------------------------------------------------------------------------


def _read_tokens(value: Columns, common: Columns, as_chat: bool) -> Sample:
    ids = _list("input_ids", value.pop("input_ids"))
    for index in ids:
        if isinstance(index, bool) or not isinstance(index, int) or index < 0:
            raise _Malformed(f"input_ids holds {index!r}, expected ids")
    weights = [1.0] * len(ids)
    if "labels" in value:
        labels = _list("labels", value.pop("labels"))
        for at, (index, label) in enumerate(zip(ids, labels)):
            if label not in (index, _IGNORED_LABEL):
                raise _Malformed(f"labels[{at}] is {label!r}, expected {index} as in input_ids, or {_IGNORED_LABEL}")
        weights = [float(label != _IGNORED_LABEL) for label in labels]
    elif "weights" in value:
        weights = [_weight("weights", weight) for weight in _list("weights", value.pop("weights"))]
    if len(weights) != len(ids):
        raise _Malformed(f"{len(ids)} input_ids and {len(weights)} labels or weights")
    mask = _list("attention_mask", value.pop("attention_mask", [1] * len(ids)))
    kept = [bool(seen) for seen in mask]
    if len(kept) != len(ids):
        raise _Malformed(f"{len(ids)} input_ids and an attention_mask of {len(kept)}")
    return Tokens(
        ids=tuple(index for index, keep in zip(ids, kept) if keep),
        weights=tuple(weight for weight, keep in zip(weights, kept) if keep),
        **common,
    )


def _read_pair(value: Columns, common: Columns, as_chat: bool) -> Sample:
    margin = _number("margin", value.pop("margin")) if "margin" in value else None
    tools = _tools(value)
    prompt = _prompt(value, as_chat)
    raw = value.pop("chosen"), value.pop("rejected")
    chat = as_chat or (prompt is not None and not isinstance(prompt, str))
    chosen, rejected = (_answer(name, side, chat) for name, side in zip(("chosen", "rejected"), raw))
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise _Malformed("one of chosen and rejected is a text and the other is not")
    if isinstance(prompt, str) and not isinstance(chosen, str):
        prompt = ({"role": "user", "content": prompt},)
    if prompt is None:
        prompt, chosen, rejected = _implicit_prompt(chosen, rejected)
    elif not isinstance(prompt, str):
        assert not isinstance(chosen, str)
        assert not isinstance(rejected, str)
        chosen, rejected = _without(prompt, chosen), _without(prompt, rejected)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side == ():
            raise _Malformed(f"{name} has no turn beyond the prompt")
    return Pair(prompt=prompt, chosen=chosen, rejected=rejected, margin=margin, tools=tools, **common)


def _answer(name: str, value: Any, as_chat: bool) -> Turns:
    """A completion; a text of Anthropic's "Human:" and "Assistant:" becomes its turns."""
    if isinstance(value, str) and value.startswith("\n\nHuman:") and "\n\nAssistant:" in value:
        return _hh_turns(value)
    return _turns(name, value, "assistant", as_chat)


def _hh_turns(text: str) -> tuple[Message, ...]:
    parts = _HH_TURN.split(text)
    roles = {"Human": "user", "Assistant": "assistant"}
    return tuple({"role": roles[speaker], "content": said.strip()} for speaker, said in zip(parts[1::2], parts[2::2]))


def _implicit_prompt(chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """The common beginning of two completions: whole turns, or whole words."""
    common = _common(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        while common and not chosen[common - 1].isspace():
            common -= 1
        while common and chosen[common - 1] == " ":  # tokens carry the space before a word
            common -= 1
        return chosen[:common], chosen[common:], rejected[common:]
    # The last turn is the completion, even where both say the same.
    common = min(common, *(len(side) - 1 for side in (chosen, rejected)))
    return chosen[:common], chosen[common:], rejected[common:]


def _common(left: Sequence[Any], right: Sequence[Any]) -> int:
    return next((at for at, (a, b) in enumerate(zip(left, right)) if a != b), min(len(left), len(right)))


def _without(prompt: tuple[Message, ...], turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns after the prompt, where a completion repeats that."""
    return turns[len(prompt) :] if turns[: len(prompt)] == prompt else turns


def _read_stepwise(value: Columns, common: Columns, as_chat: bool) -> Sample:
    steps = tuple(_text("completions", step) for step in _list("completions", value.pop("completions")))
    labels = tuple(_label("labels", label) for label in _list("labels", value.pop("labels")))
    if len(steps) != len(labels):
        raise _Malformed(f"{len(steps)} completions and {len(labels)} labels")
    if not steps:
        raise _Malformed("completions is empty")
    return Stepwise(prompt=_turns("prompt", value.pop("prompt"), "user", as_chat), steps=steps, labels=labels, **common)


def _read_rated(value: Columns, common: Columns, as_chat: bool) -> Sample:
    label = _label("label", value.pop("label"))
    completion = _read_completion(value, common, as_chat)
    return Rated(**vars(completion), label=label)


def _read_rated_dialogue(value: Columns, common: Columns, as_chat: bool) -> Sample:
    """The last turn is what was rated."""
    label, tools = _label("label", value.pop("label")), _tools(value)
    messages = _prompt(value, True)
    assert isinstance(messages, tuple)
    if "output" in value:
        messages = (*messages, {"role": "assistant", "content": _text("output", value.pop("output"))})
    if messages[-1]["role"] != "assistant":
        raise _Malformed("the last turn, which was rated, is not the assistant's")
    return Rated(prompt=messages[:-1], completion=messages[-1:], label=label, tools=tools, **common)


def _read_dialogue(value: Columns, common: Columns, as_chat: bool) -> Sample:
    name = "messages" if "messages" in value else "conversations"
    messages = _with_system(value, _messages(name, value.pop(name)))
    assert isinstance(messages, tuple)
    return Dialogue(messages=messages, tools=_tools(value), **common)


def _read_alpaca(value: Columns, common: Columns, as_chat: bool) -> Sample:
    answer = {"role": "assistant", "content": _text("output", value.pop("output"))}
    return Dialogue(messages=(*_alpaca_prompt(value), answer), tools=_tools(value), **common)


def _read_completion(value: Columns, common: Columns, as_chat: bool) -> Completion:
    prompt = _turns("prompt", value.pop("prompt"), "user", as_chat)
    completion = _turns("completion", value.pop("completion"), "assistant", as_chat)
    if isinstance(prompt, str) and not isinstance(completion, str):
        prompt = ({"role": "user", "content": prompt},)
    elif isinstance(completion, str) and not isinstance(prompt, str):
        completion = ({"role": "assistant", "content": completion},)
    return Completion(prompt=prompt, completion=completion, tools=_tools(value), **common)


def _read_prompt(value: Columns, common: Columns, as_chat: bool) -> Sample:
    prompt = _prompt(value, as_chat)
    assert prompt is not None
    return Prompt(prompt=prompt, tools=_tools(value), **common)


def _read_text(value: Columns, common: Columns, as_chat: bool) -> Sample:
    return Text(text=_text("text", value.pop("text")), **common)


class Format(NamedTuple):
    name: str
    needs: str
    """The columns by which it is known; `a|b` is either."""
    read: Callable[[Columns, Columns, bool], Sample]


FORMATS: Final = (
    Format("tokens", "input_ids", _read_tokens),
    Format("preference", "chosen rejected", _read_pair),
    Format("stepwise", "prompt completions labels", _read_stepwise),
    Format("rated completion", "prompt completion label", _read_rated),
    Format("rated messages", "messages|conversations|instruction label", _read_rated_dialogue),
    Format("messages", "messages|conversations", _read_dialogue),
    Format("alpaca", "instruction output", _read_alpaca),
    Format("completion", "prompt completion", _read_completion),
    Format("prompt", "prompt|instruction", _read_prompt),
    Format("text", "text", _read_text),
)
