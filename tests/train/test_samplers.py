from __future__ import annotations

import sys

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.engine.generate import complete
from modelworks.engine.sample import Sampling
from modelworks.train.samplers import OnRay, _Actor, _learned


def requests(count: int):
    return [([1 + at, 2, 3][: at % 3 + 1], Sampling(temperature=1.0, max_tokens=6, seed=at)) for at in range(count)]


def test_without_ray_it_says_what_to_install(make_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"rollout.workers needs ray: pip install 'modelworks\[ray\]'"):
        OnRay(make_model(), 2)


def test_an_actor_answers_as_the_weights_now_are(make_model):
    """What one actor does, without Ray around it."""
    now = make_model(seed=1)
    actor = _Actor(make_model(seed=0), 4)
    expected = complete(now, *zip(*requests(5)), batch_size=4)
    assert actor.sample(_learned(now), requests(5)) == expected


@pytest.mark.slow
def test_on_ray_the_answers_are_the_same(make_model):
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        model = make_model(initializer_range=0.3)
        sampler = OnRay(model, 2)
        for _ in range(2):
            assert [each.ids for each in sampler(model, requests(7))] == [
                each.ids for each in complete(model, *zip(*requests(7)))
            ]
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.1)
        assert len(sampler(model, requests(1))) == 1
    finally:
        ray.shutdown()
