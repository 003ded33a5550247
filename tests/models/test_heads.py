from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from modelworks.core.errors import ModelFileError
from modelworks.models.gpt2 import GPT2, GPT2Config
from modelworks.models.heads import VALUE_HEAD, ActorCritic, load_value_head, load_with_critic, save_with_critic
from modelworks.models.load import load
from modelworks.models.save import save


@pytest.fixture
def critic() -> ActorCritic:
    torch.manual_seed(0)
    model = ActorCritic(GPT2(GPT2Config(vocab_size=20, n_positions=16, n_embd=8, n_layer=1, n_head=2, n_inner=16)))
    torch.nn.init.normal_(model.value.weight)
    return model.eval()


IDS_BT = torch.tensor([[1, 2, 3, 4]])


def test_a_reload_has_identical_values(critic, tmp_path):
    """Value heads came back random (LLaMA-Factory#9369, trl#1379)."""
    again = load_with_critic(save_with_critic(critic, tmp_path / "critic"))
    assert critic.values(IDS_BT).abs().min() > 0
    assert torch.equal(again.values(IDS_BT), critic.values(IDS_BT))
    # The folder is a language model for everybody else.
    assert torch.equal(load(tmp_path / "critic")(IDS_BT), critic.language_model(IDS_BT))
    save_with_critic(critic, tmp_path / "critic")  # over what is there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["critic"]


def test_a_model_without_a_head_begins_with_values_of_0(critic, tmp_path):
    save(critic.language_model, tmp_path / "plain")
    assert not load_with_critic(tmp_path / "plain").values(IDS_BT).any()


def test_padding_on_the_left_changes_no_value(critic):
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), IDS_BT), 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    torch.testing.assert_close(critic.values(padded, attention_mask_BS=mask)[:, 3:], critic.values(IDS_BT))


def test_a_head_that_is_damaged_or_of_another_model_is_named(critic, tmp_path):
    save_with_critic(critic, tmp_path / "critic")
    save_file({"weight": torch.zeros(1, 9)}, tmp_path / "critic" / VALUE_HEAD)
    with pytest.raises(ModelFileError, match=r"is \(1, 9\), this model's is \(1, 8\)"):
        load_with_critic(tmp_path / "critic")
    (tmp_path / "critic" / VALUE_HEAD).write_bytes(b"no")
    with pytest.raises(ModelFileError, match="no value head can be read"):
        load_with_critic(tmp_path / "critic")
    with pytest.raises(ModelFileError, match="no value head can be read"):
        load_value_head(critic, tmp_path)
