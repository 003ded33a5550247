"""`pretrain` and `sft`: which model and which rows a recipe comes to, and what it cannot come to."""

from __future__ import annotations

import pytest
import torch

from modelworks.core.errors import ConfigError
from modelworks.data.rows import PackedRows, PaddedRows, TokenRows
from modelworks.models.llama import Llama
from modelworks.train.run import read_recipe, run


@pytest.fixture
def recipe_of(overrides, request):
    def make(kind, *more):
        root = request.config.rootpath / "recipes"
        return read_recipe(root / "pretrain.toml", overrides(f"kind={kind}", *more))

    return make


def test_a_new_model_takes_its_vocabulary_and_control_tokens_from_the_tokenizer(recipe_of):
    job = recipe_of("pretrain").prepare()
    assert type(job.model) is Llama
    assert job.model.config.vocab_size == job.model.tokenizer.vocab_size == 258
    assert job.model.config.eos_token_id == 0
    assert job.model.config.pad_token_id == 1
    assert job.parents == ()


@pytest.mark.parametrize(
    ("kind", "rows", "made"),
    [
        ("pretrain", None, TokenRows),
        ("sft", None, PackedRows),
        ("sft", "padded", PaddedRows),
        ("sft", "tokens", TokenRows),
    ],
)
def test_the_kind_decides_the_rows_unless_they_are_stated(recipe_of, workshop, kind, rows, made):
    recipe = recipe_of(kind, *([] if rows is None else [f"data.rows={rows}"]))
    model = recipe.model.build()
    assert type(recipe._rows(recipe._open(f"{workshop}/train", model), 0)) is made


def test_sft_goes_on_from_a_model_and_learns_what_counts(recipe_of, overrides, tmp_path, workshop, request):
    first = run(recipe_of("pretrain"), tmp_path / "first")
    plain = [line for line in overrides() if not line.startswith("model.")]
    sft = read_recipe(
        request.config.rootpath / "recipes/sft.toml", (*plain, f'model.ref="{first}"', "optim.lr=1e-2", "steps=30")
    )
    losses, weights = [], []
    run(sft, tmp_path / "second", watch=lambda record: losses.append(record.step.loss))
    assert losses[-1] < losses[0] / 1.5
    job = sft.prepare()
    assert job.parents == (str(first),)
    for batch, _ in zip(job.batches, range(3)):
        weights += batch["weights"].flatten().tolist()
        assert torch.equal(batch["attention_mask"] == 0, (batch["input_ids"] == 1) & (batch["weights"] == 0))
    assert 0.0 in weights


def test_a_mixture_draws_from_all_its_parts(recipe_of, workshop):
    job = recipe_of("pretrain", f'data.train={{"{workshop}/train" = 0.5, "{workshop}/held" = 0.5}}').prepare()
    assert set(job.data) == {f"{workshop}/train", f"{workshop}/held"}
    assert job.steps is None


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["data.seq_len=65"], "data.seq_len is 65; the model's context has 64"),
        (["data.train={}"], "data.train: missing"),
        (['data.train={"nowhere" = 1.0}'], "nowhere: no tokenised data"),
        (["model.ref=starter"], "model: state either ref"),
        (["model.config.model_type=lama"], "unknown architecture"),
        (["model.config.hidden_size=0"], "model.config: hidden_size must be"),
        (["data.batch_size=0"], "data: batch_size must be 1 or more"),
    ],
)
def test_what_cannot_be_is_one_line(recipe_of, more, says):
    with pytest.raises(Exception, match=says) as caught:
        recipe_of("pretrain", *more).prepare()
    assert type(caught.value).__module__ == "modelworks.core.errors"
    assert "\n" not in str(caught.value)


def test_data_of_another_tokenizer_is_refused(recipe_of, workshop, tmp_path):
    """axolotl#1265: what was tokenised with another tokenizer must not be trained on."""
    text = (workshop / "tokenizer" / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(text.replace("<|pad|>", "<|fill|>"))
    with pytest.raises(ConfigError, match="it was tokenised with another tokenizer"):
        recipe_of("pretrain", f'model.tokenizer="{tmp_path}"').prepare()
