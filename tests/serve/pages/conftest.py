"""The web page in headless Chromium, against the real server over a model that says what it is told to."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from modelworks.data.document import Page
from modelworks.retrieval.answer import REFUSAL, Answer, Citation, Passage
from modelworks.retrieval.collection import Collection
from modelworks.retrieval.evidence import Calibration, Reading
from modelworks.retrieval.store import DocumentInfo, StoredDocument
from modelworks.serve.documents import Documents

WIDE = (1280, 800)


# --- a browser, and a page in it --------------------------------------------------------------------------------------


class Tab:
    """The page as a person has it before them."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url
        self.expected: tuple[str, ...] = ()
        """What the console may say: parts of messages about requests that a test makes fail."""

    def open(self, view: str = "", *, size: tuple[int, int] = WIDE, **features: str) -> Tab:
        """Load a view anew. `features`: media features, with underscores for hyphens."""
        self.resize(size)
        emulated = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": emulated})
        self.driver.get("about:blank")  # so that a change of the hash alone is a load as well
        self.driver.get(f"{self.url}/#/{view}")
        self.until(lambda: self.all(".view:not([hidden]), main > .notice, dialog[open]"))
        return self

    def resize(self, size: tuple[int, int]) -> None:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def until(self, holds: Callable[[], Any], seconds: float = 60) -> Any:
        end = time.monotonic() + seconds
        while not (found := holds()):
            assert time.monotonic() < end, f"waited in vain; the page says:\n{self.text('body')}\n{self.console()}"
            time.sleep(0.02)
        return found

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def one(self, selector: str) -> Any:
        return self.until(lambda: self.all(selector))[0]

    def text(self, selector: str) -> str:
        """What is there as text, seen or not."""
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def js(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def module(self, path: str, body: str, *arguments: Any) -> Any:
        """The result of JavaScript that has the module `m` and its `arguments` as `a`."""
        self.driver.set_script_timeout(60)
        found = self.driver.execute_async_script(
            f"const [path, a, done] = arguments; import(path).then(async (m) => {{ {body} }})"
            ".then((result) => done({ result }), (error) => done({ error: String(error) }))",
            f"/{path}",
            arguments,
        )
        assert "error" not in found, found
        return found.get("result")

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self, selector: str) -> bool:
        return self.js("return document.activeElement.matches(arguments[0])", selector)

    def submit(self, form: str, text: str) -> None:
        """Put a text where one is written, whatever keys it would take, and press Enter."""
        self.one(f"#{form}-input")
        self.js(
            "const a = document.getElementById(arguments[0]); a.value = arguments[1]; a.focus()", f"{form}-input", text
        )
        self.press("\n")

    def ask(self, question: str) -> None:
        """Ask, and wait for the end of the answer."""
        self.submit("ask", question)
        self.until(lambda: self.all(".exchange:last-child :is(.actions, .refusal, .notice)"))

    def chat(self, text: str) -> None:
        """Say something, and wait for the end of the answer."""
        self.submit("chat", text)
        self.until(lambda: self.all(".assistant:last-child:not(.writing)"))

    def overflow(self) -> int:
        """By how many pixels the page is wider than the screen, or anything in it is cut off at the right."""
        return self.js(
            """const width = innerWidth;
            const seen = [...document.querySelectorAll("body *")].filter((e) =>
              e.checkVisibility() && !e.closest("pre, .table-scroll, .unseen, .skip, svg, [inert]"));
            return Math.ceil(Math.max(document.documentElement.scrollWidth - width,
              ...seen.map((e) => e.getBoundingClientRect().right - width)));"""
        )

    def requests(self) -> list[str]:
        """The addresses that were asked for since this was called last."""
        log = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [each["params"]["request"]["url"] for each in log if each["method"] == "Network.requestWillBeSent"]

    def console(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def check(self) -> None:
        """Nothing ran that should not have, and the console holds no complaint."""
        seen = self.js("return window.seen")
        assert seen == {"attacks": [], "violations": []}
        assert [line for line in self.console() if not any(part in line for part in self.expected)] == []


@pytest.fixture
def tab(chromium: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Tab]]:
    """`tab(served)` is a page of a server; what it did is checked afterwards."""
    tabs: list[Tab] = []
    chromium.get_log("browser")

    def opened(served: Any) -> Tab:
        # What an `Echo` says is then no matter of chance; another model does not mind.
        monkeypatch.setattr(served.model, "likelihood", 100.0, raising=False)
        tabs.append(Tab(chromium, served.url))
        return tabs[-1]

    yield opened
    for each in tabs[-1:]:
        each.check()
    chromium.get("about:blank")


# --- documents --------------------------------------------------------------------------------------------------------


class Keywords:
    """A reader that holds a sentence for the answer where it has one of some phrases."""

    calibration = Calibration(1, 0, 0, 0, 0, 0.5)

    def __init__(self, *phrases: str) -> None:
        self.phrases = phrases

    def read(self, _: str, passages: Sequence[str], sentences: Any, headings: Sequence[str] = ()) -> Any:
        return [
            [self._best(passage, start, end) for start, end in spans] for passage, spans in zip(passages, sentences)
        ]

    def _best(self, passage: str, start: int, end: int) -> Reading:
        for phrase in self.phrases:
            if (at := passage.find(phrase, start, end)) >= 0:
                return Reading(at, at + len(phrase), 5.0)
        return Reading(start, end, -5.0)


@pytest.fixture
def modules(served: Any, tab: Callable[..., Tab]) -> Tab:
    """A page for tests of single modules, of a server without documents."""
    page = tab(served)
    page.expected = ("api/documents",)
    return page.open()


@pytest.fixture
def shelf(letters: Any, tmp_path: Path) -> Iterator[Callable[..., Documents]]:
    """Real documents: `shelf({"name.md": "text"}, "28 days")`, whose answers are the sentences with those phrases."""
    with ExitStack() as stack:

        def made(files: dict[str, str | bytes], *phrases: str) -> Documents:
            folder = tmp_path / "handbook"
            for name, content in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            collection = stack.enter_context(Collection(tmp_path / "store", letters))
            collection.sync(folder)
            return Documents(folder, collection, reader=Keywords(*phrases))  # type: ignore[arg-type]

        yield made


class Texts:
    """What `Documents` needs of a collection, over texts that no reader of files would give so soon."""

    def __init__(self, texts: dict[str, str], pages: dict[str, tuple[Page, ...]], media_type: str) -> None:
        self.texts, self.pages, self.media_type = texts, pages, media_type

    def documents(self) -> list[DocumentInfo]:
        return [
            DocumentInfo(
                name, "/", "ok", "", self.media_type, name, len(text), (name,), len(self.pages.get(name, "1")), 3, 3
            )
            for name, text in self.texts.items()
        ]

    def document(self, name: str) -> StoredDocument:
        return StoredDocument(name, name, self.media_type, self.texts[name], self.pages.get(name, ()))

    def coverage(self) -> float:
        return 1.0

    def close(self) -> None:
        pass


class Fabricated(Documents):
    """Documents of any size and name; the answer to every question is the span `cite`, or a refusal near it.

    The whole answer waits for `gate`, which is open at first.
    """

    def __init__(
        self,
        texts: dict[str, str],
        *,
        cite: tuple[str, int, int],
        refuse: bool = False,
        pages: dict[str, tuple[Page, ...]] | None = None,
        media_type: str = "text/plain",
    ) -> None:
        super().__init__(Path("fabricated"), Texts(texts, pages or {}, media_type))  # type: ignore[arg-type]
        self.gate = threading.Event()
        self.gate.set()
        name, start, end = cite
        quote = texts[name][start:end]
        page = next((page.number for page in (pages or {}).get(name, ()) if page.start <= start < page.end), 1)
        citation = Citation(1, name, page, start, end, quote, start, start + 1)
        passage = Passage(name, page, start, end, quote, 1.0, 0.1)
        said = REFUSAL if refuse else f"{quote} [1]"
        self.found = () if refuse else (citation,)
        self.answer = Answer("?", said, refuse, self.found, (passage,), {"total": 0.5})

    async def ask(self, question: str) -> AsyncIterator[Citation | Answer]:
        for each in self.found:
            yield each
        while not self.gate.is_set():
            await asyncio.sleep(0.01)
        yield self.answer


@pytest.fixture
def fabricated() -> type[Fabricated]:
    return Fabricated
