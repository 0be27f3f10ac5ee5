"""Chromium for the tests of the run page, and a server with two runs."""

import pytest
from support.console.page_browser_support import checked_tab, make_viewed_runs
from support.console.page_support import page_server
from support.environments.browser_support import browser_path


# Not one browser for all tests: while Playwright runs, this thread has a running event loop, and asynchronous tests of
# other modules cannot start.
@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="PLAYWRIGHT IS NOT INSTALLED: `make setup EXTRA=page`")
    if browser_path() is None:
        pytest.skip("CHROMIUM IS NOT INSTALLED: `apt-get install chromium`")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(executable_path=browser_path(), args=options)
        yield started
        started.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with the runs `first` and `second`. Yields (page server, folder)."""
    folder = tmp_path_factory.mktemp("site")
    with page_server(make_viewed_runs(folder), folder) as server:
        yield server, folder


@pytest.fixture
def page(browser, site):
    """A tab without errors and without requests to other hosts."""
    server, _ = site
    with checked_tab(browser, f"http://127.0.0.1:{server.port}") as tab:
        yield tab
