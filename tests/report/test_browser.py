"""The page of a neighbourhood in a real browser, by keyboard: skipped where there is no Chromium."""

import shutil

import numpy as np
import pytest

import jmlv
from jmlv.report import Example, Ways, neighborhood_page
from jmlv.verdict import Status, Verdict

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Six layers of two columns each; the last two layers of the counterexample break what is asked."""
    x = np.full((12, 12, 1), 0.5, np.float32)
    mask = np.zeros((12, 12), bool)
    mask[:, :2] = True
    layers = jmlv.Layers.around(mask)
    ways = Ways.of(layers.count, x.size)
    depth = np.array(ways.stops)[:, None] / ways.stops[-1] * np.array(ways.shares)
    scores = np.stack([1 - depth, 0.8 * depth, depth * 0 - 0.5], -1)
    margins = scores[..., 0] - scores[..., 1]
    white, inside = np.ones_like(x), 0.6 * np.ones_like(x)
    result = jmlv.GrownNeighborhood(
        x, layers, np.full(layers.count, 0.1), np.ones(layers.count), jmlv.InTopK(0, 1),
        Verdict(Status.ROBUST, 0.1, stats={"method": "CROWN"}), np.arange(layers.count) == 2,
        (jmlv.LayerStatus.UNDECIDED,) * layers.count, {}, 1.0, ((0.1, 1.0),), "uniform", "",
        label_names=("<i>cat</i>", "dog", "cow"),
    )  # fmt: skip
    examples = [
        Example("A random image inside", "", inside, scores / 2, np.abs(margins)),
        Example("A counterexample just outside", "", white, scores, margins),
    ]
    target = tmp_path_factory.mktemp("page") / "page.html"
    neighborhood_page(result, examples, ways).write(target)
    return target


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser, path):
    opened = browser.new_page(color_scheme="dark")
    opened.problems, opened.fetched = [], []
    opened.on("console", lambda message: opened.problems.append(message.text))
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    opened.on("request", lambda request: opened.fetched.append(request.url))
    opened.goto(path.as_uri())
    yield opened
    assert not opened.problems
    assert opened.fetched == [path.as_uri()]
    opened.close()


def colour(page, number, column):
    """The grey in the middle of a column of a picture, twelve columns wide."""
    return page.evaluate(
        "([n, c]) => { const p = document.getElementById('picture-' + n); const w = p.width / 12;"
        "return p.getContext('2d').getImageData((c + 0.5) * w, p.height / 2, 1, 1).data[0]; }",
        [number, column],
    )


def test_sliders_move_pictures_scores_and_words_by_keyboard(page):
    assert page.locator("#told-1").inner_text() == "What is asked is BROKEN here: margin -0.800"
    assert page.locator("#bars-1 .value").all_inner_texts() == ["0.000", "0.8000", "-0.5000"]
    assert [colour(page, 1, column) for column in (0, 11)] == [255, 255]
    page.locator("#layers").focus()
    page.keyboard.press("Home")
    assert [colour(page, 1, column) for column in (0, 1, 2, 11)] == [255, 255, 128, 128]
    assert page.locator("#layers-told").inner_text() == "layer 0 of 10, epsilon 0.1"
    assert page.locator("#layers").get_attribute("aria-valuetext") == "layer 0 of 10"
    assert page.locator("#told-1").inner_text() == "What is asked holds here: margin 1.00"
    page.keyboard.press("ArrowRight")
    assert [colour(page, 1, column) for column in (2, 3)] == [255, 128]
    page.keyboard.press("Tab")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert page.locator("#share-told").inner_text() == "50 %"
    assert abs(colour(page, 1, 0) - 191) <= 1 and abs(colour(page, 0, 0) - 140) <= 1


def test_the_change_alone_is_magnified(page):
    page.get_by_label("Show the change alone").check()
    assert colour(page, 0, 0) == 255 and colour(page, 1, 11) == 255
    page.locator("#share").fill("0")
    assert colour(page, 0, 0) == 128


def test_it_is_read_by_role_and_name(page):
    assert page.get_by_role("heading", level=1).inner_text() == "Certified: label <i>cat</i> (0) stays in the top 1"  # fmt: skip
    for name in ("Change the layers up to", "How much of the change"):
        assert page.get_by_role("slider", name=name).count() == 1
    assert page.get_by_role("img", name="A counterexample just outside").count() == 1
    page.get_by_text("Every layer as a table").click()
    table = page.get_by_role("table", name="Layers")
    assert table.get_by_role("row").count() == 12
    assert table.get_by_role("cell", name="0.1").first.is_visible()


def test_it_fits_small_screens_and_both_schemes(page):
    found = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(found) == 2
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_without_scripts_the_rest_is_there(browser, path):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(path.as_uri())
    assert opened.get_by_text("The sliders need JavaScript").is_visible()
    assert opened.locator("svg.picture").is_visible()
    context.close()
