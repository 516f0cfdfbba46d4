"""The console in a real Chromium."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (apt-get install chromium)")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


class Visit:
    """A browser tab with the console; collects its errors and the hosts that it contacts."""

    def __init__(self, browser, url: str, **context) -> None:
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(60_000)
        self.problems, self.hosts = [], set()
        self.page.on(
            "console", lambda message: message.type in ("error", "warning") and self.problems.append(message.text)
        )
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "request", lambda request: self.hosts.add(request.url.split("/")[2] if "//" in request.url else "")
        )
        self.page.goto(f"{url}/console")

    def until(self, expression: str) -> None:
        # Playwright's `wait_for_function` needs `eval`, which the page's policy forbids.
        deadline = time.monotonic() + 60
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(30)

    def wait_for_status(self, text: str) -> None:
        self.until(f"document.getElementById('status').textContent.includes('{text}')")

    def wait_for_preview(self) -> None:
        self.page.wait_for_selector("#shelf li")
        self.wait_for_status("Done.")

    def violations(self) -> list[str]:
        """Violations of WCAG 2.2 AA and of axe-core's best practices."""
        from axe_playwright_python.sync_playwright import Axe

        # Axe checks colors, which are only final after the animations.
        self.until("document.getAnimations().every((one) => one.playState === 'finished')")
        found = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found]
