"""The page: small, self-contained, and used in a real headless browser if one is installed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coterie.serve.http.middleware import PAGE, PAGE_PATHS
from coterie.serve.server import ServerThread
from tests.serve.support import call, language_model, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = list(PAGE.iterdir())
    assert sum(file.stat().st_size for file in files) < 100_000
    for file in files:
        text = file.read_text(encoding="utf-8")
        outside = re.findall(r"https?://[^\s\"'<>)\\]+", text)
        assert all(url.startswith(("http://www.w3.org/", "https?://")) for url in outside), (
            file.name,
            outside,
        )
        assert "innerHTML" not in text and "eval(" not in text and "style=" not in text, file.name
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=\"", text), file.name


def test_the_page_is_served_with_a_strict_policy_and_needs_no_key_itself() -> None:
    with serving(page=True, api_key="secret-key-of-this-test") as server:
        for path in PAGE_PATHS:
            status, headers, _ = call(server.url, "GET", path)
            assert status == 200 and headers["content-security-policy"].startswith("default-src 'self'"), path
        key = {"authorization": "Bearer secret-key-of-this-test"}
        for method, path in (("GET", "/v1/chat/completions"), ("POST", "/"), ("POST", "/app.js")):
            assert call(server.url, method, path, headers=key)[0] == 405, path
        for method, path in (("POST", "/v1/audio/speech"), ("POST", "/nope"), ("GET", "/nope")):
            assert call(server.url, method, path, headers=key)[0] == 404, path
        for path in ("/v1/models", "/v1/feedback", "/../guard.py", "/page", "/app.js/", "/style.css%00"):
            assert call(server.url, "GET", path)[0] == 401, path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    folder = tmp_path_factory.mktemp("said")
    with serving(language_model("moe"), page=True, feedback=str(folder)) as running:
        running.folder = folder  # type: ignore[attr-defined]
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: ServerThread) -> Iterator[Any]:
    context = browser.new_context()
    opened = context.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    opened.goto(server.url)
    opened.wait_for_selector("#model option", state="attached")
    opened.click("#showSide")
    opened.fill("#maxTokens", "12")
    opened.click("#hideSide")
    yield opened
    context.close()
    assert not [line for line in problems if "400" not in line and "ERR_" not in line], problems


def button(name: str) -> str:
    return f'button:text-is("{name}")'


def ask(page: Any, text: str) -> None:
    page.fill("#input", text)
    page.press("#input", "Enter")
    page.wait_for_selector("#send:visible", timeout=30_000)
    page.wait_for_selector(f".turn.assistant >> {button('Regenerate')}")


def test_a_conversation_with_branches_experts_and_a_judgement(page: Any, server: ServerThread) -> None:
    ask(page, "Hello")
    assert page.locator(".turn").count() == 2
    page.click(button("Experts"))
    assert page.locator(".token").count() >= 1
    page.focus(".token >> nth=0")
    assert "layer 0:" in page.inner_text(".about")
    assert "expert" in page.get_attribute("canvas", "aria-label")
    page.click(button("Regenerate"))
    page.wait_for_selector("text=2/2")
    page.wait_for_selector(button("Regenerate"))
    page.click('button[aria-label="Version before"]')
    page.wait_for_selector("text=1/2")
    page.click(button("Good"))
    page.wait_for_selector('button[aria-label="Good reply"][aria-pressed="true"]')
    line = json.loads(Path(server.folder / "labels.jsonl").read_text().splitlines()[-1])  # type: ignore[attr-defined]
    assert line["label"] is True and line["prompt"][-1]["content"] == "Hello"
    page.click(button("Edit"))
    page.fill(".edit", "Hello again")
    page.click(f".turn.user >> {button('Send')}")
    page.wait_for_selector("text=2/2")
    page.wait_for_selector(button("Regenerate"), timeout=30_000)


def test_a_blind_comparison_becomes_a_preference(page: Any, server: ServerThread) -> None:
    page.click("#modeCompare")
    page.fill("#input", "Hello")
    page.press("#input", "Enter")
    page.wait_for_selector(button("A is better"), timeout=30_000)
    assert "tiny" not in page.inner_text(".pair") and page.is_disabled("#send")
    page.click(button("A is better"))
    page.wait_for_selector(".pair >> text=/tiny|small/")
    line = json.loads(Path(server.folder / "preferences.jsonl").read_text().splitlines()[-1])  # type: ignore[attr-defined]
    assert line["about"]["verdict"] == "a" and line["chosen"][0]["role"] == "assistant"
    assert page.is_enabled("#send")


def test_hostile_text_stays_text(page: Any) -> None:
    page.fill("#input", "<img src=x onerror=alert(1)> **<script>alert(2)</script>** [x](javascript:alert(3))")
    page.press("#input", "Enter")
    page.wait_for_selector(button("Regenerate"), timeout=30_000)
    assert page.locator("#talk img, #talk script, #talk a").count() == 0
    assert "<img src=x" in page.inner_text(".turn.user .said")


def test_errors_are_said_in_words(page: Any) -> None:
    page.click("#showSide")
    page.fill("#maxTokens", "100000")
    page.click("#hideSide")
    page.fill("#input", "Hello")
    page.press("#input", "Enter")
    page.wait_for_selector("#notice:visible")
    assert "maximum context length" in page.inner_text("#notice")


def test_the_narrow_page_can_close_its_settings(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 720})
    page.click("#showSide")
    page.keyboard.press("Escape")
    assert not page.is_visible("#side")
    width = page.locator("body").evaluate("node => node.scrollWidth")
    assert width <= 360
