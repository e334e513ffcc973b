"""The page as people use it, in a real browser, with the default model."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, expect

from embedd.server.ui.live import Sample
from tests.ui.conftest import Server, read_metric

PARTS = ("Models", "Try", "Search", "Live", "Images")
EVENTS = "text/event-stream"
# The counts of a sample, see `embedd.server.ui.live`.
SAMPLE = [field for field, kind in Sample.__annotations__.items() if kind is float]
OpenPage = Callable[..., Page]
# Where screenshots are wanted, to be looked at.
SHOTS = os.environ.get("UI_SCREENSHOTS")


def go(page: Page, part: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name=part, exact=True).click()
    expect(page.get_by_role("heading", name=part, exact=True).first).to_be_visible()


def compute(page: Page, model: str = "all-minilm:latest") -> None:
    go(page, "Try")
    page.get_by_label("Model").select_option(model)
    page.get_by_role("button", name="Compute").click()
    expect(page.get_by_role("heading", name="Similarity")).to_be_visible()


def cells(page: Page) -> list[list[float]]:
    rows = page.locator(".matrix tbody tr").all()
    return [[float(text) for text in row.locator("td").all_inner_texts()] for row in rows]


def test_similarity_is_a_matrix_with_ones_on_the_diagonal(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui")
    compute(page)
    matrix = cells(page)
    assert len(matrix) == 5
    for i, row in enumerate(matrix):
        assert len(row) == 5
        assert row[i] == 1
        assert row == [other[i] for other in matrix]
    assert matrix[0][1] > 0.5 > matrix[0][2]  # password and login, password and cat
    expect(page.get_by_role("img", name=re.compile("Map of the texts"))).to_be_visible()


def test_shorter_and_smaller_vectors_show_what_they_cost(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui#try")
    compute(page)
    exact = cells(page)
    expect(page.get_by_text("1536 bytes a vector. Cosines do not change.")).to_be_visible()
    page.get_by_label("Numbers").select_option("int8")
    expect(page.get_by_text("384 bytes a vector. Cosines change by at most")).to_be_visible()
    page.get_by_label("Dimensions").fill("16")
    expect(page.get_by_text("16 bytes a vector.")).to_be_visible()
    worst = max(
        abs(a - b)
        for rows in zip(exact, cells(page), strict=True)
        for a, b in zip(*rows, strict=True)
    )
    shown = re.search(
        r"at most ([\d.]+)\.", page.locator("section", has_text="Similarity").inner_text()
    )
    assert shown
    assert abs(float(shown[1]) - worst) < 2e-3


def test_what_was_computed_is_still_there_after_another_part(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui")
    compute(page)
    before = cells(page)
    go(page, "Live")
    go(page, "Try")
    assert cells(page) == before
    expect(page.get_by_label("Model")).to_have_value("all-minilm:latest")


def test_a_model_in_memory_is_the_first_choice_and_others_are_said_to_load(
    start: Callable[..., Server], open_page: OpenPage
) -> None:
    server = start()
    page = open_page(server.url + "/ui#try")
    page.get_by_label("Model").select_option("short:latest")
    page.route("**/api/embed", lambda route: None)  # it is answered by nothing
    page.get_by_role("button", name="Compute").click()
    expect(page.get_by_role("button", name="Loading the model …")).to_be_visible()
    body = {"model": "short", "input": "x"}
    assert page.request.post(server.url + "/api/embed", data=body).ok
    later = open_page(server.url + "/ui#try")
    expect(later.get_by_label("Model")).to_have_value("short:latest")


def test_numbers_on_the_map_do_not_cover_each_other(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui#try")
    go(page, "Try")
    near = [f"The cat sleeps on the sofa{'.' * dots}" for dots in range(4)]
    page.get_by_label(re.compile("Texts")).fill("\n".join([*near, "Interest rates rose."]))
    compute(page)
    boxes = [one.bounding_box() for one in page.locator(".map text").all()]
    assert len(boxes) == 5
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a
            assert b
            # The box of a line of text is higher than its digits.
            apart = abs(a["x"] - b["x"]) >= 0.8 * a["width"]
            assert apart or abs(a["y"] - b["y"]) >= 0.5 * a["height"], (a, b)


def test_tokens_show_what_is_cut(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui#try")
    go(page, "Try")
    page.get_by_label(re.compile("Texts")).fill("hello " * 30)
    compute(page, "short:latest")
    tokens = page.locator(".token")
    assert tokens.count() > 16
    assert 0 < page.locator(".token.cut").count() < tokens.count()
    expect(page.get_by_text(re.compile(r"tokens, \d+ of them cut"))).to_be_visible()
    assert page.locator(".token:not(.cut)").count() <= 16


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript", "LangChain"])
def test_the_request_can_be_copied_with_the_address_of_this_server(
    server: Server, open_page: OpenPage, language: str
) -> None:
    page = open_page(server.url + "/ui#try")
    compute(page)
    page.get_by_role("button", name=language).click()
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert server.url in copied
    assert "How do I reset my password?" in copied


def test_an_example_says_that_its_library_has_no_input_type(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui#try")
    page.get_by_label("Input type").select_option("query")
    compute(page)
    for language, says in {"curl": False, "Python": True, "LangChain": True}.items():
        page.get_by_role("button", name=language).click()
        code = page.get_by_label(f"Request in {language}").inner_text()
        assert ('Without the input type "query"' in code) is says
        assert ('"input_type": "query"' in code) is not says


def test_a_page_without_a_clipboard_copies_too(server: Server, open_page: OpenPage) -> None:
    """As one that came without TLS from another machine."""
    page, other = open_page(server.url + "/ui#try"), open_page(server.url + "/ui")
    compute(page)
    other.evaluate("navigator.clipboard.writeText('something else')")
    page.bring_to_front()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    other.bring_to_front()
    assert "curl" in other.evaluate("navigator.clipboard.readText()")


def test_a_search_that_fails_leaves_no_bar(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui#search", expect="500")
    page.route("**/api/embed", lambda route: route.fulfill(status=500, json={"error": "broken"}))
    go(page, "Search")
    page.get_by_label(re.compile("Texts")).fill("one\none\ntwo")
    page.get_by_label("Question").fill("which?")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("alert")).to_contain_text("broken")
    expect(page.get_by_role("progressbar")).to_have_count(0)


def test_search_says_which_text_was_cut_and_folds_a_long_one(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui#search")
    go(page, "Search")
    expect(page.get_by_label("Texts: paste lines")).to_be_visible()
    page.get_by_label(re.compile("Texts")).fill("A cat sleeps.\n" + "cat " * 400 + "end")
    page.get_by_label("Question").fill("cat")
    page.get_by_label("Model").select_option("all-minilm:latest")
    page.get_by_role("button", name="Search").click()
    hits = page.locator(".ranking li")
    expect(hits).to_have_count(2)
    [short, long] = [hits.filter(has_text=text) for text in ("A cat sleeps.", "cut:")]
    expect(short).not_to_contain_text("cut:")
    expect(long).to_contain_text("cut: its first 256 of 403 tokens count")
    expect(long.get_by_text("cat end")).to_be_hidden()
    long.locator("summary").click()
    expect(long.get_by_text("cat end")).to_be_visible()


def test_search_ranks_lines_and_a_reranker_ranks_them_again(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui#search")
    go(page, "Search")
    lines = [
        json.dumps({"text": "Rain falls from dark clouds."}),
        "A cat sleeps in the sun.",
        "The bank raised its interest rates.",
    ]
    page.get_by_label(re.compile("Texts")).fill("\n".join(lines))
    page.get_by_label("Question").fill("How much does a loan cost?")
    page.get_by_label("Model").select_option("all-minilm:latest")
    page.get_by_label("Reranker").select_option("ranker:latest")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_role("heading", name="By the reranker")).to_be_visible()
    first, second = page.locator(".ranking").all()
    assert first.locator("p").all_inner_texts()[0] == "The bank raised its interest rates."
    assert sorted(first.locator("p").all_inner_texts()) == sorted(
        second.locator("p").all_inner_texts()
    )
    assert "Rain falls from dark clouds." in first.locator("p").all_inner_texts()


def test_a_file_can_be_dropped(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui#search")
    go(page, "Search")
    page.locator("textarea").evaluate(
        """(area) => {
            const data = new DataTransfer();
            data.items.add(new File(["one\\ntwo\\n\\nthree"], "lines.txt"));
            area.dispatchEvent(
                new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.get_by_text("3 lines")).to_be_visible()


def test_a_model_is_pulled_with_a_bar_loaded_unloaded_and_deleted(
    server: Server, open_page: OpenPage
) -> None:
    page = open_page(server.url + "/ui")
    page.get_by_label("Name of the catalogue").fill("hf.co/acme/big-GGUF")
    page.locator("form").get_by_role("button", name="Pull").click()
    expect(page.get_by_text("success")).to_be_visible()
    expect(page.get_by_text("100 %")).to_be_visible()
    name = "hf.co/acme/big-GGUF:latest"
    page.get_by_role("button", name=f"Load {name}").click()
    row = page.locator("tr", has_text=name)
    page.get_by_role("button", name=f"Unload {name}").click()
    expect(row.get_by_text("not in memory")).to_be_visible()
    page.get_by_role("button", name=f"Delete {name}").click()
    page.get_by_role("button", name="Delete it").click()
    expect(row).to_have_count(0)


def test_an_error_of_the_server_is_shown(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui")
    page.get_by_label("Name of the catalogue").fill("hf.co/acme/none-GGUF")
    page.locator("form").get_by_role("button", name="Pull").click()
    expect(page.get_by_role("alert")).to_contain_text("none-GGUF")


FIGURES = {
    "inputs": "embedd_inputs_total",
    "tokens": "embedd_engine_tokens_total",
    "batches": "embedd_batch_tokens_count",
    "cache_hits": "embedd_cache_hits_total",
    "truncated": "embedd_truncated_inputs_total",
}


def test_live_has_the_figures_of_the_metrics_at_once(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui")
    compute(page)
    go(page, "Live")
    for field, metric in FIGURES.items():
        value = f"{read_metric(server.url, metric):,.0f}"
        expect(page.locator(f'[data-figure="{field}"]')).to_have_text(value)
    expect(page.locator(".chart canvas")).to_have_count(6)
    # A page that comes later sees what was before it.
    later = open_page(server.url + "/ui#live")
    expect(later.locator('[data-figure="tokens"]')).to_be_visible()


def test_labels_of_an_axis_are_not_cut(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui")
    sample: dict[str, object] = dict.fromkeys(SAMPLE, 0)
    samples = [
        {**sample, "time": 1e9 + second, "tokens": 3e8 * second, "queue": {}, "memory": {}}
        for second in range(60)
    ]
    body = f"data: {json.dumps(samples)}\n\n"
    page.route("**/ui/live", lambda route: route.fulfill(body=body, content_type=EVENTS))
    go(page, "Live")
    chart = page.locator(".chart").first
    expect(chart.locator("canvas")).to_be_visible()
    # As uPlot writes it: ticks of 10 pixels and a gap of 5 beside the label.
    needed = page.evaluate(
        """() => {
          const context = document.createElement("canvas").getContext("2d");
          context.font = "12px system-ui";
          return context.measureText("300,000,000").width + 15;
        }"""
    )
    place = chart.locator(".u-over").evaluate("(element) => parseFloat(element.style.left)")
    assert place >= needed


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone_the_parts_are_one_line_and_figures_two_in_a_row(
    server: Server, open_page: OpenPage, width: int
) -> None:
    page = open_page(server.url + "/ui", width=width)
    go(page, "Live")
    tops = "(elements) => elements.map((one) => Math.round(one.getBoundingClientRect().top))"
    links = page.locator("nav a").evaluate_all(tops)
    assert len(set(links)) == 1
    expect(page.locator(".figures").first).to_be_visible()  # with the first sample
    figures = page.locator(".figures").first.locator("div").evaluate_all(tops)
    assert len(set(figures)) == len(figures) / 2 == 3


def test_data_asks_for_the_key_and_the_page_keeps_it_for_the_tab(
    start: Callable[..., Server], open_page: OpenPage
) -> None:
    server = start(EMBEDD_API_KEY="open-sesame")
    page = open_page(server.url + "/ui", expect="401")
    field = page.get_by_label(re.compile("The server asks for a key"))
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("asks for a key: invalid API key (none was sent). It is kept")
    expect(page.get_by_text("The store has no model yet")).to_have_count(0)
    field.fill("wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(field).to_be_visible()
    field.fill("open-sesame")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("rowheader", name="all-minilm:latest")).to_be_visible()
    expect(field).to_have_count(0)
    page.reload()
    expect(page.get_by_role("rowheader", name="all-minilm:latest")).to_be_visible()
    assert "open-sesame" not in page.content()
    assert page.evaluate("Object.keys(localStorage).length") == 0


def test_a_late_answer_to_another_key_does_not_ask_for_one(
    start: Callable[..., Server], open_page: OpenPage
) -> None:
    server = start(EMBEDD_API_KEY="open-sesame")
    page = open_page(server.url + "/ui", expect="401")
    late: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer wrong":
            late.append(route)
        else:
            route.continue_()

    page.route("**/api/ps", hold)
    field = page.get_by_label(re.compile("The server asks for a key"))
    for key, answer in {"wrong": "none was sent", "open-sesame": "API key. It"}.items():
        expect(page.get_by_role("alert")).to_contain_text(answer)
        field.fill(key)
        page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("rowheader", name="all-minilm:latest")).to_be_visible()
    expect(field).to_have_count(0)
    [route] = late
    with page.expect_response(lambda response: response.status == 401) as refusal:
        route.continue_()
    refusal.value.finished()
    page.evaluate("new Promise((go) => setTimeout(go))")
    expect(field).to_have_count(0)


def test_managing_is_offered_to_keys_that_may(
    start: Callable[..., Server], open_page: OpenPage
) -> None:
    server = start(EMBEDD_API_KEY="use", EMBEDD_ADMIN_KEY="manage")
    page = open_page(server.url + "/ui", expect="40")
    key = page.get_by_label(re.compile("asks for a key"))
    key.fill("use")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("button", name="Load short:latest")).to_be_visible()
    for name in ("Delete short:latest", "Pull"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    page.get_by_role("button", name="Use an admin key").click()
    page.get_by_role("button", name="Go on without it").click()
    expect(key).to_have_count(0)
    page.get_by_role("button", name="Use an admin key").click()
    key.fill("manage")
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_role("button", name="Delete short:latest")).to_be_visible()
    expect(page.locator("form").get_by_role("button", name="Pull")).to_be_visible()
    expect(key).to_have_count(0)
    compute(page)  # the other key still serves


def test_everything_is_reached_by_keyboard(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url + "/ui")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for part in PARTS:
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name=part, exact=True)).to_be_focused()
    page.get_by_role("link", name="Try", exact=True).focus()
    page.keyboard.press("Enter")
    page.get_by_label(re.compile("Texts")).focus()
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("heading", name="Similarity")).to_be_visible()
    before = page.get_by_label("Dimensions").input_value()
    page.get_by_label("Dimensions").focus()
    page.keyboard.press("ArrowLeft")
    assert page.get_by_label("Dimensions").input_value() != before


@pytest.mark.parametrize("width", [1200, 390])
def test_no_part_has_a_serious_fault_of_accessibility_or_a_second_scroll_bar(
    server: Server, open_page: OpenPage, scheme: str, width: int
) -> None:
    page = open_page(server.url + "/ui", scheme=scheme, width=width)
    for part in PARTS:
        go(page, part)
        if part == "Try":
            compute(page)
        if part == "Live":
            expect(page.locator(".chart canvas")).to_have_count(6)
        found = Axe().run(page).response["violations"]
        serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], (part, found)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), part
        if SHOTS:
            name = f"{part.lower()}-{scheme}-{width}.png"
            page.screenshot(path=Path(SHOTS) / name, full_page=True)


def test_the_page_works_under_a_path_prefix(
    start: Callable[..., Server], open_page: OpenPage
) -> None:
    server = start(EMBEDD_BASE_PATH="/embeddings-server")
    page = open_page(f"{server.url}/embeddings-server/ui")
    expect(page.get_by_role("rowheader", name="all-minilm:latest")).to_be_visible()
    loaded = page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(loaded) > 5
    assert all("/embeddings-server/" in name for name in loaded)
