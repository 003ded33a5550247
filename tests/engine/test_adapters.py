"""Adapters in the engine: each request by its own, whatever comes and goes beside it, natively and over torch."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelworks.adapt import lora, peft, qlora
from modelworks.adapt.lora import LoraConfig
from modelworks.adapt.peft import WEIGHTS
from modelworks.core.errors import ConfigError, ModelFileError
from modelworks.core.log import console, warn_once
from modelworks.engine.adapters import UnknownAdapterError
from modelworks.engine.engine import Engine
from modelworks.engine.generate import complete
from modelworks.engine.grammar import Grammar
from modelworks.engine.handle import Handle
from modelworks.engine.runner import TorchRunner, open_model
from modelworks.engine.sample import Sampling
from modelworks.engine.speculate import prompt_lookup
from modelworks.models.base import LanguageModel

PROMPTS = ([7, 8, 9], [200, 3, 50, 50, 1], [104, 105], [7, 8, 9])
GREEDY = Sampling(max_tokens=12)
SEEDED = Sampling(max_tokens=12, temperature=1.2, top_p=0.9, seed=4)


@pytest.fixture(scope="module")
def adapters(
    model: LanguageModel, save_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    """Three adapters of unlike ranks and matrices, each of which changes answers."""
    root = tmp_path_factory.mktemp("adapters")
    return [
        save_adapter(root / "zero", model, rank=4),
        save_adapter(root / "one", model, seed=1, rank=9, targets=("q_proj", "v_proj", "down_proj")),
        save_adapter(root / "two", model, seed=2, rank=2, targets=("o_proj", "gate_proj", "up_proj")),
    ]


class Counted:
    """A runner, and which adapters it holds."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.held: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def add_adapter(self, matrices: Any) -> int:
        number = self.inner.add_adapter(matrices)
        self.held.add(number)
        return number

    def remove_adapter(self, number: int) -> None:
        self.inner.remove_adapter(number)
        self.held.remove(number)


@pytest.fixture(params=["torch", "native"])
def make(request: pytest.FixtureRequest, model: LanguageModel) -> Iterator[Callable[..., Engine]]:
    """Engines over the same model, computed by torch and by the native program."""
    if request.param == "native":
        request.getfixturevalue("native_kernels")
    made = []

    def engine(**settings: Any) -> Engine:
        _, runner = open_model(model, kv_bytes=1 << 20, weights="q8" if request.param == "native" else None)
        made.append(Engine(model, runner=Counted(runner), **settings))
        return made[-1]

    yield engine
    for each in made:
        each.close(drain=False)


def ids(handle: Handle) -> tuple[int, ...]:
    return tuple(index for piece in handle for index in piece.ids)


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.002)


def numbered(engine: Engine, paths: list[Path]) -> Engine:
    for at, path in enumerate(paths):
        engine.add_adapter(str(at), path)
    return engine


# --- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_a_mixed_batch_answers_as_each_alone(
    sampling: Sampling, make: Callable[..., Engine], adapters: list[Path]
) -> None:
    """Two adapters and none, prompts that begin alike, in one batch; each token is that of an engine of its own."""
    asked = [(prompt, name) for prompt in PROMPTS for name in ("0", "1", None)]
    alone = [ids(numbered(make(), adapters[:2]).submit(prompt, sampling, adapter=name)) for prompt, name in asked]
    engine = numbered(make(max_step_tokens=33), adapters[:2])
    handles = [engine.submit(prompt, sampling, adapter=name) for prompt, name in asked]
    assert [ids(handle) for handle in handles] == alone
    assert len(set(alone[:3])) == 3  # they differ, so the adapters matter


def test_torch_answers_as_generate_does(model: LanguageModel, adapters: list[Path]) -> None:
    with numbered(Engine(model, kv_bytes=1 << 20), adapters) as engine:
        for name, path in (("0", adapters[0]), ("2", adapters[2]), (None, None)):
            (expected,) = complete(model, PROMPTS[0], GREEDY, adapter=path)
            assert ids(engine.submit(PROMPTS[0], GREEDY, adapter=name)) == expected.ids
    # A batch of generate's, padded, is the same as each alone.
    together = complete(model, PROMPTS, GREEDY, adapter=adapters[0])
    assert [each.ids for each in together] == [
        complete(model, prompt, GREEDY, adapter=adapters[0])[0].ids for prompt in PROMPTS
    ]


def test_speculation_and_grammars_hold(make: Callable[..., Engine], adapters: list[Path]) -> None:
    prompt = [65, 66, 67, 65, 66, 67, 65, 66]
    number = Sampling(max_tokens=12, grammar=Grammar.regex("[0-9]{3}-[a-f]{4}"))
    plain = numbered(make(), adapters)
    expected = [[ids(plain.submit(prompt, each, adapter=name)) for each in (GREEDY, SEEDED, number)] for name in "01"]
    guessing = numbered(make(speculation=prompt_lookup(least=1, length=4)), adapters)
    handles = [[guessing.submit(prompt, each, adapter=name) for each in (GREEDY, SEEDED, number)] for name in "01"]
    assert [[ids(handle) for handle in row] for row in handles] == expected
    assert guessing.stats().counts.drafted_tokens > 0
    for row in expected:
        assert bytes(row[2][:8])[3:4] == b"-"
    assert expected[0][2] != expected[1][2]


def test_preempted_and_computed_again_it_is_the_same(model: LanguageModel, adapters: list[Path]) -> None:
    one = TorchRunner(model, kv_bytes=1 << 20, block_size=4)
    small = TorchRunner(model, kv_bytes=((1 << 20) // one.num_blocks) * 8, block_size=4)
    with numbered(Engine(model, runner=small, max_step_tokens=32), adapters) as engine:
        handles = [engine.submit(prompt, GREEDY, adapter=str(at % 3)) for at, prompt in enumerate(PROMPTS)]
        got = [ids(handle) for handle in handles]
        assert engine.stats().counts.preempted > 0
    assert got == [
        complete(model, prompt, GREEDY, adapter=adapters[at % 3])[0].ids for at, prompt in enumerate(PROMPTS)
    ]


# --- the prefix cache -------------------------------------------------------------------------------------------------


def test_the_prefix_cache_is_each_adapters_own(
    make: Callable[..., Engine],
    model: LanguageModel,
    adapters: list[Path],
    save_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:
    prompt = [index % 250 for index in range(3, 37)]  # one whole block of 32 and a little
    short = Sampling(max_tokens=3)
    fresh = {name: ids(numbered(make(), adapters).submit(prompt, short, adapter=name)) for name in ("0", "1", None)}
    engine = numbered(make(), adapters)

    def asked(name: str | None) -> tuple[tuple[int, ...], int]:
        handle = engine.submit(prompt, short, adapter=name)
        return ids(handle), handle.cached_tokens

    for cached in (0, 32):
        for name in ("0", None, "1"):
            assert asked(name) == (fresh[name], cached)
    # Another of the same name finds nothing of the old one; the old one, back again, finds its own.
    engine.remove_adapter("0")
    engine.add_adapter("0", save_adapter(tmp_path, model, seed=9))
    answer, cached = asked("0")
    assert cached == 0
    assert answer == ids(engine_with(make, tmp_path).submit(prompt, short, adapter="new"))
    engine.add_adapter("again", adapters[0])
    assert asked("again") == (fresh["0"], 32)


def engine_with(make: Callable[..., Engine], path: Path) -> Engine:
    engine = make()
    engine.add_adapter("new", path)
    return engine


# --- coming and going -------------------------------------------------------------------------------------------------


def held(engine: Engine) -> int:
    """How many adapters the runner holds."""
    return len(engine._scheduler._runner.held)  # type: ignore[attr-defined]


def test_names(make: Callable[..., Engine], adapters: list[Path]) -> None:
    engine = make()
    assert engine.adapters() == ()
    with pytest.raises(UnknownAdapterError, match="no adapter 'x'; there are: none"):
        engine.submit([1], GREEDY, adapter="x")
    numbered(engine, adapters[:2])
    assert engine.adapters() == ("0", "1")
    with pytest.raises(ConfigError, match="adapter '0' already"):
        engine.add_adapter("0", adapters[1])
    with pytest.raises(ConfigError, match="needs a name"):
        engine.add_adapter(" ", adapters[1])
    assert held(engine) == 2
    for refused in (lambda: engine.remove_adapter("x"), lambda: engine.submit([1], GREEDY, adapter="x")):
        with pytest.raises(UnknownAdapterError, match="no adapter 'x'; there are: '0', '1'"):
            refused()
    engine.remove_adapter("0")
    assert engine.adapters() == ("1",)
    wait_until(lambda: held(engine) == 1)  # though nothing runs


def test_two_threads_give_one_name(
    make: Callable[..., Engine], adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While an adapter is read, another takes its name: the later one is refused and leaves nothing behind."""
    import modelworks.engine.adapters as module

    engine, read = make(), module.read

    def slowly(path: Path, model: LanguageModel) -> Any:
        if path == adapters[1]:
            engine.add_adapter("it", adapters[0])
        return read(path, model)

    monkeypatch.setattr(module, "read", slowly)
    with pytest.raises(ConfigError, match="adapter 'it' already"):
        engine.add_adapter("it", adapters[1])
    assert engine.adapters() == ("it",)
    assert held(engine) == 1


def test_a_damaged_adapter_harms_no_other(
    make: Callable[..., Engine],
    model: LanguageModel,
    adapters: list[Path],
    save_adapter: Callable[..., Path],
    tmp_path: Path,
) -> None:
    engine = numbered(make(), adapters[:1])
    expected = ids(engine.submit(PROMPTS[0], GREEDY, adapter="0"))
    bad = save_adapter(tmp_path, model)
    (bad / WEIGHTS).write_bytes((bad / WEIGHTS).read_bytes()[:1000])
    running = engine.submit(PROMPTS[1], Sampling(max_tokens=40))
    with pytest.raises(ModelFileError, match=f"{bad / WEIGHTS}: damaged or cut short"):
        engine.add_adapter("bad", bad)
    assert engine.adapters() == ("0",)
    assert len(ids(running)) == 40
    assert ids(engine.submit(PROMPTS[0], GREEDY, adapter="0")) == expected


def test_removed_while_it_answers(make: Callable[..., Engine], adapters: list[Path]) -> None:
    """What was accepted finishes with it; another takes its name at once; then its memory goes."""
    long = Sampling(max_tokens=40)
    alone = {name: ids(numbered(make(), adapters).submit(PROMPTS[0], long, adapter=name)) for name in "01"}
    engine = make(max_running=2)
    engine.add_adapter("it", adapters[0])
    before = [engine.submit(PROMPTS[0], long, adapter="it") for _ in range(5)]  # some of them wait
    engine.remove_adapter("it")
    with pytest.raises(UnknownAdapterError):
        engine.submit(PROMPTS[0], long, adapter="it")
    engine.add_adapter("it", adapters[1])
    after = engine.submit(PROMPTS[0], long, adapter="it")
    assert [ids(handle) for handle in before] == [alone["0"]] * 5
    assert ids(after) == alone["1"]
    wait_until(lambda: held(engine) == 1)


def test_removed_while_a_prompt_is_read(
    make: Callable[..., Engine], adapters: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the name and the queue, nothing of it goes."""
    import modelworks.engine.engine as engines

    engine = numbered(make(), adapters[:1])
    expected = ids(engine.submit(PROMPTS[0], GREEDY, adapter="0"))
    ask = engines.ask

    def slowly(*arguments: Any, **more: Any) -> Any:
        engine.remove_adapter("0")
        with engine._wake:  # the worker's sweep would be now
            engine._adapters.sweep(())
        return ask(*arguments, **more)

    monkeypatch.setattr(engines, "ask", slowly)
    handle = engine.submit(PROMPTS[0], GREEDY, adapter="0")
    assert ids(handle) == expected
    wait_until(lambda: held(engine) == 0)


def test_swapping_under_load(make: Callable[..., Engine], adapters: list[Path]) -> None:
    """Threads ask while another swaps what a name means: each answer is wholly one adapter's, and none fails."""
    possible = {ids(numbered(make(), adapters).submit(PROMPTS[0], GREEDY, adapter=name)) for name in "012"}
    assert len(possible) == 3
    engine = make(max_running=4, max_step_tokens=16)
    engine.add_adapter("it", adapters[0])
    steady = ids(engine.submit(PROMPTS[1], GREEDY))
    found: set[tuple[int, ...]] = set()
    problems: list[Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                try:
                    found.add(ids(engine.submit(PROMPTS[0], GREEDY, adapter="it")))
                except UnknownAdapterError:  # between the removal and the next
                    continue
                assert ids(engine.submit(PROMPTS[1], GREEDY)) == steady
        except Exception as error:  # noqa: BLE001 - told by the test
            problems.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for at in range(1, 25):
        before = engine.stats().counts.finished
        wait_until(lambda before=before: engine.stats().counts.finished > before or bool(problems))
        engine.remove_adapter("it")
        engine.add_adapter("it", adapters[at % 3])
    done.set()
    for thread in threads:
        thread.join()
    assert not problems
    assert found <= possible
    assert len(found) == 3
    wait_until(lambda: held(engine) == 1)


def test_a_runner_without_adapters_in_a_step_is_asked_as_ever(model: LanguageModel) -> None:
    """A step of requests without adapters has no word of them."""
    seen = []

    class Watched(TorchRunner):
        def step(self, *batch: Any) -> Any:
            seen.append(len(batch))
            return super().step(*batch)

    with Engine(model, runner=Watched(model, kv_bytes=1 << 20)) as engine:
        ids(engine.submit([1, 2], GREEDY))
    assert set(seen) == {5}


@pytest.mark.parametrize("settings", [{}, {"rslora": True, "rank_pattern": {"q_proj": 3}}, {"init": "pissa"}])
def test_what_was_trained_here_is_served(model: LanguageModel, settings: dict[str, Any], tmp_path: Path) -> None:
    """The trained model itself, its adapter merged, and the engine with the adapter's folder say the same."""
    trained = copy.deepcopy(model)
    lora.apply(trained, LoraConfig(rank=4, **settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in lora.parts_of(trained).values():
            part.b_Rr.add_(torch.randn(part.b_Rr.shape, generator=generator))
    peft.save(trained, tmp_path / "adapter")
    expected = complete(trained, PROMPTS, GREEDY)
    lora.bake(trained)
    assert [each.ids for each in complete(trained, PROMPTS, GREEDY)] == [each.ids for each in expected]
    with Engine(model) as engine:
        engine.add_adapter("new", tmp_path / "adapter")
        for prompt, want in zip(PROMPTS, expected, strict=True):
            found = [index for piece in engine.submit(prompt, GREEDY, adapter="new") for index in piece.ids]
            assert found == list(want.ids)
            assert found != [index for piece in engine.submit(prompt, GREEDY) for index in piece.ids]


def test_a_dora_adapter_is_refused_with_advice(model: LanguageModel, tmp_path: Path) -> None:
    trained = copy.deepcopy(model)
    lora.apply(trained, LoraConfig(rank=4, dora=True))
    peft.save(trained, tmp_path / "adapter")
    with Engine(model) as engine, pytest.raises(ModelFileError, match=r"DoRA adapter .*`modelworks merge`"):
        engine.add_adapter("new", tmp_path / "adapter")


def test_an_adapter_of_rounded_weights_is_served_with_a_warning(model: LanguageModel, tmp_path: Path) -> None:
    trained = copy.deepcopy(model)
    qlora.quantize(trained)
    lora.apply(trained, LoraConfig(rank=4))
    peft.save(trained, tmp_path / "adapter")
    warn_once.cache_clear()
    with Engine(model) as engine, console().capture() as said:
        engine.add_adapter("new", tmp_path / "adapter")
    assert "trained on weights rounded to NF4" in " ".join(said.get().split())
