"""The pocket in a browser: the first block begun after Enter shows the new color."""

import io

import pytest
from PIL import Image

from tests.recipes.serve.browsers import open_browser
from tests.recipes.serve.servers import limits, server


def strongest(png: bytes, color: int) -> int:
    """How much of a color stands out in the brightest of a picture's pixels."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    pixels = zip(*(image.getchannel(channel).tobytes() for channel in "RGB"), strict=True)
    return max(pixel[color] - max(pixel[:color] + pixel[color + 1 :]) for pixel in pixels)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["keep", "forget"])
def test_a_new_color_is_on_the_screen_with_its_first_block(tmp_path, memory):
    most = limits(snapshot_mb=512, snapshot_every=4)
    with (
        server(tmp_path / "served", most, model="pocket") as client,
        open_browser() as browser,
        browser.tab(str(client.base_url)) as tab,
    ):
        tab.type("#prompt", "a red circle moves right on a white background")
        tab.press("Enter")
        tab.until("Number(document.querySelector('#stage').dataset.shown) >= 0", 300)
        assert strongest(tab.pixels(), 0) > 80 > strongest(tab.pixels(), 2)
        tab.click(f"#memory [value={memory}]")
        tab.type("#prompt", "a blue circle moves right on a white background")
        tab.press("Enter")
        tab.until("document.querySelector('#latency').dataset.block", 300)
        facts = tab.run("({...document.querySelector('#latency').dataset})")
        assert facts["shown"] == facts["block"]
        assert 0 <= float(facts["shownAt"]) / 1000 - float(facts["madeAt"]) < 1.0
        tab.press("Escape")
        tab.press("Space")
        tab.run("document.querySelector('#video').currentTime += 1")  # within the same block
        tab.until("!document.querySelector('#video').seeking")
        assert tab.run("document.querySelector('#stage').dataset.shown") == facts["block"]
        assert strongest(tab.pixels(), 2) > 80 > strongest(tab.pixels(), 0)
