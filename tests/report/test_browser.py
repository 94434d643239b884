"""The page in a real browser: no error, no request, and nothing wider than a phone's or a desk's screen."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Written into a copy of the page, which reports to the frame around it: a window has no less than 500 px.
MEASURE = """<script>addEventListener("load", () => {
  document.querySelectorAll("details").forEach(details => { details.open = true })
  const images = [...document.images]
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    content: document.documentElement.scrollWidth,
    broken: images.filter(image => !image.naturalWidth).length,
    narrowest: Math.min(...images.map(image => image.getBoundingClientRect().width)),
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
  }), "*")
})</script></body>"""
FRAME = """<output></output><script>
addEventListener("message", event => { document.querySelector("output").textContent = event.data })
</script><iframe src="measured.html" style="border: 0; width: %dpx; height: 3000px"></iframe>"""


def browse(page: Path, width: int, folder: Path) -> tuple[dict, str]:
    """What `MEASURE` reports, and the browser's log with the console in it; skips where no browser starts."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        pytest.skip("no chromium is installed")
    text = page.read_text()
    assert "<script" not in text and text.count("</body>") == 1
    (folder / "measured.html").write_text(text.replace("</body>", MEASURE))
    (folder / "frame.html").write_text(FRAME % width)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--dump-dom"]
    flags += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,3000", (folder / "frame.html").as_uri()]
    result = subprocess.run([browser, *flags], capture_output=True, text=True, timeout=120)
    found = re.search(r"<output>(\{.*?\})</output>", result.stdout)
    if not found and not result.stdout:
        pytest.skip(f"{browser} does not start here: {result.stderr[-300:]}")
    return json.loads(found[1]), result.stderr


@pytest.mark.parametrize("width", [400, 1400])
def test_page_fits_the_screen_and_asks_the_network_for_nothing(page, width, tmp_path):
    measured, log = browse(page, width, tmp_path)
    assert measured["width"] == width and measured["content"] <= width
    assert measured["broken"] == 0 and measured["requests"] == []
    assert measured["narrowest"] >= 60  # px, also of a thumbnail
    assert "CONSOLE" not in log
    assert page.stat().st_size < 6e6
