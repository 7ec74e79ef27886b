"""A browser's window on a running site that notes every complaint: console, page errors, refused policies."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

from playwright.sync_api import Browser, Page

from tests.approval.running import Running

PHONE: Final[dict[str, Any]] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
DESKTOP: Final[dict[str, Any]] = {"viewport": {"width": 1280, "height": 800}}
SCREENS: Final = {"phone": PHONE, "desktop": DESKTOP}


class Eyes:
    """One browser context. Used as a context manager: at its end nothing may have been complained about."""

    def __init__(self, site: Running, browser: Browser, handle: str | None = None, **options: Any) -> None:
        """handle: who is logged in already; None: nobody."""
        self.site, self.complaints = site, list[str]()
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(20_000)
        if handle is not None:
            cookies = dict(site.client(handle).cookies)
            self.context.add_cookies([{"name": name, "value": cookies[name], "url": site.url} for name in cookies])
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self._note(said.type, said.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))

    def _note(self, kind: str, text: str) -> None:
        self.complaints.append(f"{self.page.url}: {kind}: {text}")

    def __enter__(self) -> Eyes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.context.close()
        if error is None:
            assert self.complaints == []

    def open(self, path: str) -> Page:
        """Go there, and hold what is shown against the width of the screen."""
        self.page.goto(self.site.url + path)
        self.fits()
        return self.page

    def fits(self) -> None:
        """Nothing is wider than the screen: no sideways scrolling."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth")
        size = self.page.viewport_size
        assert size is not None
        assert wide <= size["width"], f"{self.page.url} is {wide} px wide"
