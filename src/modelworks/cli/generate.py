"""`modelworks generate` and `modelworks chat`."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from modelworks.cli.terminal import Flag, Json, check_text, print_json
from modelworks.core.errors import ConfigError, ContextLengthError, ModelworksError

if TYPE_CHECKING:
    from modelworks.engine.engine import Engine
    from modelworks.engine.row import Piece
    from modelworks.engine.sample import Sampling

_DEFAULT_SYSTEM = "You are a helpful AI assistant."
_HELP = "/reset: start over   /save FILE: keep the talk as JSON   /exit   Ctrl-C: stop"


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen."""

    temperature: float = 0.0
    "0 takes the likeliest token each time."
    top_k: int = 0
    "Keep the k likeliest tokens; 0 keeps all."
    top_p: float = 1.0
    "Keep the likeliest tokens that reach this probability together."
    min_p: float = 0.0
    "Keep tokens at least this fraction as likely as the likeliest."
    repetition_penalty: float = 1.0
    "Above 1 makes tokens that were there before less likely."
    frequency_penalty: float = 0.0
    "Taken off a token's score for every time that the answer has it."
    presence_penalty: float = 0.0
    "Taken off a token's score once the answer has it."
    seed: int | None = None
    "Makes sampling repeatable."
    max_tokens: int = 256
    "The longest answer, in tokens."
    stop: Annotated[tuple[str, ...], Parameter(show_default=False)] = ()
    "A text that ends the answer and is not printed; give it several times."

    def sampling(self) -> Sampling:
        """Raise ConfigError for a value out of range."""
        from modelworks.engine.sample import Sampling

        return Sampling(**asdict(self))


@Parameter(name="*")
@dataclass(frozen=True)
class ChatOptions(SamplingOptions):
    """Answers of a talk are longer. It is a class, since a default instance is lost once one of its fields is given."""

    max_tokens: int = 512
    "The longest answer, in tokens."


def generate(
    prompt: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    model: str = "starter",
    chat: Flag = False,
    adapter: Path | None = None,
    options: SamplingOptions = SamplingOptions(),
    as_json: Json = False,
) -> None:
    """Continue a prompt.

    Parameters
    ----------
    prompt
        The text to continue; - reads it from standard input, without the line end that closes it.
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    chat
        Put the prompt as a user's message through the model's chat template.
    adapter
        A LoRA adapter of the model, a PEFT folder or a GGUF file.
    as_json
        Print one JSON object when done: text, finish_reason, tokens, logprobs.
    """
    sampling = options.sampling()
    text = _read_input() if prompt == "-" else prompt
    check_text("prompt", text)
    from modelworks.engine.engine import Engine

    with Engine(model, max_running=1) as engine:
        prompt_ = [{"role": "user", "content": text}] if chat else text
        pieces = engine.submit(prompt_, sampling, adapter=_added(engine, adapter))
        if as_json:
            whole = list(pieces)
            print_json(
                {
                    "text": "".join(piece.text for piece in whole),
                    "finish_reason": whole[-1].finish_reason,
                    "tokens": [index for piece in whole for index in piece.ids],
                    "logprobs": [value for piece in whole for value in piece.logprobs],
                }
            )
            return
        for _ in _printed(pieces):
            pass
    print()


def chat(
    model: str = "starter",
    /,
    *,
    system: str = _DEFAULT_SYSTEM,
    adapter: Path | None = None,
    options: ChatOptions = ChatOptions(),
) -> None:
    """Talk to a model; the conversation goes on until /exit or the end of input.

    Parameters
    ----------
    model
        A folder, a .gguf file, hf:org/name, pypi:package or starter.
    system
        What the model is told about itself first.
    adapter
        A LoRA adapter of the model, a PEFT folder or a GGUF file.
    """
    sampling = options.sampling()
    from modelworks.engine.engine import Engine

    with Engine(model, max_running=1) as engine:
        tokenizer = engine.model.tokenizer
        if tokenizer is None or tokenizer.chat_template is None:
            raise ConfigError(
                f"{model} has no chat template, so it cannot chat; `modelworks generate` continues a text"
            )
        _talk(engine, system, sampling, _added(engine, adapter))


def _added(engine: Engine, path: Path | None) -> str | None:
    """The name under which an adapter was added; None where there is none."""
    if path is None:
        return None
    engine.add_adapter(str(path), path)
    return str(path)


def _talk(engine: Engine, system: str, sampling: Sampling, adapter: str | None) -> None:
    """Read lines and answer them until /exit or the end of input."""
    start: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        with contextlib.suppress(ImportError):  # Windows has none
            import readline  # noqa: F401  (imported, it gives `input` line editing and a history)
        print(_HELP)
    sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a byte that is no text ends no conversation
    while (line := _read_line(at_terminal)) is not None:
        if not line.strip():
            continue
        if line.startswith("/"):
            if line.strip() == "/exit":
                return
            messages = _command(line.strip(), messages, start)
            continue
        messages.append({"role": "user", "content": line})
        answer: list[str] = []
        try:
            for piece in _printed(engine.submit(messages, sampling, adapter=adapter)):
                answer.append(piece)  # as it comes: an answer that is stopped half-way stays in the conversation
        except KeyboardInterrupt:
            print(" [stopped]", end="")
        except ContextLengthError as error:
            messages.pop()
            print(f"modelworks: {error}\n/reset begins a new conversation.", file=sys.stderr)
            continue
        print()
        messages.append({"role": "assistant", "content": "".join(answer)})


def _printed(pieces: Iterable[Piece]) -> Iterator[str]:
    for piece in pieces:
        print(piece.text, end="", flush=True)
        yield piece.text


def _read_input() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ModelworksError(f"standard input is not UTF-8 at byte {error.start}") from None


def _read_line(at_terminal: bool) -> str | None:
    try:
        return input("> " if at_terminal else "")
    except (EOFError, KeyboardInterrupt):
        if at_terminal:
            print()
        return None


def _command(line: str, messages: list[dict[str, Any]], start: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation after a slash command."""
    verb, _, rest = line.partition(" ")
    if verb == "/reset":
        return list(start)
    if verb == "/save" and rest:
        try:
            Path(rest).expanduser().write_text(json.dumps(messages, ensure_ascii=False, indent=1), encoding="utf-8")
            print(f"saved in {rest}")
        except OSError as error:
            print(f"modelworks: {rest}: {error.strerror}; the conversation is not saved", file=sys.stderr)
    else:
        print(_HELP)
    return messages
