"""`ppo` and `grpo` as recipes: as they ship, on a model of tiny size, trained, saved and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from modelworks.core.errors import ConfigError, Stopped
from modelworks.models.heads import VALUE_HEAD, ActorCritic, load_with_critic
from modelworks.models.load import load
from modelworks.models.save import save
from modelworks.train.answer_log import ANSWERS
from modelworks.train.run import METRICS, read_recipe, run


@pytest.fixture(scope="module")
def base(request, tmp_path_factory, workshop):
    """A small model with the workshop's tokenizer."""
    recipe = read_recipe(
        request.config.rootpath / "recipes/pretrain.toml",
        (
            f'model.tokenizer="{workshop}/tokenizer"',
            "model.config.hidden_size=32",
            "model.config.intermediate_size=48",
            "model.config.num_hidden_layers=2",
            "model.config.num_attention_heads=2",
            "model.config.num_key_value_heads=1",
            "model.config.initializer_range=0.2",
            "model.config.max_position_embeddings=64",
        ),
    )
    torch.manual_seed(0)
    return save(recipe.model.build(), tmp_path_factory.mktemp("base") / "model")


@pytest.fixture
def recipe_of(request, base, tmp_path):
    file = tmp_path / "questions.jsonl"
    rows = [{"question": f"{at}+{at}=", "answer": f"#### {2 * at}"} for at in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def make(kind, *more):
        small = (
            f'model.ref="{base}"', f'prompts.train=["{file}"]', f'prompts.held_out="{file}"', "prompts.as_chat=false",
            "rollout.prompts=4", "rollout.max_tokens=4", "steps=6", "evaluate_every=3", "save_every=2",
        )  # fmt: skip
        return read_recipe(request.config.rootpath / f"recipes/{kind}.toml", (*small, *more))

    return make


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_the_recipe_as_it_ships_trains_an_adapter(kind, recipe_of, tmp_path):
    seen = []
    folder = run(recipe_of(kind), tmp_path / "run", watch=lambda record: seen.append(record.step))
    assert folder.name == "adapter"
    assert (folder / VALUE_HEAD).exists() == (kind == "ppo")
    assert {"reward", "length", "cut", "ratio", "approx_kl", "entropy", "answer_kl", "clip_fraction"} <= seen[
        -1
    ].metrics.keys()
    assert seen[0].metrics["ratio"] == pytest.approx(1, abs=1e-5)
    assert ("explained_variance" in seen[-1].metrics) == (kind == "ppo")
    assert set(seen[-1].evaluation) == {"reward", "cut"}
    assert list(tmp_path.glob("run/step-*"))


def test_a_whole_model_learns_an_easy_reward_and_its_critic_comes_back(recipe_of, tmp_path):
    easy = (
        'rewards={letter={kind="regex", options={pattern="[a-z]"}}}', "steps=60", "accumulate=1", "evaluate_every=0",
        "rollout.prompts=12", "rollout.samples=4", "rollout.kl_target=0.0", "rollout.kl=0.01", "optim.lr=3e-3",
    )  # fmt: skip
    recipe = replace(recipe_of("ppo", *easy), lora=None)
    rewards = []
    folder = run(recipe, tmp_path / "run", watch=lambda record: rewards.append(record.step.metrics["reward"]))
    assert sum(rewards[-6:]) / 6 > sum(rewards[:2]) / 2 + 0.3
    critic = load_with_critic(folder)
    ids = torch.tensor([[5, 6, 7]])
    assert critic.values(ids).abs().max() > 0
    assert torch.equal(load(folder)(ids), critic(ids))  # a language model for everybody else
    again = recipe_of("ppo", f'model.ref="{folder}"').prepare().model
    assert isinstance(again, ActorCritic)
    assert torch.equal(again.values(ids), critic.values(ids))


@pytest.mark.parametrize("kind", ["ppo", "grpo"])
def test_a_run_that_was_cut_goes_on_as_if_it_never_stopped(kind, recipe_of, tmp_path):
    class Cut(Exception):
        pass

    def cut(record):
        if record.step.step == 5:
            raise Cut

    whole = run(recipe_of(kind), tmp_path / "whole")
    with pytest.raises(Cut):
        run(recipe_of(kind), tmp_path / "cut", watch=cut)
    again = run(recipe_of(kind), tmp_path / "cut", resume=True)
    for file in whole.glob("*.safetensors"):
        assert (again / file.name).read_bytes() == file.read_bytes()
    lines = [
        [json.loads(line) for line in (home / METRICS).read_text().splitlines()[1:]]
        for home in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert [line["metrics"] for line in lines[0]] == [line["metrics"] for line in lines[1]]
    whole_said, cut_said = ((tmp_path / name / ANSWERS).read_text() for name in ("whole", "cut"))
    assert whole_said == cut_said


def test_an_audit_ends_a_run_with_its_reason_and_the_model_is_kept(recipe_of, tmp_path):
    def audit(generation):
        return "proxy and gold part" if generation.step >= 2 else None

    with pytest.raises(Stopped, match="proxy and gold part; the model as it then was is in"):
        run(recipe_of("grpo"), tmp_path / "run", audit=audit)
    assert (tmp_path / "run" / "adapter").exists()


def test_prompts_by_epochs_say_how_many_steps_there_are(recipe_of):
    assert recipe_of("grpo", "steps=0", "prompts.epochs=2").prepare().steps == 6
    assert recipe_of("ppo", "steps=0", "prompts.epochs=2").prepare().steps == 6 * 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("rewards={}", "rewards: missing"),
        ("prompts.train=[]", "prompts.train: missing"),
        ("rewards={beauty={}}", "there is no reward 'beauty'"),
        ("prompts.max_length=64", "max_length is 64 and rollout.max_tokens 4; for both the model's context has 64"),
        ("loss.clip=2.0", "clip is 2.0"),
        ("loss.kl=0.1", None),
    ],
)
def test_what_a_recipe_cannot_come_to_is_named(recipe_of, change, says):
    if says is None:
        recipe_of("grpo", change).prepare()
        return
    with pytest.raises(ConfigError, match=says):
        recipe_of("grpo", change).prepare()
