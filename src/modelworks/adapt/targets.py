"""Which matrices of a model an adapter may add to, and choosing among them by pattern."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from modelworks.adapt.packed import PackedLinear
from modelworks.core.errors import ConfigError
from modelworks.models.base import Pretrained
from modelworks.models.registry import architecture_of

ALL_LINEAR = "all-linear"
BASE = ".base"
"""How the module of a matrix is called within the one that adds to it (`lora.AdaptedLinear`)."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A matrix that an adapter may add to: where it is, its names, bare (see `registry.Family`) and Hugging Face's."""

    path: str
    bare: str
    name: str
    linear: nn.Linear | PackedLinear

    @property
    def shape(self) -> tuple[int, int]:
        """Rows (outputs) and columns (inputs)."""
        return self.linear.out_features, self.linear.in_features


def places_of(model: nn.Module) -> list[Place]:
    """The matrices of a model's layers; neither its embedding nor its head. Raises ModelFileError for other modules."""
    _, family = architecture_of(model)
    found = []
    for module_name, module in model.named_modules():
        if isinstance(module, nn.Linear | PackedLinear):
            path = module_name.removesuffix(BASE)
            name = family.hf_name(f"{path}.weight").removesuffix(".weight")
            if re.search(r"\.\d+\.", name):  # heads are in no layer
                found.append(Place(path, family.bare(f"{name}.weight").removesuffix(".weight"), name, module))
    return found


def compiled(field: str, pattern: str) -> re.Pattern[str]:
    """What matches a module's whole name, or its end from a dot on. Raises ConfigError for what is no expression."""
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"{field}: {pattern!r:.60} is no regular expression: {error}") from error


def by_pattern(patterns: Mapping[str, Value], name: str, default: Value) -> Value:
    """The value of the first pattern that matches a module's name, or the end of it from a dot on."""
    return next((value for key, value in patterns.items() if compiled("pattern", key).fullmatch(name)), default)


def select(model: Pretrained, targets: Iterable[str], exclude: Iterable[str] = ()) -> list[Place]:
    """The places that some pattern of `targets` matches and none of `exclude`, in the model's order.

    A pattern is a regular expression that matches a module's Hugging Face name whole or from a dot on ("q_proj",
    r"layers\\.[0-3]\\..*"), or "all-linear". Raises ConfigError for one that matches nothing, and lists what is there.
    """
    places = places_of(model)
    targets, exclude = tuple(targets), tuple(exclude)
    if not targets:
        raise ConfigError("targets is empty: no matrix would be adapted")
    chosen: set[str] = set()
    for field, patterns in (("targets", targets), ("exclude", exclude)):
        for pattern in patterns:
            expression = compiled(field, ".*" if pattern == ALL_LINEAR else pattern)
            matched = {place.path for place in places if expression.fullmatch(place.name)}
            if not matched:
                raise ConfigError(f"{field}: {pattern!r:.60} matches no matrix; the model has {described(places)}")
            chosen = chosen | matched if field == "targets" else chosen - matched
    if not chosen:
        raise ConfigError("exclude takes away all that targets names")
    return [place for place in places if place.path in chosen]


def described(places: Iterable[Place]) -> str:
    """The names that matrices end in, and in how many layers, for an error."""
    counts: dict[str, int] = {}
    for place in places:
        tail = re.split(r"\.\d+\.", place.name)[-1]
        counts[tail] = counts.get(tail, 0) + 1
    return ", ".join(f"{tail} ({count})" for tail, count in counts.items())


def checked_patterns(field: str, patterns: Mapping[str, Any], places: Iterable[Place]) -> None:
    """Raise ConfigError for a pattern that matches none of the places that were chosen."""
    places = list(places)
    for pattern in patterns:
        expression = compiled(field, pattern)
        if not any(expression.fullmatch(place.name) for place in places):
            raise ConfigError(f"{field}: {pattern!r:.60} matches no adapted matrix; adapted are {described(places)}")
