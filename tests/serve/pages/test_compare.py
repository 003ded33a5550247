"""The page of comparisons in headless Chromium, by keyboard first; and that what it collects is training data."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from modelworks.data.sample import Pair
from modelworks.data.tokenize import Options, read_samples
from modelworks.feedback.export import export_pairs
from modelworks.feedback.store import Answer, Comparison, Judgement
from modelworks.train.run import read_recipe, run

PAGES = Path(str(resources.files("modelworks.serve"))) / "pages"
PHONE = (360, 740)
ESCAPE, TAB, LEFT, RIGHT = "\ue00c", "\ue004", "\ue012", "\ue014"
NASTY = '<img src=x onerror="alert(1)"> **bold** [link](javascript:alert(2)) ![pic](https://elsewhere.example/x.png)'


@pytest.fixture
def page(comparing, tab) -> Any:
    def opened(**settings: Any) -> Any:
        compared = comparing(**settings)
        page = tab(compared)
        page.compared = compared
        return page.open()  # each server has a port of its own, and so a browser that knows nobody

    return opened


def introduce(page: Any, name: str = "Ann", group: str = "doctors") -> None:
    page.one("#who-name").send_keys(name)
    page.one("#who-group").send_keys(group + "\n")
    page.until(lambda: page.all("#comparison:not([hidden]), #finished:not([hidden])"))


def judge(page: Any, key: str) -> None:
    """Press a key and wait until what it says has arrived."""
    before = page.text("#progress-text")
    page.press(key)
    page.until(lambda: page.text("#progress-text") != before and not page.all("#undo[aria-disabled=true]"))


def shown(page: Any, side: int) -> str:
    return page.text(f"#said-{side}")


def test_all_that_the_page_names_is_there_and_nothing_is_inline() -> None:
    folder = PAGES / "compare"
    html = (folder / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)
    for name in re.findall(r'(?:src|href)="(?!#)([^"#]+)', html):
        assert (folder / name).is_file(), name
    scripts = "".join(path.read_text() for path in folder.glob("*.js"))
    identifiers = re.findall(r'\sid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    assert set(re.findall(r'byId\("([^"]+)"\)', scripts)) <= set(identifiers)
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html)) <= set(identifiers)
    assert set(re.findall(r'href="#(icon-\w+)"', html)) <= set(identifiers)
    assert not re.search(r"https?://", html + scripts + (folder / "compare.css").read_text())


def judge_twenty(opened: Any) -> None:
    """Twenty judgements in favour of the good answers; among them a tie, a skip, and one that is put right."""
    for at in range(20):
        good = 1 if shown(opened, 1).startswith("Good") else 2
        if at == 7:
            judge(opened, "t")
        elif at == 11:
            judge(opened, "s")
        elif at == 13:  # wrong, taken back, and put right
            judge(opened, str(3 - good))
            judge(opened, "u")
            assert opened.all(f"[data-choice='{3 - good}'][aria-pressed=true]")
            judge(opened, str(good))
        else:
            judge(opened, (LEFT, RIGHT)[good - 1] if at % 2 else str(good))


def test_twenty_judgements_by_keyboard_become_training_data(page, tmp_path: Path) -> None:
    opened = page(count=22)
    store = opened.compared.store
    introduce(opened)
    judge_twenty(opened)
    assert opened.text("#progress-text") == "20 done, 2 left"
    report = export_pairs(store, tmp_path / "pairs.jsonl")
    assert (report.rows, report.ties, report.skips) == (18, 1, 1)
    rows = list(read_samples([tmp_path / "pairs.jsonl"], Options(), []))
    assert len(rows) == 18
    for row in rows:
        assert isinstance(row, Pair)
        at = row.extra["comparison"]
        assert row.prompt == ({"role": "user", "content": f"Question {at}?"},)
        assert row.chosen == ({"role": "assistant", "content": f"Good answer {at}."},)
        assert row.rejected == ({"role": "assistant", "content": f"Bad answer {at}."},)
        assert (row.extra["annotator"], row.extra["group"]) == ("Ann", "doctors")
    assert {each.shown_first for each in store.judgements()} == {"first", "second"}
    assert all(0 < (each.seconds or 0) < 600 for each in store.judgements())


@pytest.mark.slow
def test_a_model_learns_from_what_the_page_has_collected(page, tmp_path: Path, request) -> None:
    opened = page(count=22)
    introduce(opened)
    judge_twenty(opened)
    export_pairs(opened.compared.store, tmp_path / "pairs.jsonl")
    files = (f'data.train=["{tmp_path}/pairs.jsonl"]', f'cache="{tmp_path}/reference"', "evaluate_every=0")
    short = ("steps=12", "optim.lr=1e-3", "schedule.warmup=2")
    records = []
    recipe = read_recipe(request.config.rootpath / "recipes/dpo.toml", files + short)
    adapter = run(recipe, tmp_path / "run", watch=lambda record: records.append(record.step.metrics))
    assert (adapter / "adapter_model.safetensors").is_file()
    assert records[0]["reward_margin"] == pytest.approx(0, abs=1e-4)
    assert records[-1]["reward_margin"] > 0.05
    assert records[-1]["accuracy"] > 0.8


def test_the_name_is_asked_once_and_the_last_comparison_says_so(page) -> None:
    opened = page(count=2)
    opened.press(ESCAPE)
    opened.until(lambda: opened.one("#who").is_displayed())  # nobody judges without a name
    introduce(opened, "  Ann   Lee ", "")
    judge(opened, "1")
    opened.open()
    opened.until(lambda: opened.all("#comparison:not([hidden])"))
    assert not opened.one("#who").is_displayed()
    assert opened.text("#person-name") == "Ann Lee"
    judge(opened, "2")
    assert opened.one("#finished").is_displayed()
    assert "You have judged 2." in opened.text("#finished-text")
    judge(opened, "u")
    assert opened.one("#comparison").is_displayed()


def test_ratings_and_a_comment_by_keyboard(page) -> None:
    opened = page(count=2)
    introduce(opened)
    opened.press("r")
    for digit in "543":
        opened.press(digit)
    opened.press("1", "0", "2")  # a digit goes on; 0 clears where it stands
    opened.press(ESCAPE)
    opened.press("c")
    opened.press("1 is better, to me")
    opened.press(ESCAPE)
    assert opened.compared.store.judgements() == []
    judge(opened, "1")
    (said,) = opened.compared.store.judgements()
    sides = (said.shown_first, "second" if said.shown_first == "first" else "first")
    assert said.ratings[sides[0]] == {"helpfulness": 5, "accuracy": 4, "safety": 3}
    assert said.ratings[sides[1]] == {"helpfulness": 1, "accuracy": 2}
    assert said.comment == "1 is better, to me"
    assert not opened.all(".rating :checked")
    judge(opened, "u")
    assert len(opened.all(".rating :checked")) == 5
    assert opened.js("return document.getElementById('comment').value") == "1 is better, to me"


def test_a_judgement_outlives_a_server_that_is_away(page) -> None:
    opened = page(count=3)
    opened.expected = ("ERR_INTERNET_DISCONNECTED",)
    introduce(opened)
    cut = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    opened.driver.execute_cdp_cmd("Network.enable", {})
    opened.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": True, **cut})
    opened.press("1")
    opened.until(lambda: opened.all("#problem .notice"))
    said = opened.text("#problem")
    assert "cannot be reached" in said
    assert "Your judgement is kept in this browser." in said
    assert opened.focused("#problem button")
    opened.js("document.activeElement.blur()")
    opened.press("2")  # changes nothing: the first one comes first
    opened.driver.execute_cdp_cmd("Network.emulateNetworkConditions", {"offline": False, **cut})
    opened.until(lambda: opened.text("#progress-text") == "1 done, 2 left")  # by itself
    assert not opened.all("#problem .notice")
    assert len(opened.compared.store.judgements()) == 1


def test_a_judgement_outlives_the_page(page) -> None:
    opened = page(count=3)
    introduce(opened)
    opened.js(
        "localStorage.setItem('modelworks.compare.pending', JSON.stringify({annotator: 'Ann', group: 'doctors', "
        "comparison: 1, choice: 'tie', ratings: [{}, {}], comment: '', seconds: 1}))"
    )
    opened.open()
    opened.until(lambda: opened.text("#progress-text") == "1 done, 2 left")
    assert [each.choice for each in opened.compared.store.judgements()] == ["tie"]
    assert opened.js("return localStorage.getItem('modelworks.compare.pending')") is None


def test_what_the_server_refuses_is_said_and_leads_on(page) -> None:
    opened = page(count=3)
    opened.expected = ("409",)
    introduce(opened)
    opened.compared.store.judge(Judgement(comparison=1, annotator="Ann", choice="tie"))
    opened.press("1")
    opened.until(lambda: opened.all("#problem .notice"))
    assert "already" in opened.text("#problem")
    opened.press("\n")
    opened.until(lambda: opened.text("#said-1 + *, #said-1").endswith("answer 2."))
    assert len(opened.compared.store.judgements()) == 1


def test_answers_are_shown_safely_and_nothing_is_fetched_elsewhere(page) -> None:
    opened = page(count=0)
    side = ({"role": "assistant", "content": NASTY},), ({"role": "assistant", "content": "plain"},)
    answers = (Answer(turns=side[0]), Answer(turns=side[1]))
    opened.compared.store.add([Comparison(prompt=NASTY, first=answers[0], second=answers[1])])
    opened.requests()
    introduce(opened)
    assert opened.all(".reply strong")
    assert opened.text("#prompt .plain") == NASTY
    assert {url.split("/")[2] for url in opened.requests() if url.startswith("http")} == {opened.url.split("/")[2]}


@pytest.mark.parametrize("size", [(1280, 800), PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(page, size: tuple[int, int], scheme: str) -> None:
    opened = page(count=3, wanted=2)
    store = opened.compared.store
    introduce(opened)
    judge(opened, "1")
    store.judge(Judgement(comparison=1, annotator="Bob", group="patients with a long name" * 3, choice="tie"))
    for view in ("compare", "results"):
        opened.open(view, size=size, prefers_color_scheme=scheme)
        opened.until(lambda view=view: opened.all({"compare": "#said-1 > *", "results": "#results .facts"}[view]))
        if view == "compare":
            opened.js("document.getElementById('extras').open = true")
        assert opened.overflow() <= 0
        for selector in ("h1", ".muted", ".said p", ".facts dt", ".facts dd", "#verdict button", ".step > span"):
            for contrast in opened.js(_CONTRAST, selector):
                assert contrast >= 4.5, (view, selector, contrast)


_CONTRAST = """
const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).slice(0, 6).map((e) => {
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05); });
"""


def test_every_control_has_a_name_and_a_focus_that_is_seen(page) -> None:
    opened = page(count=2)
    introduce(opened)
    opened.js("document.getElementById('extras').open = true; document.querySelector('.skip').focus()")
    passed: list[str] = []
    while not passed or (passed[-1] != "skip:skip" and len(passed) < 60):
        opened.press(TAB)
        name, ring = opened.js(
            """const e = document.activeElement, seen = e.matches('.step > input') ? e.nextElementSibling : e;
            const label = e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent;
            return [`${e.dataset.choice ?? e.id}:${label}`, getComputedStyle(seen).outlineStyle]"""
        )
        assert not name.endswith(":"), passed
        if "BODY" in name or ring == "none":
            break
        passed.append(name.split(":")[0])
    assert passed[:1] != []
    for control in ("person", "help-open", "theme", "compare-scroll", "comment", "1", "tie", "2", "skip"):
        assert control in passed, passed


def test_results_show_agreement_and_what_groups_dispute(page) -> None:
    opened = page(count=2, wanted=2)
    store = opened.compared.store
    for annotator, choice in (("Ann", "first"), ("Bob", "second")):
        for comparison in (1, 2):
            store.judge(Judgement(comparison=comparison, annotator=annotator, group=f"of {annotator}", choice=choice))
    introduce(opened, "Cem")
    opened.open("results")
    opened.until(lambda: opened.all(".disputed > li"))
    said = opened.text("#results")
    assert "Ann, Bob" in said
    assert "Between of Ann, of Bob" in said
    assert "Question 1?" in said
    assert "of Ann: A 1 · of Bob: B 1" in said
    assert "secret" not in opened.js("return document.documentElement.outerHTML")


def test_one_annotator_is_told_that_agreement_needs_two(page) -> None:
    opened = page(count=1)
    introduce(opened)
    judge(opened, "1")
    opened.open("results")
    opened.until(lambda: opened.all("#results .notice"))
    assert "One annotator only (Ann): agreement needs two." in opened.text("#results")
    assert "NaN" not in opened.text("#results")
