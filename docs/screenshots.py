"""Look at the built pages in a real browser, and take a screenshot of each.

The script fails on images and style sheets that are missing, pages that are too wide for a
telephone, and common words that the search does not find. It is not part of continuous
integration, and needs Chromium of the system and the package playwright:

    make docs
    pip install playwright
    python docs/screenshots.py [--output screenshots] [PAGE ...]
"""

import argparse
import functools
import http.server
import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

BUILT = Path(__file__).parent / "_build/html"
TELEPHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1300, "height": 900}
WORDS = [
    "temperature", "beta", "images", "texts", "save", "search", "labels", "missing values",
    "GPU", "augmentation",
]  # fmt: skip
# By how much the text is too wide. In this theme not the page scrolls, but the text in it.
TOO_WIDE = """() => Math.max(
    ...[document.documentElement, ...document.querySelectorAll('.bd-article-container')]
        .map(element => element.scrollWidth - element.clientWidth)
)"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def serve(folder):
    """Serve a folder on a free port, and return its address."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def faults(page: Page, address: str, name: str) -> list[str]:
    """Return what is wrong with a page, in both widths."""
    found = set()

    def check(response):
        if response.status >= 400:
            found.add(f"{response.request.resource_type} {response.url} is missing")

    page.on("response", check)
    for size in (DESKTOP, TELEPHONE):
        page.set_viewport_size(size)
        page.goto(f"{address}/{name}", wait_until="load")
        # Images further down are only loaded when they are shown.
        page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        if pixels := page.evaluate(TOO_WIDE):
            found.add(f"{pixels} pixels too wide at a width of {size['width']}")
    page.remove_listener("response", check)
    return sorted(found)


def results(page: Page, address: str, words: str) -> int:
    """Return how many pages the search finds."""
    page.goto(f"{address}/search.html?q={words}")
    page.wait_for_function(
        "/found|did not match|matching/.test(document.querySelector('#search-results')"
        ".innerText)"
    )
    return page.locator("#search-results ul.search > li").count()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", help="such as index.html; by default all")
    parser.add_argument("--built", type=Path, default=BUILT)
    parser.add_argument("--output", type=Path, help="a folder for screenshots")
    options = parser.parse_args()
    names = options.pages or sorted(
        str(path.relative_to(options.built))
        for path in options.built.rglob("*.html")
        if "_static" not in path.parts
    )
    address, failed = serve(options.built), False
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        # What is not part of the pages does not count, and would be waited for.
        page.route(
            lambda url: not url.startswith((address, "data:")), lambda route: route.abort()
        )
        for name in names:
            for fault in faults(page, address, name):
                failed = True
                print(f"{name}: {fault}")
            if options.output:
                for width, size in (("desktop", DESKTOP), ("telephone", TELEPHONE)):
                    page.set_viewport_size(size)
                    file = f"{name.removesuffix('.html').replace('/', '-')}-{width}.png"
                    page.screenshot(path=options.output / file, full_page=True)
        for words in [] if options.pages else WORDS:
            if not results(page, address, words):
                failed = True
                print(f"The search finds nothing for {words!r}.")
        browser.close()
    print(f"{len(names)} pages: {'faults, see above' if failed else 'no faults'}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
