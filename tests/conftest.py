"""For all tests: budgets are counted in steps, never in seconds, since the machines are shared and slow at times."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs with Ctrl-C ignored, and processes inherit that; here it is what is tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steps", deadline=None)
settings.load_profile("steps")

_WATCH = """
window.seen = { attacks: [], violations: [] };
window.alert = (text) => seen.attacks.push(String(text));
addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
  seen.violations.push(`${violatedDirective} ${blockedURI}`));
"""

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_adapter(
    folder: Path,
    model: Any,
    *,
    seed: int = 0,
    rank: int = 4,
    targets: Sequence[str] = LINEARS,
    strength: float = 1.0,
    **config: Any,
) -> Path:
    """A random LoRA adapter of one of our models in PEFT's layout, both halves of which matter."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        if name.endswith(tuple(f".{target}" for target in targets)):
            rows, cols = module.weight.shape
            a_rC = torch.randn(rank, cols, generator=generator) / cols**0.5
            b_Rr = torch.randn(rows, rank, generator=generator) * strength / rank**0.5
            tensors |= {f"base_model.model.{name}.lora_{half}.weight": x for half, x in (("A", a_rC), ("B", b_Rr))}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    stated = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets)} | config
    (folder / "adapter_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="session")
def save_adapter() -> Callable[..., Path]:
    return write_adapter


@pytest.fixture
def metrics_line() -> dict[str, Any]:
    """A line of a run's metrics as it must be at least, but for `step` and `steps`."""
    whole = {"time": 1e9, "total_flops": 1e6, "total_tokens": 8, "total_seconds": 1.0, "tokens_per_second": 8.0}
    return whole | {"loss": 2.0, "weight": 8.0, "tokens": 8, "lr": 0.1, "grad_norm": 1.0, "seconds": 1.0}


class Scripted:
    """An engine that says what it is told to, in order; an answer that ends in "..." was cut."""

    def __init__(self, answers: Sequence[str]) -> None:
        self.answers = iter(answers)
        self.asked: list[tuple[Any, Any]] = []

    def submit(self, prompt: Any, sampling: Any) -> Any:
        from modelworks.engine.handle import Feed, Handle
        from modelworks.engine.row import Piece

        self.asked.append((prompt, sampling))
        text = next(self.answers)
        feed = Feed(1)
        feed.push(Piece(0, (), text, (), (), "length" if text.endswith("...") else "stop"))
        return Handle(feed)


@pytest.fixture(scope="session")
def scripted() -> Callable[[Sequence[str]], Scripted]:
    return Scripted


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless browser; on every page `seen` lists what a hostile text got done, and what the policy refused."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("no Chromium with its driver here (on Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"):
        options.add_argument(argument)
    if os.getuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    running.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _WATCH})
    yield running
    running.quit()
