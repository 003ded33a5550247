"""`generate` and `chat`: output, standard input, and models that cannot be used."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pytest

from modelworks.cli.generate import ChatOptions
from modelworks.models.fetch import pull

FRANCE = ("The capital of France is", "--max-tokens", "4")


def test_generate_prints_the_continuation(run, starters: None) -> None:
    result = run("generate", *FRANCE)
    assert result.status == 0
    assert "Paris" in result.out
    assert result.out.endswith("\n")
    assert result.err == ""


def test_generate_json_is_one_object(run, starters: None) -> None:
    found = json.loads(run("generate", *FRANCE, "--json").out)
    assert set(found) == {"text", "finish_reason", "tokens", "logprobs"}
    assert found["finish_reason"] == "length"
    assert len(found["tokens"]) == len(found["logprobs"]) == 4
    assert all(logprob <= 0 for logprob in found["logprobs"])
    assert found["text"] == run("generate", *FRANCE).out.removesuffix("\n")


def test_a_seed_makes_sampling_repeatable(run, starters: None) -> None:
    wild = ("generate", "Once", "--max-tokens", "6", "--temperature", "1.5")
    assert run(*wild, "--seed", "1").out == run(*wild, "--seed", "1").out != run(*wild, "--seed", "2").out


def test_a_temperature_near_zero_is_greedy(run, starters: None) -> None:
    assert run("generate", *FRANCE, "--temperature", "1e-320").out == run("generate", *FRANCE).out


def test_a_stop_text_ends_the_answer(run, starters: None) -> None:
    assert "Paris" not in run("generate", *FRANCE, "--stop", "Paris").out


def test_the_prompt_may_come_from_standard_input(run, spawn, starters: None) -> None:
    result = spawn("generate", "-", *FRANCE[1:], stdin=f"{FRANCE[0]}\r\n".encode())
    assert (result.status, result.err) == (0, "")
    assert result.out == run("generate", *FRANCE).out


@pytest.mark.parametrize("stdin", [b"", b"  \n", b"caf\xe9"])
def test_standard_input_that_is_no_prompt(stdin: bytes, run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
    run("generate", "-").assert_one_line_error("empty" if not stdin.strip() else "not UTF-8 at byte 3")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", "-1"),
        ("temperature", "nan"),
        ("top-k", "-3"),
        ("top-p", "-0.1"),
        ("top-p", "1.5"),
        ("min-p", "2"),
        ("repetition-penalty", "0"),
        ("frequency-penalty", "inf"),
        ("max-tokens", "0"),
        ("stop", ""),
    ],
)
def test_a_sampling_value_out_of_range_is_one_line(run, option: str, value: str) -> None:
    run("generate", "x", f"--{option}={value}").assert_one_line_error(option.replace("-", "_"))


def test_a_prompt_too_long_names_the_numbers(run, starters: None) -> None:
    run("generate", "word " * 9000).assert_one_line_error("context", "tokens")


def test_no_such_model(run, tmp_path: Path) -> None:
    run("generate", "x", "--model", tmp_path / "none.gguf").assert_one_line_error("none.gguf")
    run("generate", "x", "--model", tmp_path).assert_one_line_error(str(tmp_path))


@pytest.mark.parametrize("kept", [0, 3, 20, 4096, 1 << 20])
def test_a_gguf_cut_short(kept: int, run, starters: None, tmp_path: Path) -> None:
    with pull("starter").open("rb") as whole:
        (tmp_path / "cut.gguf").write_bytes(whole.read(kept))
    run("generate", "x", "--model", tmp_path / "cut.gguf").assert_one_line_error("cut.gguf")


@pytest.mark.parametrize("counts", [(2**63, 1), (1, 2**63), (0, 2**40), (2**64 - 1, 2**64 - 1)])
def test_a_gguf_with_absurd_counts(counts: tuple[int, int], run, tmp_path: Path) -> None:
    (tmp_path / "absurd.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + bytes(64))
    run("generate", "x", "--model", tmp_path / "absurd.gguf").assert_one_line_error("absurd.gguf")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"model_type": "hyena", "architectures": ["HyenaForCausalLM"]}', "HyenaForCausalLM"),
        ('{"model_type": "llama"}', "config"),
        ('{"model_type": ', "config.json"),
        ("[]", "config.json"),
        ("\x00\x01", "config.json"),
    ],
)
def test_a_config_that_cannot_be_used(config: str, said: str, run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(bytes(64))
    run("generate", "x", "--model", tmp_path).assert_one_line_error(said)


def test_chat_remembers_resets_and_saves(run, starters: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = tmp_path / "talk.json"
    lines = ["/help", "hi", "", f"/save {saved}", "/reset", "hello", f"/save {tmp_path}", "/exit", "never read"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()), encoding="utf-8"))
    result = run("chat", "--max-tokens", "3", "--system", "Be brief.")
    assert result.status == 0
    messages = json.loads(saved.read_text(encoding="utf-8"))
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[0]["content"] == "Be brief."
    assert messages[2]["content"] in result.out
    assert "not saved" in result.err
    assert "/reset" in result.out  # what an unknown slash command prints
    assert result.out.count("\n") == 4


def test_chat_goes_on_after_what_is_no_question(run, starters: None, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ("word " * 9000 + "\nhi\n").encode() + b"caf\xe9\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding="utf-8"))
    result = run("chat", "--max-tokens", "2")
    assert result.status == 0
    assert "context" in result.err
    assert result.out.strip()


def test_chat_keeps_its_length_whatever_else_is_given(run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(ChatOptions, "sampling", lambda options: asked.append(options) or sys.exit(3))
    run("chat", "--temperature", "1")
    assert [(options.max_tokens, options.temperature) for options in asked] == [(512, 1.0)]


def test_chat_needs_a_chat_model(run, starters: None) -> None:
    run("chat", "starter-embedder").assert_one_line_error("BertEncoder")
    run("generate", "x", "--model", "starter-embedder").assert_one_line_error("BertEncoder")


def test_an_adapter_changes_the_answer(run, spawn, starter_adapter: Path, tmp_path: Path) -> None:
    plain = run("generate", *FRANCE).out
    adapted = run("generate", *FRANCE, "--adapter", starter_adapter)
    assert (adapted.status, adapted.err) == (0, "")
    assert adapted.out != plain
    talk = spawn("chat", "--adapter", starter_adapter, "--max-tokens", "4", stdin=b"Hello\n")
    assert (talk.status, talk.err) == (0, "")
    assert talk.out != spawn("chat", "--max-tokens", "4", stdin=b"Hello\n").out
    run("generate", "x", "--adapter", tmp_path / "none").assert_one_line_error("none", "no such file or folder")
