"""`make pictures`: the page and Dagster's UI of a running `b3 up`, as PNG files for the documents."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass

from playwright.sync_api import Browser, sync_playwright

from b3_pipeline.ports import HOST
from b3_pipeline.settings import PROJECT, Settings

FOLDER = PROJECT / "docs" / "img"
#: Until charts are drawn, or Dagster's own page has fetched what it shows.
_DRAWN_MS = 6_000


@dataclass(frozen=True)
class Picture:
    """A page at an address, as wide and high (pixels) as a screen; `whole`: all of it, however long."""

    file: str
    address: str
    width: int = 1_440
    height: int = 900
    dark: bool = False
    whole: bool = False


def pictures(settings: Settings) -> list[Picture]:
    """What is shown in the documents."""
    page, dagster = (f"http://{HOST}:{port}" for port in (settings.ports.page, settings.ports.dagster))
    return [
        Picture("page-light.png", page, whole=True),
        Picture("page-dark.png", page, dark=True),
        Picture("page-phone.png", page, width=390, height=844),
        Picture("sensors.png", f"{dagster}/automation"),
    ]


def take(browser: Browser, picture: Picture) -> None:
    """Takes one picture."""
    screen = {"width": picture.width, "height": picture.height}
    with browser.new_context(viewport=screen, color_scheme="dark" if picture.dark else "light") as context:  # pyright: ignore[reportArgumentType]
        page = context.new_page()
        page.goto(picture.address)
        page.wait_for_timeout(_DRAWN_MS)
        page.screenshot(path=FOLDER / picture.file, full_page=picture.whole)


def main() -> None:
    """Takes all of them."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("Chromium is not here: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for picture in pictures(Settings()):
            take(browser, picture)
        browser.close()


if __name__ == "__main__":
    main()
