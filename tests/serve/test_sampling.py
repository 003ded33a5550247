"""Where sampling comes from: the request, the model's authors, OpenAI's defaults."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.engine.sample import Sampling
from modelworks.serve.fields import Fields
from modelworks.serve.sampling import defaults, read_sampling


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, {"temperature": 1.0}),
        ({"temperature": 0.6, "top_k": 20, "eos_token_id": 3}, {"temperature": 0.6, "top_k": 20}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 1.0}),
        ({"temperature": None}, {"temperature": 1.0}),
    ],
)  # fmt: skip
def test_what_the_models_authors_recommend(echo, stated: dict[str, Any], expected: dict[str, Any]) -> None:
    model = echo()
    model.generation_defaults = stated
    assert defaults(model) == Sampling(**expected, max_tokens=None)


def test_a_request_states_only_what_it_says() -> None:
    def read(**values: Any) -> dict[str, Any]:
        fields = Fields(values)
        found = read_sampling(fields, max_tokens=("a", "b"), logprobs=0)
        fields.close()
        return found

    assert read() == {}
    assert read(a=3, b=3, seed=-1, stop="x", logit_bias={"7": -100}) == {
        "max_tokens": 3,
        "seed": 2**63 - 1,
        "stop": ("x",),
        "logit_bias": {7: -100.0},
    }
    assert read(temperature=0, top_k=0) == {"temperature": 0.0, "top_k": 0}
