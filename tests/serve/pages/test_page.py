"""What the views share: the frame, the key, themes, keyboard, screen readers, narrow screens; and the small modules."""

from __future__ import annotations

import hashlib
import random
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

PAGES = Path(str(resources.files("modelworks.serve"))) / "pages"
PHONE = (360, 740)
TAB, ESCAPE, SHIFT = "\ue004", "\ue00c", "\ue008"
TEXT = "Words before. The answer is 42 days, as 😀 was said. Words after.\n" * 3
SPAN = (14, 49)


@pytest.fixture
def page(serving, fabricated, tab) -> Any:
    served = serving(
        documents=fabricated({"a long name of a document.txt": TEXT}, cite=("a long name of a document.txt", *SPAN))
    )
    opened = tab(served)
    opened.served = served
    return opened


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_others_wrote_is_what_they_published() -> None:
    rows = re.findall(
        r"^\| (\S+\.js) \| (\S+) \S+ .* ([0-9a-f]{64}) \|$", (PAGES / "vendor/README.md").read_text(), re.M
    )
    assert {name for name, _, _ in rows} == {path.name for path in (PAGES / "vendor").glob("*.js")}
    for name, _, digest in rows:
        assert hashlib.sha256((PAGES / "vendor" / name).read_bytes()).hexdigest() == digest
        assert (PAGES / "vendor" / name).with_suffix(".LICENSE").is_file()


def test_all_that_the_page_names_is_there_and_nothing_is_inline() -> None:
    html = (PAGES / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for name in re.findall(r'(?:src|href)="(?!#)([^"#]+)', html):
        assert (PAGES / name).is_file(), name
    symbols = set(re.findall(r'<symbol id="icon-(\w+)"', html))
    scripts = "".join(path.read_text() for path in (PAGES / "js").glob("*.js"))
    named = set(re.findall(r'href="#icon-(\w+)"', html)) | set(re.findall(r'icon\("(\w+)"\)', scripts))
    assert named <= symbols
    identifiers = re.findall(r'\sid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'byId\("([^"]+)"\)', scripts)) <= set(identifiers)
    assert set(re.findall(r'(?:for|aria-controls|aria-labelledby|aria-describedby)="([^"]+)"', html)) <= set(
        identifiers
    )


# --- the key ----------------------------------------------------------------------------------------------------------


def test_a_server_with_a_key_asks_for_it(serving, tab) -> None:
    page = tab(serving(api_keys=["open sesame"]))
    page.expected = ("401", "404")
    page.open()
    assert page.one("#key").is_displayed()
    assert not page.one("#key-wrong").is_displayed()
    page.one("#key-input").send_keys("wrong\n")
    page.until(lambda: page.one("#key-wrong").is_displayed())
    page.one("#key-input").send_keys("open sesame\n")
    page.until(lambda: page.all("#view-chat:not([hidden])"))
    page.chat("Hello.")
    assert page.text(".markdown") == "Hello."
    page.open()  # kept for the tab
    assert page.all("#view-chat:not([hidden])")


def test_without_the_key_there_is_a_way_back(serving, tab) -> None:
    page = tab(serving(api_keys=["open sesame"]))
    page.expected = ("401",)
    page.open()
    page.one("#key-cancel").click()
    assert "needs an API key" in page.one("main > .notice").text


# --- keyboard ---------------------------------------------------------------------------------------------------------


def test_a_question_and_its_source_by_keyboard_alone(page) -> None:
    page.open()
    assert page.focused("#ask-input")
    page.press("What is", SHIFT, "\n", SHIFT, "the answer?")
    assert page.js("return document.getElementById('ask-input').value") == "What is\nthe answer?"
    page.press("\n")
    page.until(lambda: page.all(".exchange .actions"))
    assert page.focused("#ask-input")
    page.js("document.getElementById('ask-scroll').focus()")
    page.press(TAB)
    assert page.focused(".answer .marker")
    assert page.js("return document.activeElement.getAttribute('aria-expanded')") == "false"
    page.press("\n")
    page.until(lambda: page.all("mark"))
    assert page.focused("#source-scroll")
    assert page.js("return document.querySelector('.answer .marker').getAttribute('aria-expanded')") == "true"
    page.press(ESCAPE)
    assert not page.one("#source").is_displayed()
    assert page.focused(".answer .marker")


def test_tab_goes_through_all_in_the_order_of_sight(page) -> None:
    page.open("chat")
    page.js("document.querySelector('.skip').focus()")
    passed = []
    while not passed or (passed[-1] != "send" and len(passed) < 20):
        passed.append(page.js("const e = document.activeElement; return e.id || e.dataset.view || e.className"))
        # A focus that cannot be seen is none.
        ring = "const e = document.activeElement; return getComputedStyle(e.closest('.field') ?? e).outlineStyle"
        assert page.js(ring) != "none", passed
        page.press(TAB)
    top = ["skip", "brand", "ask", "chat", "documents", "theme"]
    assert passed == [*top, "chat-model", "chat-settings", "chat-scroll", "chat-input", "send"]


def test_the_skip_link_leads_to_the_content(page) -> None:
    page.open("documents")
    page.js("document.querySelector('.skip').focus()")
    page.press("\n")
    assert page.focused("#main")
    assert page.js("return location.hash") == "#/documents"


def test_back_leads_to_the_view_before(page) -> None:
    page.open("ask")
    page.one("[data-view=chat]").click()
    page.until(lambda: page.focused("#chat-input"))
    page.driver.back()
    page.until(lambda: page.one("#view-ask").is_displayed())
    assert page.js("return document.title") == "Ask · modelworks"


# --- screen readers ---------------------------------------------------------------------------------------------------


def test_an_answer_is_spoken_by_sentences_not_by_tokens(page) -> None:
    page.open("chat")
    page.served.model.pause = 0.005
    page.js(
        """window.spoken = []; new MutationObserver((changes) => { for (const change of changes)
          for (const node of change.addedNodes) spoken.push(node.textContent); })
          .observe(document.getElementById("announcer"), { childList: true })"""
    )
    page.chat("The first sentence is here. A *second* one follows it! And a tail")
    assert page.js("return spoken") == ["The first sentence is here.", "A second one follows it!", "And a tail"]
    assert page.js("return document.getElementById('announcer').getAttribute('aria-live')") == "polite"
    assert page.js("return document.querySelector('#chat-thread').closest('[aria-live], [role=log]')") is None


def test_everything_to_operate_has_a_name_and_every_part_is_a_landmark(page) -> None:
    page.open("ask")
    page.ask("What?")
    page.one(".answer .marker").click()
    page.until(lambda: page.all("mark"))
    page.driver.execute_cdp_cmd("Accessibility.enable", {})
    nodes = page.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    seen = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")]
    assert {"banner", "navigation", "main", "complementary", "region"} <= {role for role, _ in seen}
    nameless = [
        role
        for role, name in seen
        if role in ("button", "link", "textbox", "combobox", "region", "complementary") and not name
    ]
    assert nameless == []
    assert ("button", "Source 1: a long name of a document.txt, page 1") in seen


# --- looks ------------------------------------------------------------------------------------------------------------

_CONTRAST = """
const parse = (color) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
};
const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color[3] > 0.99) return color;
  }
  return [255, 255, 255, 1];
};
const poor = [];
let seen = 0;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
  if (element.closest(".unseen, .skip, :disabled, option")) continue;
  seen++;
  const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(ground(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push(`${ratio.toFixed(2)} ${element.tagName}.${element.className}: ${walker.currentNode.data}`);
}
return { seen, poor };
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_that_of_wcag_aa(page, scheme: str) -> None:
    page.open("ask", prefers_color_scheme=scheme, prefers_reduced_motion="reduce")
    page.ask("What?")
    page.one(".answer .marker").click()
    page.until(lambda: page.all("mark"))
    for prepare in (
        lambda: None,
        lambda: page.one("[data-view=documents]").click(),
        lambda: (page.one("[data-view=chat]").click(), page.chat("`code` [a](https://x.test)\n\n> q\n\n|h|\n|-|\n|c|")),
        lambda: page.one("#chat-settings").click(),
    ):
        prepare()
        found = page.js(_CONTRAST)
        assert found["seen"] > 10
        assert found["poor"] == []


def test_the_theme_follows_the_system_until_one_is_chosen(page) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.open(prefers_color_scheme="light")
    light = page.js(ground)
    assert page.one("#theme").get_attribute("aria-label") == "Use the dark theme"
    page.one("#theme").click()
    dark = page.js(ground)
    assert dark != light
    page.open(prefers_color_scheme="light")
    assert page.js(ground) == dark
    page.one("#theme").click()
    assert page.js(ground) == light
    page.open(prefers_color_scheme="dark")
    assert page.js(ground) == dark


def test_nothing_moves_for_those_who_asked_for_that(page) -> None:
    for motion, moving in (("no-preference", True), ("reduce", False)):
        page.open("documents", prefers_reduced_motion=motion)
        page.js("document.getElementById('sync').classList.add('turning')")  # as while a sync runs
        assert bool(page.js("return document.getAnimations().length")) is moving


def test_a_phone_has_no_sideways_scrolling(page) -> None:
    page.open("ask", size=PHONE)
    page.ask("W" * 60 + " what is the answer?")
    assert page.overflow() <= 0
    page.one(".answer .marker").click()
    page.until(lambda: page.all("mark"))
    assert page.js("return document.getElementById('source').getBoundingClientRect().width") == PHONE[0]
    assert page.js("return document.getElementById('main').inert")
    assert page.overflow() <= 0
    page.press(ESCAPE)
    assert page.focused(".answer .marker")
    page.open("documents", size=PHONE)
    assert page.overflow() <= 0
    page.open("chat", size=PHONE)
    page.chat(
        f"{'long' * 15}\n\n```\n{'code ' * 12}\n```\n\n"
        f"|{'cell|' * 8}\n|{'-|' * 8}\n|{'value|' * 8}\n\nhttps://x.test/{'y' * 50}"
    )
    assert page.overflow() <= 0
    page.one("#chat-settings").click()
    assert page.overflow() <= 0


# --- small modules ----------------------------------------------------------------------------------------------------


def test_places_count_code_points(modules) -> None:
    rng = random.Random(4)
    cases = []
    for length in (0, 1, 5, 1023, 1024, 1025, 5000):
        for letters in ("ab", "a😀é\u200d\n", "😀"):
            text = "".join(rng.choices(letters, k=length))
            start, end = sorted(rng.randint(0, length) for _ in range(2))
            cases.append([text, start, end])
    found = modules.module("js/codepoints.js", "return a[0].map(([t, s, e]) => new m.CodePoints(t).slice(s, e))", cases)
    assert found == [text[start:end] for text, start, end in cases]


def test_pieces_hold_all_of_a_text_and_part_no_character(modules) -> None:
    texts = ["", "a" * 30_000, "😀" * 30_000, "word " * 9000, "line\n" * 9000, "x" * 12_001 + "\n" + "y" * 12_000]
    for text in texts:
        units = len(text.encode("utf-16-le")) // 2
        starts = [0, units // 2 // 2 * 2]
        pieces = modules.module("js/source.js", "return m.cutPieces(a[0], a[1])", text, starts)
        encoded = text.encode("utf-16-le")
        cut = [encoded[2 * each["from"] : 2 * each["to"]] for each in pieces]
        assert b"".join(cut) == encoded
        assert "".join(part.decode("utf-16-le") for part in cut) == text
        assert max(each["to"] - each["from"] for each in pieces) <= 12_000
        assert [each["page"] for each in pieces if each["first"]] == [0, 1]


SOFT = """\
# Title
A paragraph that
goes on.

- item that
  goes on
- next
1. one
   more
> quoted
> lines

| a |
| b |

```
code
stays
```
    indented
Ends here:
  hard  \nbreak
Heading
-------
text\
"""


def test_lines_are_joined_only_where_their_author_wrapped_them(modules) -> None:
    breaks = modules.module("js/reflow.js", "return m.softBreaks(a[0])", SOFT)
    joined, at = "", 0
    for start, end in breaks:
        joined += SOFT[at:start] + "~"
        at = end
    joined += SOFT[at:]
    assert [line for line in joined.split("\n") if "~" in line] == [
        "A paragraph that~goes on.",
        "- item that~goes on",
        "1. one~more",
        "Ends here:~hard  ",
        "break~Heading",
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_events_are_read_however_the_bytes_are_cut(modules, end: str) -> None:
    lines = [
        ": comment",
        "event: citation",
        'data: {"a":"😀"}',
        "",
        "data: one",
        "data:two",
        "",
        "id: 1",
        "",
        "data: cut",
    ]
    stream = end.join(lines).encode()
    body = """
      const start = (controller) => {
        for (const each of a[0]) controller.enqueue(new Uint8Array(each));
        controller.close();
      };
      const events = [];
      for await (const event of m.readEvents(new ReadableStream({ start }))) events.push(event);
      return events;"""
    for size in (1, 2, 7, len(stream)):
        chunks = [list(stream[at : at + size]) for at in range(0, len(stream), size)]
        found = modules.module("js/api.js", body, chunks)
        assert found == [{"name": "citation", "data": '{"a":"😀"}'}, {"name": "message", "data": "one\ntwo"}]
