"""Pages: whole documents that say what the results say, escape what is foreign, and fetch nothing."""

import base64
import dataclasses
import json
import re
import zlib

import jax.numpy as jnp
import numpy as np
import pytest
from pages import read

import jmlv
from jmlv.campaigns import CallQuestion, Campaign
from jmlv.guarantees.result import Count, Flips, Kept
from jmlv.report import Example, Ways, neighborhood_page
from jmlv.report.png import eight_bit, png
from jmlv.report.svg import outline
from jmlv.shown import at_least
from jmlv.verdict import Status, Verdict
from jmlv.words import kept

SHAPE = (6, 5, 1)
NAMES = ("cat", "<dog>", "cow & calf")


def f(x):
    """Label 0 is what the first pixel is, label 1 what the last one is, label 2 a constant."""
    first, last = x[:, 0, 0, 0], x[:, -1, -1, 0]
    return jnp.stack([first, last - 0.5 * first, 0.45 + 0 * first], -1)


@pytest.fixture(scope="module")
def grown():
    x = np.full(SHAPE, 0.2, np.float32)
    x[0, 0], x[-1, -1] = 0.9, 0.3
    layers = jmlv.Layers.around(np.eye(6, 5, dtype=bool) & (np.arange(6) < 1)[:, None])
    strategy, oracle = jmlv.Uniform(), jmlv.Bounds(jmlv.CROWN())
    found = jmlv.grow(f, x, layers, jmlv.InTopK(0, k=1), strategy, oracle=oracle, budget=60)
    return dataclasses.replace(found, label_names=NAMES)


def data_of(path):
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())  # fmt: skip
    return json.loads(content)


def test_neighbourhood_with_its_network(grown, tmp_path):
    path = tmp_path / "grown.html"
    grown.report(path, f)
    page, data = read(path), data_of(path)
    assert "label cat (0) stays in the top 1" in page.text and "proven by CROWN" in page.text
    assert "<dog> (1)" in page.text and "<dog>" not in path.read_text()
    assert [e["type"] for e in page.all("input")] == ["range", "range", "checkbox"]
    assert len(data["examples"]) == 3 and data["stops"] == list(range(grown.layers.count))
    random, worst, outside = data["examples"]
    assert np.min(random["margins"]) > 0 and np.min(worst["margins"]) > 0
    assert outside["margins"][-1][-1] <= 0 < outside["margins"][0][0]
    assert np.min(worst["margins"]) <= np.min(random["margins"]) + 1e-6
    index = np.frombuffer(base64.b64decode(data["layer"]), "<u2").reshape(6, 5)
    np.testing.assert_array_equal(index, grown.layers.index)


def test_scores_are_those_of_the_images_on_the_way(grown, tmp_path):
    grown.report(tmp_path / "grown.html", f)
    data = data_of(tmp_path / "grown.html")
    from jmlv.neighborhoods.examples import scored

    examples, ways = scored(f, grown, jmlv.oracles.Deadline(30))
    for example, told in zip(examples, data["examples"]):
        for i, stop in enumerate(ways.stops):
            for j, share in enumerate(ways.shares):
                on = np.asarray(grown.layers.places) <= stop
                x = np.where(on, grown.x + share * (example.x - grown.x), grown.x)
                scores = np.sort(np.asarray(f(x[None].astype(np.float32)))[0])
                np.testing.assert_allclose(np.sort(told["scores"][i][j]), scores, rtol=2e-3)
                margin = float(grown.property.margin(example.scores[i, j]))
                assert told["margins"][i][j] == pytest.approx(margin, rel=2e-3, abs=1e-6)
                assert "just outside" in example.name or grown.region.contains(x)


def test_without_the_network_there_are_no_scores(grown, tmp_path):
    grown.report(tmp_path / "a.html", names=("x", "y", "z"))
    page = read(tmp_path / "a.html")
    assert "label x (0)" in page.text and "A counterexample" not in page.text
    assert all("scores" not in example for example in data_of(tmp_path / "a.html")["examples"])


def test_another_network_and_another_name_are_refused(grown, tmp_path):
    with pytest.raises(ValueError, match="grown on the network"):
        grown.report(tmp_path / "a.html", lambda x: 2 * f(x))
    with pytest.raises(ValueError, match=r"ends in \.html"):
        grown.report(tmp_path / "a.pdf", f)
    assert not list(tmp_path.iterdir())


def test_a_counterexample_in_what_is_proven_is_a_defect(grown, tmp_path):
    wrong = dataclasses.replace(grown, epsilon=np.ones_like(grown.epsilon))
    with pytest.raises(jmlv.SoundnessError, match="lies in a neighbourhood that is ROBUST"):
        wrong.report(tmp_path / "a.html", f)


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.NOT_ROBUST])
def test_what_is_not_proven_is_not_called_certified(grown, tmp_path, status):
    verdict = Verdict(status, witness=grown.x, reason="so it is")
    dataclasses.replace(grown, verdict=verdict).report(tmp_path / "a.html")
    page = read(tmp_path / "a.html")
    assert f"Nothing is certified here ({status.name}: so it is)" in page.text
    assert "Certified: " not in page.text and "is proven by" not in page.text


def test_size_zero_is_the_image_alone(grown):
    page = neighborhood_page(dataclasses.replace(grown, epsilon=0 * grown.epsilon))
    assert page.lead.startswith("Of the image itself, with no change at all")


def test_a_photograph_s_page_stays_small(tmp_path):
    """448 by 448 in three channels, eighty labels, every pixel random: nothing compresses."""
    random = np.random.default_rng(0)
    x = random.random((448, 448, 3), np.float32)
    mask = np.zeros((448, 448), bool)
    mask[200:240, 30:90] = True
    layers = jmlv.Layers.around(mask)
    ways = Ways.of(layers.count, x.size)
    shape = len(ways.stops), len(ways.shares)
    examples = [
        Example(name, "", random.random(x.shape, np.float32), random.normal(size=(*shape, 80)), random.normal(size=shape))
        for name in ("random", "worst", "outside")
    ]  # fmt: skip
    result = jmlv.GrownNeighborhood(
        x, layers, np.full(layers.count, 0.01), np.ones(layers.count), jmlv.InTopK(3, 2),
        Verdict(Status.ROBUST, 0.1, stats={"method": "CROWN"}), np.zeros(layers.count, bool),
        (jmlv.LayerStatus.UNDECIDED,) * layers.count, {}, 1.0, ((0.1, 1.0),), "uniform", "",
    )  # fmt: skip
    neighborhood_page(result, examples, ways).write(tmp_path / "a.html")
    assert "Of every 2 pixels in a row, one is shown." in read(tmp_path / "a.html").text


def test_verdicts(tmp_path):
    box = jmlv.Box.around(np.full(SHAPE, 0.5, np.float32), 0.3)
    for label, status in ((0, "NOT_ROBUST"), (2, "NOT_ROBUST")):
        property = jmlv.InTopK(label, 1)
        verdict = jmlv.verify(f, box, property, jmlv.PGD(restarts=2, steps=4))
        verdict.report(tmp_path / "a.html", f, property=property, region=box, names=NAMES)
        page = read(tmp_path / "a.html")
        assert verdict.status.name == status and "replayed in float64" in page.text
        assert len(page.all("image")) == 2 and "cow & calf (2)" in page.text
    ball = jmlv.Ball(np.full(SHAPE, 0.5, np.float32), 0.6)
    verdict = jmlv.verify(f, ball, jmlv.InTopK(0, 1), jmlv.PGD(restarts=2, steps=4))
    verdict.report(tmp_path / "a.html", f, region=ball)
    assert "in the middle" in read(tmp_path / "a.html").text
    for verdict, told in (
        (Verdict(Status.ROBUST, 0.5, 1.0, stats={"method": "MILP"}), "MILP proves it of the real-valued"),
        (Verdict(Status.UNKNOWN, reason="late"), "Of the worst margin, no lower bound is proven, no point is known."),
        (Verdict(Status.NOT_ROBUST, witness=np.zeros(3)), "Its entries: 0, 0, 0"),
    ):  # fmt: skip
        verdict.report(tmp_path / "b.html")
        assert told in read(tmp_path / "b.html").text


def test_a_verdict_is_not_told_of_another_question(tmp_path):
    x = np.array([[[0.75], [0.25]]], np.float32)
    g, box, asked = lambda x: x.reshape(-1, 2), jmlv.Box.around(x, 0.1), jmlv.InTopK(0, 1)
    proven = jmlv.verify(g, box, asked, jmlv.Bounds())
    refuted = jmlv.verify(g, jmlv.Box.around(x, 0.4), asked, jmlv.PGD())
    assert (proven.status, refuted.status) == (Status.ROBUST, Status.NOT_ROBUST)
    path, wider = tmp_path / "a.html", jmlv.Box.around(x, 0.4)
    proven.report(path, g, property=asked, region=box)
    refuted.report(path, g, property=asked, region=wider)
    layers = jmlv.Layers.around(np.array([[True, False]]))
    proven.report(path, g, region=jmlv.LayeredNeighborhood(x, layers, np.float32([0.1, 0.1])))
    for question, name in (
        ({"region": jmlv.Box.around(x, 0.2)}, "region"),  # with the same middle
        ({"region": jmlv.Ball(x, 0.1)}, "region"),
        ({"property": jmlv.InTopK(0, 2)}, "property"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*asked about another one"):
            proven.report(path, **question)
    proven, refuted = (dataclasses.replace(v, asked={}) for v in (proven, refuted))
    for verdict, question, f, match in (
        (proven, {"property": jmlv.InTopK(1, 1), "region": box}, g, "property: .*margin is -"),
        (proven, {"property": asked, "region": box}, lambda x: g(1 - x), "property: .*margin is -"),
        (proven, {"property": asked, "region": jmlv.Box.around(1 - x, 0.1)}, g, "in the middle"),
        (refuted, {"region": jmlv.Box.around(x[0], 0.4)}, None, "region: .*outside"),
        (refuted, {"property": asked, "region": box}, g, "region: .*outside"),
        (refuted, {"property": asked, "region": wider}, lambda x: 2 * g(x), "property: .*witness"),
    ):
        with pytest.raises(ValueError, match=match):
            verdict.report(path, f, **question)


def test_label_sets(tmp_path):
    box = jmlv.Box.around(np.full(SHAPE, 0.5, np.float32), 0.01)
    plan = jmlv.labels.Plan(stages=(jmlv.CROWN(),), oracle=None)
    result = jmlv.classify_labels(f, box, 1, plan=plan)
    result.report(tmp_path / "a.html", x=np.full(SHAPE, 0.5), names=NAMES)
    page = read(tmp_path / "a.html")
    assert "always: cat (0); never: <dog> (1), cow & calf (2)" in page.text
    assert len(page.all("image")) == 1


def test_guarantees(tmp_path):
    count = Count(1, 2, np.full(SHAPE, 0.5), (1,), "MILP: late")
    Flips(count, Count(1, 1), Count(0, 1), (0,), 3, 0.5).report(tmp_path / "a.html", names=NAMES)
    page = read(tmp_path / "a.html")
    assert "at least 1 and at most 2 labels can change at once" in page.text
    assert "<dog> (1)" in page.text and len(page.all("image")) == 1
    Kept((0, 1, 2), 3, count, 3, 0.5).report(tmp_path / "b.html", x=np.zeros(SHAPE), names=NAMES)
    page = read(tmp_path / "b.html")
    assert (
        "at least 1 of the 3 labels are in the top 3: proven. At a witness no more than 2"
        in page.text
    )
    assert len(page.all("image")) == 2


def test_relations(grown, tmp_path):
    masks = np.zeros((2, 6, 5), bool)
    masks[0, 0, 0], masks[1, -1, -1] = True, True
    objects = jmlv.Objects(masks, (0, 1))
    relations = jmlv.RelationMatrix(grown.x, objects, ((None, grown), (None, None)))
    relations.report(tmp_path / "a.html", names=NAMES)
    page = read(tmp_path / "a.html")
    assert f"the smallest certified size is {at_least(grown.size)}" in page.text
    assert "the label of object 1 (<dog> (1)) while object 0 (cat (0)) is changed" in page.text
    nothing = dataclasses.replace(relations, grown=((None, None), (None, None)))
    nothing.report(tmp_path / "a.html")
    assert "holds for no pair" in read(tmp_path / "a.html").text


def test_campaigns(tmp_path):
    asked = [CallQuestion("builtins:dict", {"status": s, "x": 1.5}, tags={"n": s}) for s in ("<b>", "c")]  # fmt: skip
    asked.append(CallQuestion("builtins:int", {"nonsense": 1}, tags={"n": "bad"}))
    campaign = Campaign(asked, tmp_path / "answers")
    list(campaign.run(attempts=1))
    campaign.report(tmp_path / "a.html", by=["n"])
    page = read(tmp_path / "a.html")
    assert "2 of 3 done" in page.text and "What failed" in page.text and "<b>" in page.text
    with pytest.raises(ValueError, match="by: got 'colour'"):
        campaign.report(tmp_path / "b.html", by=["colour"])


def test_pictures_are_png_files():
    image = np.random.default_rng(0).random((3, 2, 3))
    content = png(eight_bit(image))
    start = content.index(b"IDAT") + 4
    size = int.from_bytes(content[start - 8 : start - 4], "big")
    lines = np.frombuffer(zlib.decompress(content[start : start + size]), np.uint8).reshape(3, 7)
    np.testing.assert_array_equal(lines[:, 1:].reshape(3, 2, 3), np.round(image * 255))
    pillow = pytest.importorskip("PIL.Image")
    import io

    np.testing.assert_array_equal(np.asarray(pillow.open(io.BytesIO(content))), eight_bit(image))


def test_outlines_go_around_every_pixel_set():
    mask = np.random.default_rng(0).random((7, 5)) < 0.5
    length = sum(int(n) for n in re.findall(r"[hv](\d+)", outline(mask)))
    padded = np.pad(mask, 1).astype(int)
    assert length == np.abs(np.diff(padded, axis=0)).sum() + np.abs(np.diff(padded, axis=1)).sum()


def test_words_do_not_say_more_than_the_property():
    assert kept(jmlv.KeepsLabels((0, 1, 2), k=3, at_least=2), NAMES).startswith(
        "at least 2 of labels"
    )
    assert kept(jmlv.KeepsLabels((0, 1), k=3)) == "labels 0, 1 stay in the top 3"
    assert kept(jmlv.NotInTopK(1, k=3), NAMES) == "label <dog> (1) stays out of the top 3"
    both = jmlv.InTopK(0, 1) & jmlv.AboveThreshold(0, 0.5)
    assert repr(both) in kept(both) and "cat (0)" in kept(both, NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("flat", [False, True])
def test_inputs_whose_channels_come_first_are_shown_as_pictures(flat, tmp_path):
    layers = jmlv.Layers.around(np.eye(6, 5, dtype=bool)).on((2, 6, 5), (1, 2), flat=flat)
    x = np.full((60,) if flat else (2, 6, 5), 0.4, np.float32)
    g = lambda x: x.reshape(len(x), -1)[:, ::31] * jnp.array([1.5, 1.0])  # noqa: E731
    oracle = jmlv.Bounds(jmlv.CROWN())
    grown = jmlv.grow(g, x, layers, jmlv.InTopK(0, k=1), jmlv.Uniform(), oracle=oracle, budget=60)
    grown.report(tmp_path / "a.html", g)
    data = data_of(tmp_path / "a.html")
    assert (data["height"], data["width"]) == (6, 5) and len(data["examples"]) == 3
    assert len(base64.b64decode(data["image"])) == 6 * 5 * 3
