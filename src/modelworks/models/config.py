"""Reading Hugging Face's `config.json`: what every family's `from_hf` checks, so that bad values end in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

from modelworks.core.errors import ConfigError

# Far beyond any model: a config that claims more is damaged, and building it would fill the memory with layers.
MAX_LAYERS = 10_000


class ModelConfig(Protocol):
    """A family's dataclass. `to_hf` gives what `from_hf` and transformers read back as the same model."""

    @property
    def num_hidden_layers(self) -> int: ...

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> Self: ...

    def to_hf(self) -> dict[str, Any]: ...


def check_sizes(values: Mapping[str, Any], names: Iterable[str], *, most: int = 2**31 - 1) -> None:
    """Raise ConfigError unless each named value is there and is a whole number (no bool) from 1 to `most`."""
    for name in names:
        value = values.get(name)
        if type(value) is not int or not 0 < value <= most:
            raise ConfigError(f"{name} must be a positive whole number up to {most}, got {value!r}")


def check_numbers(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ConfigError unless each named value is there and is a finite number, 0 or more (and no bool)."""
    for name in names:
        value = values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"{name} must be a number, 0 or more, got {value!r}")


def check_flags(values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ConfigError unless each named value is there and is true or false."""
    for name in names:
        if not isinstance(values.get(name), bool):
            raise ConfigError(f"{name} must be true or false, got {values.get(name)!r}")


def object_in(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested object, empty where it is absent or null; raise ConfigError for anything else."""
    value = config.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{name} must be an object, got {value!r}")
    return value or {}


def given(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The named entries that are there and not null."""
    return {name: config[name] for name in names if config.get(name) is not None}


def token_ids(value: Any) -> int | tuple[int, ...] | None:
    """An `eos_token_id`: one id, several, or none. Raises ConfigError for anything else."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        return tuple(value)
    raise ConfigError(f"a token id must be a whole number or a list of them, got {value!r}")
