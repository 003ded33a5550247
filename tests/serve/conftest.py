"""A server in a thread, over a model that says what it is told to."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tokenizers
import torch
import uvicorn
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

from modelworks.agents.journal import Journal
from modelworks.agents.loop import Agent
from modelworks.agents.model import Halted, Reply
from modelworks.agents.tool import Tool
from modelworks.engine.engine import Engine
from modelworks.feedback.store import Answer, Comparison, Store
from modelworks.models.base import LanguageModel
from modelworks.models.llama import Llama, LlamaConfig
from modelworks.serve import server
from modelworks.serve.agents import Agents, create_agents_app
from modelworks.serve.app import create_app
from modelworks.serve.compare import Comparing, create_compare_app
from modelworks.serve.service import Limits, Service
from modelworks.text.bytelevel import BYTE_TO_CHAR
from modelworks.text.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).parent))  # for `import bodies`

CONTEXT = 4096
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
END, START = 256, 257


def byte_tokenizer(template: str = CHATML) -> Tokenizer:
    """A token for each byte, and two control tokens."""
    backend = tokenizers.Tokenizer(models.BPE({char: byte for byte, char in BYTE_TO_CHAR.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|im_end|>", "<|im_start|>"])
    return Tokenizer(backend, eos_id=END, chat_template=template)


class Echo(LanguageModel):
    """Answers a user's last message with itself, byte for byte; says a text up to "|" again, else its end for ever.

    So a test chooses the answer. `likelihood` is the logit of the byte that comes next, before others at 0; `pause` the
    seconds that a step takes. It reads what was said back from its cache.
    """

    def __init__(self, template: str = CHATML) -> None:
        super().__init__()
        self.config = LlamaConfig.from_hf(
            {
                "model_type": "llama",
                "vocab_size": 258,
                "hidden_size": 2,
                "intermediate_size": 2,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": CONTEXT,
                "eos_token_id": END,
            }
        )
        self.anchor = torch.nn.Parameter(torch.zeros(1))
        self.tokenizer = byte_tokenizer(template)
        self.likelihood = 8.0
        self.pause = 0.0
        self.prompts: list[str] = []

    @property
    def context_length(self) -> int:
        return CONTEXT

    def forward(
        self, input_ids_BT: torch.Tensor, *, cache: Any = None, last_only: bool = False, **_: Any
    ) -> torch.Tensor:
        time.sleep(self.pause)
        T = input_ids_BT.shape[1]
        held = cache.update(0, *(input_ids_BT[:, None, :, None].float(),) * 2)[0]
        if last_only:
            T = 1
        logits_BTV = torch.zeros(len(held), T, 258)
        for b, ids in enumerate(held[:, 0, :, 0].long().tolist()):
            for t in range(T):
                logits_BTV[b, t, self._next(ids[: len(ids) - T + t + 1])] = self.likelihood
        return logits_BTV

    def _next(self, ids: list[int]) -> int:
        text = "".join({END: "<END>", START: "<START>"}.get(index, chr(index)) for index in ids)
        if text.endswith("assistant\n"):
            self.prompts.append(text.replace("<START>", "").replace("<END>", ""))
        before, turn, said = text.rpartition("<START>assistant\n")
        if turn:
            asked = before.rpartition("<START>user\n")[2].removesuffix("<END>\n")
        else:
            asked, bar, said = text.partition("|")
            if not bar:
                return ids[-1]
        return ord(asked[len(said)]) if len(said) < len(asked) else END


class Letters:
    """An embedder that counts letters; a token is a character."""

    id = "letters@1"
    dimension = 4
    max_tokens = 128

    def count_tokens(self, text: str) -> int:
        return len(text)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        counts_NC = np.array([[1 + text.count(letter) for letter in "aeio"] for text in texts], np.float32)
        return counts_NC / np.linalg.norm(counts_NC, axis=1, keepdims=True)


@dataclass
class Served:
    """A running server and ways to talk to it."""

    service: Service
    url: str
    model: LanguageModel
    openai: openai.OpenAI
    http: httpx.Client
    server: uvicorn.Server
    thread: threading.Thread

    def stop(self) -> None:
        """Ask for a graceful end."""
        self.server.should_exit = True

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def stats(self) -> Any:
        return self.service.engine.stats()

    def say(self, text: str, **more: Any) -> Any:
        """A chat request whose answer is `text`."""
        more = {"temperature": 0} | more
        return self.openai.chat.completions.create(model="echo", messages=[{"role": "user", "content": text}], **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.http.post(path, **({"json": body} if body is not None else {}), **more)

    def refused(self, path: str, body: Any, status: int = 400) -> dict[str, Any]:
        """The error of a request that must be refused, in OpenAI's shape."""
        response = self.post(path, body)
        assert response.status_code == status, response.text
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    def raw(self, body: bytes, *, headers: str = "", path: str = "/v1/chat/completions") -> socket.socket:
        """A connection on which a request was sent and nothing is read yet."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return sock

    def wait_until(self, holds: Callable[[Any], bool], seconds: float) -> None:
        """Until the engine's stats are as wanted; fails after `seconds`."""
        end = time.monotonic() + seconds
        while not holds(self.stats()):
            assert time.monotonic() < end, self.stats()
            time.sleep(0.01)


@contextmanager
def _running(
    model: LanguageModel | None = None, *, engine: dict[str, Any] | None = None, stop_seconds: int = 5, **more: Any
) -> Iterator[Served]:
    model = model or Echo()
    settings = {"kv_bytes": 32 * 8 * 1024} | (engine or {})
    service = Service(
        engine=Engine(model, **settings),
        **{"name": "echo", "embedder": Letters(), "embedder_name": "letters"} | more,
    )
    bound = server.bind("127.0.0.1", 0)
    up = threading.Event()
    running = server.make_server(create_app(service), shutdown_seconds=stop_seconds, on_start=up.set)
    thread = threading.Thread(target=running.run, args=([bound],))
    thread.start()
    assert up.wait(30)
    url = server.url(bound)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=(service.api_keys or ["none"])[0], max_retries=0)
    with client, httpx.Client(base_url=url, timeout=30) as http:
        served = Served(service, url, model, client, http, running, thread)
        yield served
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """One server for tests that leave it as it was."""
    with _running() as running:
        yield running


@pytest.fixture(scope="session")
def adapted(save_adapter: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a random model, "tiny", with the adapters "pirate" and "poet"; `say` is none of its ways."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 258, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = {"model_type": "llama", "eos_token_id": None, "initializer_range": 0.4}
    model = Llama(LlamaConfig.from_hf(config | sizes | heads)).eval()
    model.tokenizer = byte_tokenizer()
    with _running(model, name="tiny", engine={"kv_bytes": 1 << 20}) as running:
        for seed, name in enumerate(("pirate", "poet")):
            folder = save_adapter(tmp_path_factory.mktemp(name), model, seed=seed)
            running.service.engine.add_adapter(name, folder)
        yield running


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    """A server of one's own: `serving(limits=..., engine={...})`."""
    with ExitStack() as stack:
        yield lambda *model, **settings: stack.enter_context(_running(*model, **settings))


@pytest.fixture
def echo() -> Callable[..., Echo]:
    return Echo


@pytest.fixture
def limits() -> Callable[..., Limits]:
    return Limits


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def bytewise() -> Tokenizer:
    return byte_tokenizer()


@dataclass
class Compared:
    """A running page of comparisons; `tab(compared)` opens it."""

    store: Store
    url: str
    http: httpx.Client
    model: Any = field(default_factory=SimpleNamespace)


@pytest.fixture
def comparing(tmp_path: Path) -> Iterator[Callable[..., Compared]]:
    """A store of `count` comparisons, served: `comparing(count=3, wanted=2)`. The answers say which is the first."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(_compared(tmp_path / "feedback.db", **settings))


@contextmanager
def _compared(path: Path, *, count: int = 3, wanted: int = 1, **settings: Any) -> Iterator[Compared]:
    store = Store(path, create=True)
    store.add(
        Comparison(
            prompt=({"role": "user", "content": f"Question {at}?"},),
            first=Answer(turns=({"role": "assistant", "content": f"Good answer {at}."},), model="secret-a"),
            second=Answer(turns=({"role": "assistant", "content": f"Bad answer {at}."},), model="secret-b"),
            wanted=wanted,
        )
        for at in range(1, count + 1)
    )
    bound = server.bind("127.0.0.1", 0)
    up = threading.Event()
    running = server.make_server(create_compare_app(Comparing(store, **settings)), on_start=up.set)
    thread = threading.Thread(target=running.run, args=([bound],))
    thread.start()
    assert up.wait(30)
    with httpx.Client(base_url=server.url(bound), timeout=30) as http:
        yield Compared(store, f"{server.url(bound)}/compare", http)
    running.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


# --- agents -----------------------------------------------------------------------------------------------------------


UNTIL_HALTED = "until halted"


class Saying:
    """A chat model that says its replies in turn: a callable is called with the messages, `UNTIL_HALTED` waits."""

    name, context_length = "scripted", 100_000

    def __init__(self, *replies: Any) -> None:
        self.replies = list(replies)

    def count(self, messages: Any, tools: Any = ()) -> int:
        return sum(len(str(message)) for message in messages) // 4

    def reply(self, messages: Any, tools: Any = (), *, halt: Any = None, **_: Any) -> Reply:
        reply = self.replies.pop(0)
        if reply == UNTIL_HALTED:
            assert halt.wait(30)
            raise Halted("halted")
        return reply(messages) if callable(reply) else reply


@dataclass
class Watched:
    """A running page of agents; `tab(watched)` opens it."""

    agents: Agents
    url: str
    http: httpx.Client
    model: Any

    @property
    def journal(self) -> Journal:
        return self.agents.agent.journal

    def start(self, task: str = "Do it", **more: Any) -> str:
        response = self.http.post("/api/runs", json={"task": task} | more)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def wait(self, run: str, *states: str) -> None:
        """Until a run stands as wanted, and nothing works on it any more where it has ended."""
        end = time.monotonic() + 30
        while not (found := [each for each in self.journal.runs() if each.id == run and each.state in states]):
            assert time.monotonic() < end, [(each.id, each.state) for each in self.journal.runs()]
            time.sleep(0.01)
        assert found

    def waiting(self, run: str) -> dict[str, Any]:
        """What a run waits for, as a page is told of it."""
        for name, data in self.events(run):
            if name == "asked" and data:
                return dict(data[0])
        raise AssertionError("nothing waits")

    def events(self, run: str, after: int = 0) -> Iterator[tuple[str, Any]]:
        """The events of a run until its end."""
        with self.http.stream("GET", f"/api/runs/{run}/events?after={after}") as response:
            assert response.status_code == 200
            name = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: ") and line != "data: [DONE]":
                    yield name, json.loads(line.removeprefix("data: "))

    def decide(self, asked: dict[str, Any], status: int = 200, **said: Any) -> dict[str, Any]:
        body = {key: asked[key] for key in ("run", "call", "digest")} | {"allow": True} | said
        response = self.http.post("/api/decisions", json=body)
        assert response.status_code == status, response.text
        return dict(response.json())


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    """An agent over scripted replies, served: `watching(tools, reply, reply, most=2)`."""
    with ExitStack() as stack:
        yield lambda tools, *replies, **settings: stack.enter_context(
            _watched(tmp_path / "journal.db", tools, replies, **settings)
        )


@contextmanager
def _watched(
    path: Path, tools: Sequence[Tool], replies: Sequence[Any], *, agent: dict[str, Any] | None = None, **settings: Any
) -> Iterator[Watched]:
    model = Saying(*replies)
    with Journal(path) as journal:
        served = Agents(Agent(model, tools, journal=journal, can_ask=True, **agent or {}), **settings)
        bound = server.bind("127.0.0.1", 0)
        up = threading.Event()
        running = server.make_server(create_agents_app(served), shutdown_seconds=1, on_start=up.set)
        thread = threading.Thread(target=running.run, args=([bound],))
        thread.start()
        assert up.wait(30)
        with httpx.Client(base_url=server.url(bound), timeout=30) as http:
            yield Watched(served, f"{server.url(bound)}/agents", http, model)
        running.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
