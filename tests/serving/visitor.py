"""A visitor of the pages in Chromium."""

from typing import Any


class Visitor:
    """A page with a session, which fails the test for console errors and requests to other hosts."""

    def __init__(self, browser: Any, address: str, width: int, cookie: dict[str, str] | None = None) -> None:
        self.address = address
        self.context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
        self.context.set_default_timeout(60_000)
        for name, value in (cookie or {}).items():
            self.context.add_cookies([{"name": name, "value": value, "url": address}])
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.posts: list[str] = []
        self.context.route("**/*", self._look)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))

    def _look(self, route: Any) -> None:
        if not route.request.url.startswith(f"{self.address}/"):
            self.elsewhere.append(route.request.url)
            return route.abort()
        if route.request.method == "POST":
            self.posts.append(route.request.url.removeprefix(self.address))
        return route.continue_()

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(message.text)

    def open(self, path: str) -> Any:
        self.page.goto(self.address + path)
        return self.page

    def check(self) -> None:
        assert self.problems == []
        assert self.elsewhere == []

    def close(self) -> None:
        self.check()
        self.context.close()
