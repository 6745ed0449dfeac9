"""A page, looked at with a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SCREENS = [(1280, False), (390, True)]
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
PROBE = """
<script>
addEventListener("load", () => {
  const slider = document.getElementById("slider"), frame = document.getElementById("frame");
  const found = {loaded: [...document.images].every(i => i.complete && i.naturalWidth > 0)};
  if (slider) {
    const before = frame.src;
    slider.value = 0;
    slider.dispatchEvent(new Event("input"));
    found.moved = frame.src !== before;
    found.step = document.getElementById("step").textContent;
  }
  document.querySelectorAll("details").forEach(d => d.open = true);
  const rgb = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith("color") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a]; };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
  const behind = e => { const own = rgb(getComputedStyle(e).backgroundColor);
    return own[3] === 1 || !e.parentElement ? own.slice(0, 3) : over(own, behind(e.parentElement)); };
  found.paper = behind(document.body);
  found.contrast = Math.min(...[...document.querySelectorAll("body *:not(script):not(svg *)")]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(e => { const paper = behind(e), a = light(over(rgb(getComputedStyle(e).color), paper)), b = light(paper);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }));
  found.overflow = document.documentElement.scrollWidth - innerWidth;
  found.shades = new Set([...document.querySelectorAll(".matrix td")].map(e => `${behind(e)}`)).size;
  found.opened_ms = performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart;
  const out = document.createElement("pre");
  out.id = "probe";
  out.textContent = JSON.stringify(found);
  document.body.append(out);
});
</script>
"""


def looked_at(page: Path, directory: Path, width: int, dark: bool) -> dict[str, Any]:
    """What a browser found on the page, which nothing on its console complained of."""
    probed = directory / "report.html"
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr"]
    options += [f"--window-size={width},900", f"--user-data-dir={directory}/profile", "--virtual-time-budget=3000"]
    options += [f"--blink-settings=preferredColorScheme={int(not dark)}", "--dump-dom", probed.as_uri()]
    for _ in range(3):  # the quickest counts: other tests run beside this one
        done = subprocess.run([str(CHROMIUM), *options], capture_output=True, text=True, timeout=120)
        assert "CONSOLE" not in done.stderr, done.stderr
        found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout)[1])  # type: ignore[index]
        if found["opened_ms"] < 2000:
            break
    assert found["loaded"]
    assert (sum(found["paper"]) < 150) == dark
    assert found["contrast"] >= 4.5  # WCAG 2.2, AA
    assert found["overflow"] <= 0
    assert found["opened_ms"] < 2000
    return found
