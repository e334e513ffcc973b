"""The page of all routes: it runs under its policy, and its requests are answered."""

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.ui.conftest import Server


def try_out(page: Page, path: str, method: str = "post") -> None:
    """Open the operation, and send its example as it stands."""
    operation = page.locator(f".opblock-{method}", has=page.locator(f'[data-path="{path}"]'))
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()


def test_an_example_is_answered_as_it_stands(
    open_page: Callable[..., Page], server: Server
) -> None:
    page = open_page(f"{server.url}/docs")
    try_out(page, "/api/embed")
    expect(page.locator(".live-responses-table .response-col_status").last).to_contain_text("200")


def test_the_key_is_sent_with_requests_and_stays_in_the_tab(
    open_page: Callable[..., Page], start: Callable[..., Server]
) -> None:
    server = start(EMBEDD_API_KEY="secret")
    page = open_page(f"{server.url}/docs", expect="401")
    try_out(page, "/v1/models", "get")
    status = page.locator(".live-responses-table .response-col_status").last
    expect(status).to_contain_text("401")
    page.get_by_label("API key").fill("secret")
    page.get_by_role("button", name="Execute").click()
    expect(status).to_contain_text("200")
    page.goto(f"{server.url}/docs/")
    expect(page.get_by_label("API key")).to_have_value("secret")
