"""The page: small, self-contained, and used in a real headless browser if one is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from coterie.serve.middleware import PAGE, PAGE_PATHS
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


def test_votes_and_steps_of_a_reply(page: Any) -> None:
    page.click("#showSide")
    page.fill("#votes", "3")
    page.check("#steps")
    page.select_option("#effort", "low")
    page.click("#hideSide")
    ask(page, "Hello")
    page.wait_for_selector(".votes table")
    assert "of 3 replies" in page.inner_text(".votes p") and page.locator("progress").count() >= 1
    steps = page.locator("summary", has_text="Steps, ")
    assert not page.locator(".steps").is_visible()
    steps.click()
    assert "log-probability" in page.inner_text(".steps")


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
    page.click('button[aria-label="Previous version"]')
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


PROBE = """<!doctype html><title>elsewhere</title><pre id="said"></pre><script>
(async () => {
  const [url, key] = location.hash.slice(1).split(",");
  const headers = {authorization: "Bearer " + key, "content-type": "application/json", "x-stainless-os": "x"};
  const body = {model: "tiny", messages: [{role: "user", content: "Hi"}], max_tokens: 3, store: true};
  const said = [];
  const ask = async (path, options) => {
    try {
      const answer = await fetch(url + path, {headers, ...options});
      said.push([answer.status, answer.headers.get("x-coterie-ignored"), (await answer.text()).length > 9]);
    } catch (error) { said.push(String(error)); }
  };
  const chat = (more) =>
    ask("/v1/chat/completions", {method: "POST", body: JSON.stringify({...body, ...more})});
  await ask("/v1/models", {});
  await chat({}); await chat({stream: true}); await chat({temperature: "hot"});
  document.getElementById("said").textContent = JSON.stringify(said);
})();
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_page_of_an_allowed_origin_reads_every_answer(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(PROBE)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    key = "key-of-this-test"

    def said(origin: str, **settings: Any) -> Any:
        with serving(api_key=key, **settings) as server:
            address = f"{origin}/#{server.url},{key}"
            command = [CHROMIUM, "--headless", *ARGUMENTS, f"--user-data-dir={tmp_path / 'profile'}"]
            command += ["--virtual-time-budget=8000", "--dump-dom", address]
            shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
        found = re.search(r'<pre id="said">(.*?)</pre>', shown)
        assert found, shown
        return json.loads(html.unescape(found[1]))

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        origin = f"http://localhost:{elsewhere.server_port}"
        read = said(origin, allowed_origins=(origin,))
        assert read == [[200, None, True], [200, "store", True], [200, "store", True], [400, None, True]]
        assert all("Failed to fetch" in one for one in said(origin))
        elsewhere.shutdown()
