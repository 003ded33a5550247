"""What a server says of a tool, and what is made of it: its name here, its effects, its text with nothing hidden.

A definition comes from somebody else. It is told to a model, so it can carry instructions. It can look otherwise than
it reads, say less than the tool does, take another tool's name, and change once it was approved.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

import jsonschema

from modelworks.agents.arguments import validator
from modelworks.agents.tool import Effect, canonical
from modelworks.core.errors import ConfigError

LONGEST: Final = 2000
"""Characters of a description that a model is told."""
_LONGEST_NAME: Final = 64
_SERVER: Final = re.compile(r"[a-z][a-z0-9-]{0,23}")
_UNTOLD: Final = ("_meta", "icons")
"""What of a definition neither model nor approver sees."""


def check_server_name(name: str) -> None:
    """Raise `ConfigError` for a name that could not begin its tools' names unmistakably."""
    if not _SERVER.fullmatch(name):
        raise ConfigError(
            f"MCP server {name!r}: a name has at most 24 lower-case letters, digits and '-', and begins with a letter"
        )


def tool_name(server: str, name: str) -> str:
    """What a tool of a server is called here: no two tools of any servers are called the same.

    The server's name comes first and has no '_', so the first '_' ends it. A name with other characters than function
    names have, or too long, is shortened and gets a hash of the whole.
    """
    made = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    room = _LONGEST_NAME - len(server) - 1
    if made == name and len(made) <= room:
        return f"{server}_{made}"
    ending = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{server}_{made[: room - 9]}-{ending}"


def digest(definition: Mapping[str, Any]) -> str:
    """SHA-256 of all that a server tells of a tool."""
    told = {key: value for key, value in definition.items() if key not in _UNTOLD}
    return hashlib.sha256(canonical(told).encode(errors="surrogatepass")).hexdigest()


def effects(configured: Iterable[Effect], annotations: Mapping[str, Any]) -> frozenset[Effect]:
    """What a call counts as: what the user said, and more where the server itself says so; a hint never lowers it."""
    raised: set[Effect] = set()
    if annotations.get("destructiveHint") is True and annotations.get("readOnlyHint") is not True:
        raised.add("writes")
    if annotations.get("openWorldHint") is True:
        raised.add("network")
    return frozenset(configured) | raised


def visible(text: str, most: int = LONGEST) -> str:
    """A text as it really is: what has no glyph of its own is an escape such as \\u{200b}, and so is what reorders.

    These are controls but newlines, format characters (zero width, bidirectional, Unicode's tags), variation selectors,
    private and unassigned code points, and separators that are not a plain space.
    """
    cut = f"{text[:most]}... [{len(text) - most} more characters]" if len(text) > most else text
    return "".join(f"\\u{{{ord(char):x}}}" if _is_hidden(char) else char for char in cut)


def _is_hidden(char: str) -> bool:
    if char in "\n ":
        return False
    # Variation selectors are marks, as accents are, but without a glyph: whole messages have been hidden in them.
    return unicodedata.category(char)[0] in "CZ" or "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


def shown_schema(schema: Any) -> dict[str, Any]:
    """A tool's input schema as models are told of it, its titles and descriptions with nothing hidden.

    Raises `ConfigError` for what is no schema of an object, or refers to another place.
    """
    if not isinstance(schema, Mapping):
        raise ConfigError("its input schema is no object")
    shown = _shown({key: value for key, value in schema.items() if key != "$schema"})
    shown.setdefault("type", "object")
    if shown["type"] != "object":
        raise ConfigError("its input schema is not of type 'object'")
    if far := next((each for each in _references(shown) if not each.startswith("#")), None):
        raise ConfigError(f"its input schema refers to {far!r}, and nothing is fetched")
    for name in _names(shown):
        if any(_is_hidden(char) for char in name):
            raise ConfigError(f"its input schema has a property with hidden characters: {visible(name)}")
    try:
        validator(shown)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"its input schema is invalid: {error.message[:200]}") from error
    return shown


def _shown(schema: Any, *, text: bool = True) -> Any:
    """`text`: whether "title" and "description" are words here, and not names of properties."""
    if isinstance(schema, list):
        return [_shown(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {}
    for key, value in schema.items():
        if text and key in ("title", "description", "$comment") and isinstance(value, str):
            made[key] = visible(value)
        elif key in ("enum", "const", "default", "examples"):
            made[key] = value
        else:
            made[key] = _shown(value, text=key not in ("properties", "$defs", "definitions", "patternProperties"))
    return made


def _references(schema: Any) -> Iterable[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from _references(each)
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            if key in ("$ref", "$dynamicRef", "$recursiveRef") and isinstance(value, str):
                yield value
            else:
                yield from _references(value)


def _names(schema: Any) -> Iterable[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from _names(each)
    elif isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key
            yield from _names(value)
