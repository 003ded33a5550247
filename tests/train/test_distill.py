"""`distill` as a recipe: a student of tiny size learns from a teacher on disk, asked live or from the cache."""

from __future__ import annotations

import pytest

from modelworks.core.errors import ConfigError
from modelworks.data.teacher import Taught
from modelworks.models.load import load
from modelworks.models.moe import MoE
from modelworks.models.save import save
from modelworks.objectives.balance import Balanced
from modelworks.objectives.distill import Distill
from modelworks.train.run import read_recipe, run


@pytest.fixture
def recipe_of(overrides, request, tmp_path, workshop):
    """A recipe file at its smallest, and a teacher for it."""
    root = request.config.rootpath / "recipes"
    teacher = read_recipe(root / "pretrain.toml", overrides("model.config.hidden_size=32")).model.build()
    folder = save(teacher, tmp_path / "teacher")

    def make(name, *more):
        return read_recipe(root / f"{name}.toml", overrides("precision=fp32", *more))

    return lambda *more: make("distill", f'teacher="{folder}"', f'cache="{tmp_path}/kept"', *more), make


def test_a_student_learns_from_a_teacher(recipe_of, tmp_path):
    distill, _ = recipe_of
    recipe = distill("steps=60", "optim.lr=1e-2", "optim.name=adamw", "hard=0.0", "evaluate_every=0")
    job = recipe.prepare()
    assert isinstance(job.objective, Distill)
    assert job.objective.teacher is not None
    assert job.parents == (recipe.teacher,)
    divergences = []
    run(recipe, tmp_path / "run", watch=lambda record: divergences.append(record.step.metrics["divergence"]))
    assert sum(divergences[-5:]) < sum(divergences[:5]) / 2


def test_a_cache_asks_once_and_is_used_again(recipe_of, tmp_path):
    distill, _ = recipe_of
    recipe = distill("top_k=8", "data.rows=packed", "data.epochs=2", "steps=0", "evaluate_every=0", "save_every=0")
    job = recipe.prepare()
    assert isinstance(job.batches, Taught)
    assert job.objective.teacher is None
    run(recipe, tmp_path / "run")
    kept = list((tmp_path / "kept").glob("teacher-*.sqlite"))
    assert len(kept) == 1
    size = kept[0].stat().st_size
    run(recipe, tmp_path / "again")
    assert kept[0].stat().st_size == size


def test_a_teacher_of_another_tokenizer_is_refused(recipe_of, tmp_path):
    distill, _ = recipe_of
    teacher = load(tmp_path / "teacher")
    teacher.tokenizer.stop_ids = (0, 5)
    teacher.tokenizer.pad_id = 3
    save(teacher, tmp_path / "other")
    with pytest.raises(ConfigError, match="has another tokenizer than the student"):
        distill(f'teacher="{tmp_path}/other"').prepare()
    with pytest.raises(ConfigError, match="teacher: missing"):
        distill("teacher=''").prepare()


def test_the_moe_recipe_trains_a_mixture_that_is_balanced_by_its_biases(recipe_of, tmp_path):
    _, make = recipe_of
    small = ["model.config.moe_intermediate_size=8", "model.config.n_routed_experts=8", "balance.bias_rate=0.01"]
    recipe = make("moe", *small, "steps=4", "model.config.max_window_layers=2")
    assert isinstance(recipe.prepare().objective, Balanced)
    seen = []
    model = load(run(recipe, tmp_path / "run", watch=lambda record: seen.append(record.step)))
    assert isinstance(model, MoE)
    assert model.model.layers[1].mlp.gate.e_score_correction_bias.any()
    assert {"nll", "balance", "router_z", "max_load"} <= seen[-1].metrics.keys()
    assert "samples" in seen[-1].evaluation
