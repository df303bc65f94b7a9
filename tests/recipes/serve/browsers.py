"""Chromium without a window, driven by Playwright; where either is missing, tests are skipped."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PIXELS = """() => {
    const shown = document.querySelector('#video:not([hidden]), #canvas:not([hidden])');
    const copy = document.createElement('canvas');
    copy.width = shown.videoWidth || shown.width;
    copy.height = shown.videoHeight || shown.height;
    copy.getContext('2d').drawImage(shown, 0, 0);
    return copy.toDataURL('image/png').split(',')[1];
}"""


class Tab:
    """A page. Its policy lets nobody evaluate text inside it, so what is waited for is polled."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on(
            "console",
            lambda said: self.errors.append(said.text) if said.type == "error" else None,
        )

    def run(self, code: str) -> Any:
        return self.page.evaluate(code)

    def until(self, code: str, seconds: float = 40) -> None:
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({code})"):
            said = f"{self.text('#say')!r}, {self.text('#state')!r}, {self.errors}"
            assert time.monotonic() < end, f"{code} did not happen: {said}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        found: str = self.run(f"document.querySelector({selector!r})?.textContent ?? ''")
        return found

    def type(self, selector: str, text: str) -> None:
        self.page.fill(selector, text)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def click(self, selector: str) -> None:
        self.page.click(selector)

    def reload(self) -> None:
        self.page.reload()

    def pixels(self) -> bytes:
        """What is shown, as a png."""
        import base64

        return base64.b64decode(self.run(PIXELS))

    def choose_file(self, selector: str, path: Path) -> None:
        self.page.set_input_files(selector, path)

    def download(self, selector: str, path: Path) -> Path:
        with self.page.expect_download() as started:
            self.click(selector)
        started.value.save_as(path)
        return path


class Browser:
    """A browser of its own for each file of tests."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium

    @contextmanager
    def tab(
        self, address: str, *, width: int = 1200, height: int = 900, dark: bool = False
    ) -> Iterator[Tab]:
        """A page in a context of its own, with the model's line in its head."""
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height}
        context = self._chromium.new_context(viewport=size, color_scheme=scheme)
        try:
            tab = Tab(context.new_page())
            tab.page.goto(address)
            model, ask = (f"document.querySelector('#{name}')?" for name in ("model", "ask"))
            tab.until(f"{model}.textContent || {ask}.open")
            yield tab
        finally:
            context.close()


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium; skips the test that asks where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright (extra `browser`)")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield Browser(chromium)
        finally:
            chromium.close()
