"""The endpoint against modelworks' own server, and against one of the test's that misbehaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.endpoint import EndpointModel
from modelworks.agents.halt import Halt
from modelworks.agents.model import Halted, ModelError
from modelworks.agents.tool import tool
from modelworks.core.errors import ConfigError
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tool_calls import ToolCall

ASKED = [{"role": "user", "content": "Time?"}]


@tool(effects=[])
def clock(utc: bool) -> str:
    """The time."""
    return ""


def completion(content: Any = None, calls: Any = None, reason: str = "stop", **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content} | ({"tool_calls": calls} if calls else {})
    return {"choices": [{"message": message, "finish_reason": reason}], **more}


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[Any], Any]], Any]]:
    """Makes a server of `answer(body)`, which gives a status and JSON; `.seen` are the bodies and keys."""
    running: list[Any] = []

    def make(answer: Callable[[Any], tuple[int, Any]]) -> Any:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                made.seen.append((self.path, body, self.headers.get("Authorization")))
                status, value = answer(body)
                data = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        made: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        made.seen = []
        made.url = f"http://127.0.0.1:{made.server_port}/v1"
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return made

    yield make
    for one in running:
        one.shutdown()
        one.server_close()


def test_what_is_sent_and_what_is_read(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    usage = {"prompt_tokens": 11, "completion_tokens": 7}
    made = server(lambda body: (200, completion(" Noon. ", usage=usage, reason="length")))
    model = EndpointModel(made.url, "large", "SOME_KEY")
    reply = model.reply(ASKED, [clock], choice="required", max_tokens=9)
    assert (reply.text, reply.calls, reply.cut) == ("Noon.", (), True)
    assert (reply.prompt_tokens, reply.completion_tokens) == (11, 7)
    path, body, key = made.seen[0]
    assert (path, key) == ("/v1/chat/completions", "Bearer secret")
    assert (body["model"], body["max_tokens"], body["tool_choice"], body["messages"]) == ("large", 9, "required", ASKED)
    assert body["tools"] == [{"type": "function", "function": clock.described()}]
    assert model.count(ASKED, [clock]) > len(json.dumps(ASKED)) // 4


def test_parallel_calls_that_share_an_index_stay_two(server: Any) -> None:
    """smolagents PR 1958: two ids at index 0 are two calls."""
    calls = [
        {"index": 0, "id": name, "type": "function", "function": {"name": "clock", "arguments": arguments}}
        for name, arguments in (("a", '{"utc": true}'), ("b", {"utc": False}))
    ]
    made = server(lambda body: (200, completion(calls=calls)))
    reply = EndpointModel(made.url, "m").reply(ASKED, [clock])
    assert reply.calls == (ToolCall("clock", '{"utc": true}'), ToolCall("clock", '{"utc": false}'))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((401, {"error": {"message": "bad\nkey"}}), "no answer: 401 bad key"),
        ((503, b"busy"), "no answer after 2 tries: 503"),
        ((200, b"<html>"), "its answer is not JSON"),
        ((200, {"choices": []}), "no chat completion"),
        ((200, {"choices": [{"message": {"tool_calls": [{"id": "1"}]}}]}), "no chat completion"),
        ((200, [1]), "no chat completion"),
    ],
)
def test_what_is_no_answer_is_one_line(server: Any, answer: tuple[int, Any], said: str) -> None:
    model = EndpointModel(server(lambda body: answer).url, "m", tries=2, wait=0.01)
    with pytest.raises(ModelError, match=said) as caught:
        model.reply(ASKED)
    assert "\n" not in str(caught.value)


def test_a_halt_does_not_wait_for_the_answer(server: Any) -> None:
    made = server(lambda body: (time.sleep(20), (200, completion("late")))[1])
    halt = Halt()
    threading.Timer(0.2, halt.set).start()
    began = time.monotonic()
    with pytest.raises(Halted):
        EndpointModel(made.url, "m").reply(ASKED, halt=halt)
    assert time.monotonic() - began < 1.2


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="no URL of a model"):
        EndpointModel("localhost", "m")


def test_our_own_server() -> None:
    """A random model behind it, whose calls the server's grammar holds; usage is what the tokenizer counts."""
    pytest.importorskip("starlette")
    from modelworks.engine.engine import Engine
    from modelworks.models.llama import Llama, LlamaConfig
    from modelworks.retrieval.embed import EncoderEmbedder
    from modelworks.serve import server as serving
    from modelworks.serve.app import create_app
    from modelworks.serve.service import Service
    from modelworks.text.tokenizer import Tokenizer

    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>"])
    sizes = {"vocab_size": 257, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 4096, "eos_token_id": 256}
    torch.manual_seed(0)
    model = Llama(LlamaConfig.from_hf({"model_type": "llama", "initializer_range": 0.4} | sizes)).eval()
    template = "{% for m in messages %}{{ m.role + m.content }}{% endfor %}"
    model.tokenizer = Tokenizer(backend, eos_id=256, chat_template=template)
    service = Service(engine=Engine(model), name="tiny", embedder=EncoderEmbedder())
    bound = serving.bind("127.0.0.1", 0)
    up = threading.Event()
    running = serving.make_server(create_app(service), on_start=up.set)
    thread = threading.Thread(target=running.run, args=([bound],))
    thread.start()
    try:
        assert up.wait(30)
        asked = EndpointModel(f"{serving.url(bound)}/v1", "tiny")
        reply = asked.reply(ASKED, [clock], choice="required", max_tokens=500)
        assert reply.calls
        assert all(set(json.loads(call.arguments)) == {"utc"} for call in reply.calls)
        plain = asked.reply(ASKED, max_tokens=4)
        assert (plain.prompt_tokens, plain.completion_tokens) == (len("userTime?"), 4)
        assert asked.count(ASKED) > 9
    finally:
        running.should_exit = True
        thread.join(30)
