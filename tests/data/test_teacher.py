from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from modelworks.core.errors import ConfigError, StoreError
from modelworks.data.teacher import Taught, TeacherCache, fingerprint
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.objectives.distill import Distill

V = 61


def model(seed: int) -> Llama:
    torch.manual_seed(seed)
    config = {
        "vocab_size": V, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "initializer_range": 0.3,
    }  # fmt: skip
    return Llama(LlamaConfig.from_hf({"model_type": "llama", **config}))


def batch(rows: int = 4, T: int = 7) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, V, (rows, T + 1), generator=torch.Generator().manual_seed(5))
    mask = torch.tensor([[1, 1, 1, 2, 2, 2, 0]] * rows)
    return {"input_ids": ids[:, :-1], "targets": ids[:, 1:], "weights": (mask > 0).float(), "attention_mask": mask}


class Stream:
    """Two batches, again and again."""

    at = 0

    def __iter__(self):
        while True:
            self.at += 1
            yield {name: tensor[self.at % 2 :: 2] for name, tensor in batch().items()}

    def state(self):
        return {"at": self.at}

    def restore(self, state):
        self.at = state["at"]


def test_what_is_kept_is_what_the_teacher_says(tmp_path):
    teacher, data = model(1), batch()
    found = TeacherCache(tmp_path, teacher, k=5, temperature=2.0).add(data)
    with torch.no_grad():
        whole = (teacher(data["input_ids"], attention_mask_BS=data["attention_mask"]) / 2).log_softmax(-1)
    assert torch.equal(found["teacher_ids"], whole.topk(5).indices)
    torch.testing.assert_close(found["teacher_logprobs"][..., :5], whole.topk(5).values, rtol=0, atol=4e-3)
    torch.testing.assert_close(found["teacher_logprobs"].exp().sum(-1), torch.ones(4, 7), rtol=0, atol=5e-3)
    assert all(found[name] is data[name] for name in data)


def test_rows_are_found_again_in_any_order_and_batch(tmp_path):
    teacher, data = model(1), batch()
    first = TeacherCache(tmp_path, teacher, k=5)
    kept = first.add(data)
    assert first.asked == 4
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was asked again"))
    again = TeacherCache(tmp_path, teacher, k=5)
    for row in (2, 0):
        one = again.add({name: tensor[row : row + 1] for name, tensor in data.items()})
        assert torch.equal(one["teacher_ids"][0], kept["teacher_ids"][row])
        assert torch.equal(one["teacher_logprobs"][0], kept["teacher_logprobs"][row])
    assert again.asked == 0


def test_other_documents_other_teachers_other_settings_are_other_rows(tmp_path):
    """Cache ignores tokenizer or template (axolotl#1265): whatever changes the answer changes the key."""
    teacher, data = model(1), batch()
    cache = TeacherCache(tmp_path, teacher, k=5)
    cache.add(data)
    cache.add(data | {"attention_mask": torch.ones_like(data["attention_mask"])})
    assert cache.asked == 8
    moved = copy.deepcopy(teacher)
    with torch.no_grad():
        moved.model.norm.weight[0] += 1e-3
    others = [TeacherCache(tmp_path, moved, k=5), TeacherCache(tmp_path, teacher, k=6)]
    others.append(TeacherCache(tmp_path, teacher, k=5, temperature=2))
    assert len({cache.path, *(other.path for other in others)}) == 4


def test_the_tokenizer_and_its_template_are_part_of_the_fingerprint():
    import tokenizers

    from modelworks.text.tokenizer import Tokenizer

    teacher = model(1)
    prints = [fingerprint(teacher)]
    for template in ("{{ messages }}", "{{ messages[0] }}"):
        backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, []))
        teacher.tokenizer = Tokenizer(backend, chat_template=template)
        prints.append(fingerprint(teacher))
    assert len(set(prints)) == 3
    assert prints[-1] == fingerprint(teacher)


def test_a_student_learns_from_the_cache_as_from_the_teacher(tmp_path):
    student, teacher, data = model(0), model(1), batch()
    live, _ = Distill(teacher)(student, data)
    kept, _ = Distill()(student, TeacherCache(tmp_path, teacher, k=V - 1).add(data))
    assert float(kept) == pytest.approx(float(live), rel=5e-3)
    twin, _ = Distill()(model(1), TeacherCache(tmp_path, teacher, k=8).add(data))
    assert abs(float(twin)) < 1e-3


def test_a_taught_stream_goes_on_where_it_was(tmp_path):
    cache = TeacherCache(tmp_path, model(1), k=3)
    stream = Taught(Stream(), cache)
    batches = iter(stream)
    next(batches)
    state = stream.state()
    expected = next(batches)
    other = Taught(Stream(), cache)
    other.restore(state)
    found = next(iter(other))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ConfigError, match="the state is of teacher-"):
        Taught(Stream(), TeacherCache(tmp_path, model(2), k=3)).restore(state)


def test_bad_settings_and_a_damaged_file(tmp_path):
    for settings in ({"k": 0}, {"k": V + 1}, {"temperature": 0.0}):
        with pytest.raises(ConfigError):
            TeacherCache(tmp_path, model(1), **settings)
    cache = TeacherCache(tmp_path, model(1), k=3)
    cache.path.write_bytes(np.random.default_rng(0).bytes(4096))
    with pytest.raises(StoreError, match=r"teacher-.*\.sqlite.*remove it"):
        TeacherCache(tmp_path, model(1), k=3)
