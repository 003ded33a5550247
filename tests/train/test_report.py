"""The report of a run: its numbers, what the page says, and that nothing from a run acts in it."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest

from modelworks.core.errors import ConfigError, DataError
from modelworks.train.record import METRICS
from modelworks.train.report import WATTS, page, read_run, summarise
from modelworks.train.run import read_recipe, run

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u2028\ud800"


@pytest.fixture(scope="module")
def folder(overrides, tmp_path_factory, request):
    """A run that has ended, with two evaluations."""
    home = tmp_path_factory.mktemp("runs") / "tiny"
    run(read_recipe(request.config.rootpath / "recipes" / "pretrain.toml", overrides()), home)
    return home


@pytest.fixture
def unfinished(folder, tmp_path):
    """Makes a folder of that run as it was before its end, its lines changed by a function."""

    def make(change=lambda lines: lines, *, name="half", tail=""):
        home = tmp_path / name
        home.mkdir()
        (home / "recipe.toml").write_bytes((folder / "recipe.toml").read_bytes())
        lines = [json.loads(line) for line in (folder / METRICS).read_text().rstrip("\n").split("\n")]
        text = "".join(json.dumps(line) + "\n" for line in change(lines))
        (home / METRICS).write_text(text + tail)
        return home

    return make


class Tags(HTMLParser):
    """The elements of a page, and the words in it outside scripts and styles."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        if self.tags and self.tags[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


def test_the_numbers_of_a_run_are_those_of_its_metrics(folder):
    about, *lines = map(json.loads, (folder / METRICS).read_text().rstrip("\n").split("\n"))
    told = summarise(read_run(folder), watts=100)
    last = lines[-1]
    assert (told.kind, told.model, told.finished, told.steps_done, told.steps) == ("pretrain", "Llama", True, 4, 4)
    assert told.tokens == last["total_tokens"] == sum(line["tokens"] for line in lines)
    assert told.flops == about["run"]["flops_per_token"] * told.tokens
    assert told.seconds == pytest.approx(sum(line["seconds"] for line in lines))
    assert told.watt_hours == pytest.approx(100 * told.seconds / 3600)
    assert told.mfu == pytest.approx(told.flops / told.seconds / about["run"]["peak_flops"])
    assert told.held_out_loss == last["evaluation"]["loss"]
    assert told.clipped == sum(line["grad_norm"] > 1 for line in lines)
    assert summarise(read_run(folder)).watts == WATTS["cpu"]


def test_the_page_has_all_of_it_and_loads_nothing(folder):
    html = page([read_run(folder)])
    seen = Tags(html)
    for words in ("Curves", "Samples", "Once upon a time", "Evaluations", "Recipe", "Lineage", "Cost", "65 W", "torch"):
        assert words in seen.text
    assert json.loads(re.search(r'type="application/json">(.*?)</script>', html)[1])["runs"][0]["name"] == "tiny"
    assert not [one for one in seen.attributes if one[1] in ("src", "href", "srcset", "data", "action")]
    assert "url(" not in html
    assert seen.tags.count("svg") == 3 * html.count('data-axis="step"')


def test_what_differs_from_the_defaults_is_marked(folder):
    html = page([read_run(folder)])
    changed = re.findall(r'<tr class="changed"><th>([^<]*)<td>([^<]*)<td>(?:<[^>]*>)?([^<]*)', html)
    found = {key: (value, default) for key, value, default in changed}
    assert found["optim.lr"] == ("0.003", "0.0003")
    assert found["model.config.hidden_size"] == ("16", "—")
    assert "clip" not in found
    assert "<tr><th>clip<td>1.0" in html


def test_a_run_that_goes_on_is_reported_so_far(unfinished):
    home = unfinished(lambda lines: lines[:3], tail='{"step": 3, "lo')
    told = summarise(read_run(home))
    assert (told.finished, told.steps_done, told.steps) == (False, 2, 4)
    text = Tags(page([read_run(home)])).text
    assert "not finished" in text
    assert "2 steps, about" in text
    begun = unfinished(lambda lines: lines[:1], name="begun")
    assert summarise(read_run(begun)).loss is None
    assert "No step is written yet" in Tags(page([read_run(begun)])).text


def test_a_run_that_left_an_adapter_is_finished(folder, unfinished):
    home = unfinished()
    assert not summarise(read_run(home)).finished
    shutil.copytree(folder / "model", home / "adapter")  # of which the record alone is read
    assert summarise(read_run(home)).finished


def test_damage_is_told_with_its_line(unfinished, tmp_path):
    home = unfinished(lambda lines: [*lines[:2], "no record", *lines[3:]])
    with pytest.raises(DataError, match=rf"{METRICS}: line 3 is damaged"):
        read_run(home)
    with pytest.raises(ConfigError, match="there is no run"):
        read_run(tmp_path)


def test_skipped_steps_and_returns_are_told(unfinished):
    def change(lines):
        lines[2] |= {"skipped": "loss is nan", "loss": "nan", "grad_norm": "nan"}
        lines[3] |= {"skipped": "loss is <inf>", "loss": "inf", "rolled_back_to": 1}
        return lines[:4]

    home = unfinished(change)
    told = summarise(read_run(home))
    assert (told.skipped, told.rollbacks, told.steps_done) == (2, 1, 1)
    assert math.isfinite(told.loss)
    html = page([read_run(home)])
    assert "<td>loss is nan" in html
    assert "<td>loss is &lt;inf&gt;; went back to step 1" in html
    assert "went back</text>" in html


def test_several_runs_lie_over_each_other_and_their_recipes_differences_are_listed(folder, unfinished):
    other = unfinished(lambda lines: lines[:3], name="other")
    recipe = (other / "recipe.toml").read_text()
    (other / "recipe.toml").write_text(recipe.replace("lr = 0.003", "lr = 0.01"))
    html = page([read_run(folder), read_run(other)])
    start = html.index("What differs in their recipes")
    table = html[start : html.index("</section>", start)]
    assert re.findall(r"<tr><th>([^<]*)<td>([^<]*)<td>([^<]*)", table) == [("optim.lr", "0.003", "0.01")]
    assert html.count(">tiny</text>") == html.count(">other</text>") > 0
    with pytest.raises(ConfigError, match="7 runs in one report: at most 6"):
        page([read_run(folder)] * 7)


def _hostile(lines):
    lines[0]["run"] |= {"parents": [HOSTILE], "data": {HOSTILE: HOSTILE}, "model": HOSTILE, "device": HOSTILE}
    lines[2] |= {"skipped": HOSTILE, "metrics": {HOSTILE: 1.0}}
    lines[3]["metrics"] = {HOSTILE: 1.0}
    lines[4]["evaluation"] = {"loss": 2.0, HOSTILE: 1.0, "samples": [HOSTILE, HOSTILE]}
    return lines


def test_nothing_from_a_run_becomes_markup(unfinished):
    """Public report class: samples of a model shown as HTML."""
    home = unfinished(_hostile, name="<img src=x onerror=alert(3)>")
    (home / "recipe.toml").write_text(
        (home / "recipe.toml").read_text().replace('"Once upon a time"', '"<script>alert(4)</script>"')
    )
    html = page([read_run(home)])
    html.encode()
    seen = Tags(html)
    assert seen.tags.count("script") == 2
    assert "img" not in seen.tags
    assert "<script>alert(1)</script>" in seen.text
    assert "\x1b" not in html


def test_in_a_browser_it_tells_values_and_lets_nothing_act(unfinished, chromium, tmp_path):
    home = unfinished(_hostile, name="hostile")
    (tmp_path / "report.html").write_text(page([read_run(home)]), encoding="utf-8")
    chromium.set_window_size(390, 800)
    chromium.get(f"file://{tmp_path}/report.html")
    charts = (
        "return [...document.querySelectorAll('svg')].filter((e) => e.checkVisibility()).map((e) => e.dataset.axis)"
    )
    assert set(chromium.execute_script(charts)) == {"step"}
    chromium.find_element("css selector", "[for=by-tokens]").click()
    assert set(chromium.execute_script(charts)) == {"tokens"}
    told = chromium.execute_script(
        """const chart = [...document.querySelectorAll("svg")].find((e) => e.checkVisibility());
        const box = chart.getBoundingClientRect();
        chart.dispatchEvent(new PointerEvent("pointermove", { clientX: box.right - 5, clientY: box.top + 20 }));
        return document.querySelector("#tip:not([hidden])").textContent;"""
    )
    assert told.startswith("step 4, ")
    assert "held-out loss: 2" in told
    assert chromium.execute_script("return window.seen") == {"attacks": [], "violations": []}
    width = chromium.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
