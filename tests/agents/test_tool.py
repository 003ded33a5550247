from __future__ import annotations

import pytest

from modelworks.agents.tool import Tool, call_digest, canonical, tool
from modelworks.core.errors import ConfigError


@tool(effects=["network"])
def temperature(city: str, unit: str = "celsius") -> float:
    """The temperature in a city now.

    Args:
        city: Its name in English.
    """
    return 21.5


def test_a_function_becomes_a_tool_with_its_name_description_and_schema() -> None:
    assert temperature.described() == {
        "name": "temperature",
        "description": "The temperature in a city now.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Its name in English."},
                "unit": {"type": "string", "default": "celsius"},
            },
            "additionalProperties": False,
            "required": ["city"],
        },
    }
    assert temperature.effects == {"network"}
    assert temperature.run(city="Rome") == 21.5


def test_a_function_that_does_not_say_its_effects_is_taken_to_write() -> None:
    assert tool(_plain).effects == {"writes"}


def _plain() -> None:
    """Nothing."""


@pytest.mark.parametrize(
    ("changed", "same"),
    [({"description": "Else."}, False), ({"effects": frozenset({"money"})}, False), ({"timeout": 1.0}, True)],
)
def test_a_digest_is_of_what_a_model_and_an_approver_are_told(changed: dict, same: bool) -> None:
    fields = {name: getattr(temperature, name) for name in Tool.__slots__}
    assert (Tool(**fields | changed).digest == temperature.digest) == same


def test_a_call_has_the_digest_of_its_exact_arguments() -> None:
    first = call_digest(temperature, {"city": "Rome", "unit": "celsius"})
    assert first == call_digest(temperature, {"unit": "celsius", "city": "Rome"})
    assert first != call_digest(temperature, {"city": "Rome ", "unit": "celsius"})
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "rm -rf"])
def test_a_name_that_no_model_could_be_told_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a name has at most"):
        Tool(name, "", {"type": "object"}, _plain, frozenset())


def test_an_effect_that_there_is_none_of_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no effect is called 'write'"):
        tool(effects=["write"])(_plain)  # type: ignore[list-item]
