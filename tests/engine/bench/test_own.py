"""What is measured of modelworks is the model's own computation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from modelworks.core.errors import ConfigError
from modelworks.engine.bench.compare import OWN, Task, compare, own
from modelworks.engine.bench.measure import decode, make_prompt
from modelworks.engine.bench.own import Own
from modelworks.engine.generate import generate
from modelworks.engine.sample import Sampling
from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama
from modelworks.models.save import save

MakeTask = Callable[..., Task]


def greedy(model: LanguageModel, context: int, count: int) -> list[int]:
    prompt = make_prompt(context, model.config.vocab_size)
    return [index for piece in generate(model, [prompt], Sampling(max_tokens=count)) for index in piece.ids]


def test_it_decodes_what_generate_does(bare: Llama, make_task: MakeTask) -> None:
    assert decode(Own(asdict(make_task())), 8, 20)[1] == greedy(bare, 8, 20)


def test_packed_weights_run_natively(make_task: MakeTask, native_kernels: None) -> None:
    subject = Own(asdict(make_task(weights="q8")))
    assert "q8" in subject.about()["computed_by"]
    assert subject.about()["isa"]
    assert len(decode(subject, 8, 20)[1]) == 20


def test_an_answer_has_its_tokens_though_the_model_would_end_it(
    bare: Llama, make_llama: Callable[..., Llama], make_task: MakeTask, tmp_path: Path
) -> None:
    ends = greedy(bare, 8, 3)[0]
    save(make_llama(eos_token_id=ends), tmp_path / "ends")
    assert len(greedy(make_llama(eos_token_id=ends), 8, 3)) == 1
    subject = Own(asdict(make_task(model=str(tmp_path / "ends"))))
    answers = subject.answer([make_prompt(8, subject.vocab_size), make_prompt(5, subject.vocab_size, 1)], 4)
    assert answers[0] == greedy(bare, 8, 4)
    assert len(answers[1]) == 4


def test_an_answer_that_is_too_short_is_no_figure(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Own(asdict(make_task()))
    monkeypatch.setattr("modelworks.engine.sample.Sampling", lambda max_tokens: Sampling(max_tokens=max_tokens - 1))
    with pytest.raises(RuntimeError, match="has 3 tokens, 4 were asked for"):
        subject.answer([[1, 2, 3]], 4)


@pytest.mark.parametrize(
    ("changes", "needs"),
    [({"context": 29}, 49), ({"context": 48, "kinds": ("prefill",)}, 49), ({"answer": 41, "tokens": 1}, 49)],
)
def test_tokens_that_do_not_fit_the_context(make_task: MakeTask, changes: dict[str, object], needs: int) -> None:
    with pytest.raises(ConfigError, match=f"made for 48 tokens, and the measures need {needs} "):
        Own(asdict(make_task(**changes)))


def test_all_measures_in_a_process_of_its_own(make_task: MakeTask) -> None:
    task = make_task()
    outcomes = compare(task, [own()], rounds=2)
    assert tuple(outcomes[OWN].samples) == task.measures
    assert len(outcomes[OWN].samples["prefill"]) == 4
    assert "torch" in outcomes[OWN].about["computed_by"]


def test_decoding_a_packed_file_takes_no_torch(smollm: LanguageModel, native_kernels: None) -> None:
    task = Task(model=str(smollm.source), threads=1, context=8, tokens=4, kinds=("decode", "memory"))
    script = (
        "import sys, modelworks.engine.bench.own as own\nstatus = own.main()\n"
        "sys.exit('torch was imported' if 'torch' in sys.modules else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(asdict(task))], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    about, decoded, memory, _ = map(json.loads, done.stdout.splitlines())
    assert "native program" in about["about"]["computed_by"]
    assert decoded["tokens"] == decode(Own(asdict(replace(task, kinds=("decode",)))), 8, 4)[1]
    assert memory["samples"][0] < 200
