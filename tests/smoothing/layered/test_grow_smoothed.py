"""The search for layered noise and what it returns: sizes, words, budgets, resuming, errors."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jmlv
from jmlv.errors import DamagedFile
from jmlv.oracles import Deadline
from jmlv.progress import Bar, Progress
from jmlv.smoothing import NoiseSearch, attack_smoothed, grow_smoothed, predict, sample_counts
from jmlv.smoothing.layered import run, task

SHAPE = (3, 5, 1)
LAYERS = jmlv.Layers.around(np.tile(np.arange(5) == 0, (3, 1)))
SLOPE = np.zeros(SHAPE, np.float32)
SLOPE[LAYERS.mask(0)], SLOPE[LAYERS.mask(1)], SLOPE[LAYERS.mask(3)] = 1.0, 0.05, 0.3
X = np.full(SHAPE, 0.8, np.float32)
KEY = jax.random.key(2)


def f(x):
    """Four labels; 2 and 0 are predicted. Layers 2 and 4 are never read, layer 1 hardly."""
    evidence = (x * SLOPE).sum((1, 2, 3))
    return jnp.stack([evidence - 0.6, -evidence, evidence, evidence * 0 - 0.2], axis=1)


SEARCH = NoiseSearch(starts=1, steps=30)
CALL = {"k": 2, "k_prime": 2, "n": 1000, "key": KEY, "search": SEARCH}


@pytest.fixture(scope="module")
def grown():
    return grow_smoothed(f, X, LAYERS, [2], **CALL)


def test_layered_noise_certifies_more_and_spends_it_where_the_network_does_not_look(grown):
    common, layered = grown.looks
    assert (common.kind, layered.kind) == ("isotropic", "layered")
    assert layered.value > 1.5 * common.value > 0
    assert grown.size == pytest.approx(layered.value) == pytest.approx(grown.epsilon.sum())
    assert grown.epsilon[[2, 4]].min() == 1 > 2 * grown.epsilon[0]
    assert grown.noise.box_distance(grown.epsilon, SHAPE) <= grown.radius
    assert grown.trace[-1][1] == pytest.approx(grown.size) and len(grown.trace) == 2


def test_without_starts_it_is_isotropic_smoothing(grown):
    search = dataclasses.replace(SEARCH, starts=0)
    common = grow_smoothed(f, X, LAYERS, [2], **(CALL | {"search": search, "looks": 1}))
    assert [look.kind for look in common.looks] == ["isotropic"]
    assert common.sigma[0] == grown.looks[0].noise.sigma[0]
    assert "gradients" not in common.samples and 0 < common.size < grown.size


def test_nothing_calls_itself_robust_and_every_claim_says_of_what(grown, tmp_path):
    words = "with probability at least 1 - 0.001, of the smoothed classifier"
    content = json.dumps(grown.as_dict())
    figure = jmlv.plotting.heatmap(grown)
    for text in (repr(grown), grown.summary(), content, figure.get_suptitle()):
        assert words in text and "robust" not in text.lower()
    assert not hasattr(grown, "verdict")
    assert len(grown.rows()) == LAYERS.count and len(grown.rows()[0]) == len(grown.HEADER)
    assert json.loads(content)["epsilon"] == pytest.approx(grown.epsilon.tolist())
    assert jmlv.plotting.traces({"one": grown}).axes
    assert isinstance(grown.region, jmlv.LayeredNeighborhood)


def test_attacks_in_the_certified_set_fail(grown):
    options = {"k": 2, "k_prime": 2, "sigma": grown.noise, "key": jax.random.key(1)}
    for factor, broken in ((1.0, False), (6.0, True)):
        moved = attack_smoothed(f, X, [2], e=1, radius=factor * grown.radius, samples=64, **options)
        counts = sample_counts(
            f, moved, sigma=grown.noise, n=2000, k_prime=2, key=jax.random.key(3)
        )
        assert (2 not in predict(counts, 2).labels) == broken


def test_the_key_alone_decides(grown):
    again = grow_smoothed(f, X, LAYERS, [2], **(CALL | {"batch_size": 96}))
    np.testing.assert_array_equal(again.looks[0].counts, grown.looks[0].counts)
    np.testing.assert_allclose(again.sigma, grown.sigma, rtol=1e-3)
    other = grow_smoothed(f, X, LAYERS, [2], **(CALL | {"key": jax.random.key(9)}))
    assert not np.array_equal(other.looks[0].counts, grown.looks[0].counts)


def test_looks_share_alpha_and_no_sample_with_choosing(monkeypatch):
    drawn = []

    def recorded(f, x, *, key, n, first=0, sigma, **options):
        drawn.append((tuple(np.asarray(jax.random.key_data(key)).tolist()), first, n, sigma))
        return sample_counts(f, x, key=key, n=n, first=first, sigma=sigma, **options)

    monkeypatch.setattr(task, "sample_counts", recorded)
    grown = grow_smoothed(f, X, LAYERS, [2], **(CALL | {"alpha": 0.02}))
    looks = [d for d in drawn if d[1:3] == (0, 1000)]
    choosing = [d for d in drawn if d not in looks]
    assert len(looks) == len(grown.looks) == 2 == len({d[0] for d in looks})
    assert not {d[0] for d in looks} & {d[0] for d in choosing} and choosing
    assert [look.alpha for look in grown.looks] == [0.01] * 2
    for look in grown.looks:
        assert look.radius == pytest.approx(
            jmlv.certified_radius(
                look.counts, 1000, [2], k=2, k_prime=2, sigma=look.noise, alpha=0.01, e=1
            )
        )


def test_after_a_lost_look_the_noise_is_cut_back_towards_what_is_certified(monkeypatch):
    drowned, radius_of = np.full(LAYERS.count, 25.0), run.Run._look

    def losing(self, one):
        look = radius_of(self, one)
        lost = np.allclose(look.noise.sigma, 25.0)
        return dataclasses.replace(look, radius=-np.inf, value=0.0) if lost else look

    monkeypatch.setattr(run.Choice, "ascend", lambda self, deadline: None)
    monkeypatch.setattr(run.Choice, "ranked", property(lambda self: [drowned]))
    monkeypatch.setattr(run.Run, "_look", losing)
    call = CALL | {"looks": 3, "search": dataclasses.replace(SEARCH, cut=0.25)}
    common, lost, back = (
        look.noise.sigma for look in grow_smoothed(f, X, LAYERS, [2], **call).looks
    )
    np.testing.assert_allclose(lost, 25.0)
    np.testing.assert_allclose(back, 0.25 * lost + 0.75 * common, rtol=1e-6)


def test_several_labels_radii_and_multi_hot():
    hot = np.array([True, False, True, False])
    call = CALL | {"objective": "radii", "weights": jmlv.by_pixel_count, "looks": 1}
    both = grow_smoothed(f, X, LAYERS, hot, **call)
    assert both.labels == (0, 2) and both.keep == 2 and len(both.looks) == 1
    expected = both.weights @ both.layer_radii
    assert both.looks[0].value == pytest.approx(expected) and expected > 0
    assert both.looks[0].alpha == 0.001
    options = {"weights": None, "objective": "box", "alpha": 0.001, "n": 1000, "key": KEY}
    radii = [
        task.Task.of(f, X, LAYERS, hot, k=2, k_prime=2, keep=keep, batch_size=9, **options).radius(
            both.looks[0].counts, 1000, 0.001
        )
        for keep in (1, 2, None)
    ]
    assert radii[0] >= radii[1] == radii[2] == both.radius


class Watch(Progress):
    """Remembers the steps; interrupts after so many."""

    def __init__(self, after=10**9):
        self.after, self.steps, self.shown = after, 0, {}

    def bar(self, description, total=None):
        outer = self
        outer.total = total

        class Watching(Bar):
            def update(self, steps=1, **values):
                outer.steps += steps
                outer.shown |= values
                if outer.steps >= outer.after:
                    outer.after = 10**9
                    raise KeyboardInterrupt

            def close(self):
                pass

        return Watching()


def test_a_budget_that_cut_the_ascents_short_is_gone_on_from(tmp_path, monkeypatch, grown):
    """The first call comes to half an ascent and has no time for a last look; the second ends it."""
    call = CALL | {"resume": tmp_path}
    climb = run.Choice._climb

    class Halfway(Deadline):
        """Passes when it is asked for the sixteenth time."""

        asked = 0

        @property
        def passed(self):
            self.asked += 1
            return self.asked > 15

    with monkeypatch.context() as patched:
        patched.setattr(run.Choice, "_climb", lambda *known: climb(*known[:3], Halfway(None)))
        patched.setattr(run, "LAST", 0.0)
        short = grow_smoothed(f, X, LAYERS, [2], budget=1e6, **call)
    assert short.reason == "the budget ended" and len(short.looks) == 1
    whole = grow_smoothed(f, X, LAYERS, [2], **call)
    assert whole.looks[-1].kind == "layered" and whole.samples["certifying"] == 2000
    np.testing.assert_array_equal(whole.looks[-1].counts, grown.looks[-1].counts)


@pytest.mark.parametrize("after", [100, 700, 1600, 2900])
def test_an_interrupted_search_returns_what_it_has_and_goes_on(tmp_path, grown, after):
    call = CALL | {"resume": tmp_path / "search"}
    stopped = grow_smoothed(f, X, LAYERS, [2], progress=Watch(after), **call)
    assert stopped.reason == "interrupted" and len(stopped.looks) == (after > 1300)
    watch = Watch()
    whole = grow_smoothed(f, X, LAYERS, [2], progress=watch, **call)
    for look, expected in zip(whole.looks, grown.looks, strict=True):
        np.testing.assert_array_equal(look.counts, expected.counts)
        assert look.noise == expected.noise
    assert watch.steps <= watch.total and watch.shown["best"] == pytest.approx(whole.size)
    nothing = Watch()
    assert grow_smoothed(f, X, LAYERS, [2], progress=nothing, **call).size == whole.size
    assert nothing.steps == 0


def test_progress_and_samples_are_what_was_promised(grown):
    watch = Watch()
    grow_smoothed(f, X, LAYERS, [2], progress=watch, **CALL)
    assert 0.9 * watch.total <= watch.steps <= watch.total == 4000
    assert sum(grown.samples.values()) == watch.steps
    assert grown.samples["certifying"] == 2000
    assert grown.samples["choosing"] + grown.samples["gradients"] <= 2 * 1000


def test_budgets_end_the_search_and_plan_fewer_samples(grown):
    tiny = grow_smoothed(f, X, LAYERS, [2], budget=1e-4, **CALL)
    assert not tiny.certified and tiny.size == 0 and tiny.reason == "the budget ended"
    assert "nothing certified" in repr(tiny) and "with probability" not in repr(tiny)

    many = 1_000_000_000
    short = grow_smoothed(f, X, LAYERS, [2], budget=2.0, **(CALL | {"n": many, "batch_size": 41}))
    assert short.seconds < 2.0 * 3 and short.certified  # one program with the searches above
    assert all(50 <= look.n < many for look in short.looks)


def test_a_folder_of_another_call_is_refused(tmp_path):
    call = CALL | {"resume": tmp_path}
    grow_smoothed(f, X, LAYERS, [2], progress=Watch(100), **call)
    for name, change in (("n", {"n": 900}), ("alpha", {"alpha": 0.01}), ("looks", {"looks": 1}),
                         ("search", {"search": NoiseSearch()}), ("key", {"key": jax.random.key(8)}),
                         ("k", {"k": 1})):  # fmt: skip
        with pytest.raises(ValueError, match=f"^resume: .* another .*{name}"):
            grow_smoothed(f, X, LAYERS, [2], **(call | change))
    with pytest.raises(ValueError, match="^resume: .* another .*x"):
        grow_smoothed(f, X * 0.9, LAYERS, [2], **call)
    with pytest.raises(ValueError, match="^resume: .* another .*f"):  # the same at x, not around it
        grow_smoothed(lambda x: f(jnp.clip(x, 0, 1)), X, LAYERS, [2], **call)
    (tmp_path / "search.json").write_text('{"identity": ')
    with pytest.raises(DamagedFile, match="^resume: "):
        grow_smoothed(f, X, LAYERS, [2], **call)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"labels": []}, ValueError, "labels: "),
        ({"labels": [4]}, ValueError, "labels: "),
        ({"k": 5}, ValueError, "k: "),
        ({"k_prime": 4}, ValueError, "k_prime: "),
        ({"keep": 2}, ValueError, "keep: "),
        ({"labels": [0, 1, 2], "k": 2, "keep": 1}, ValueError, "keep: 1 of the labels stay"),
        ({"objective": "volume"}, ValueError, "objective: "),
        ({"alpha": 0.0}, ValueError, "alpha: "),
        ({"n": 0}, ValueError, "n: "),
        ({"looks": 0}, ValueError, "looks: "),
        ({"budget": 0.0}, ValueError, "budget: "),
        ({"key": 3}, ValueError, "key: "),
        ({"batch_size": 0}, ValueError, "batch_size: "),
        ({"weights": [1.0]}, ValueError, "weights: "),
        ({"search": "adam"}, TypeError, "search: "),
        ({"layers": X}, TypeError, "layers: "),
        ({"x": X[:, :4]}, ValueError, "layers: made for"),
        ({"x": 2 * X}, ValueError, "x: "),
        ({"f": lambda x: x[:, 0, 0, 0]}, ValueError, "f: expected scores"),
    ],
)
def test_bad_input_is_named(change, error, message):
    call = {"f": f, "x": X, "layers": LAYERS, "labels": [2]} | CALL | change
    with pytest.raises(error, match=f"^{message}"):
        grow_smoothed(**call)


def test_channels_first_and_layers_without_pixels(monkeypatch):
    monkeypatch.setattr(run.Choice, "ascend", lambda self, deadline: None)
    layers = jmlv.Layers(np.where(LAYERS.index == 4, 5, LAYERS.index), 6).on((1, 3, 5), (1, 2))
    brief = NoiseSearch(levels=(0.25,), starts=1)
    first = lambda x: f(jnp.transpose(x, (0, 2, 3, 1)))  # noqa: E731
    grown = grow_smoothed(
        first, X.transpose(2, 0, 1), layers, [2], **(CALL | {"looks": 1, "search": brief})
    )
    assert grown.size > 0 and grown.epsilon[4] == 0


def test_a_network_with_gates_is_smoothed():
    from flax import nnx

    from jmlv.models import ResNetConfig, ResNetSizes

    sizes = ResNetSizes(
        (1,),
        (4,),
        squeeze_excite=(True,),
        stem_width=4,
        stem_kernel=3,
        stem_stride=2,
        stem_pool=False,
    )
    network = ResNetConfig((3, 5, 3), sizes, labels=3).build(rngs=nnx.Rngs(0))
    x = np.repeat(X, 3, axis=2)
    label = int(jmlv.as_function(network)(x[None])[0].argmax())
    brief = NoiseSearch(levels=(0.06,), starts=1, steps=2)
    grown = grow_smoothed(
        network, x, LAYERS, [label], k=2, k_prime=1, n=200, key=KEY, search=brief, looks=1
    )
    assert grown.certified and grown.predicted and grown.region.box().upper.shape == x.shape


def test_relations_by_smoothing():
    masks = np.zeros((2, 3, 5), bool)
    masks[0, :, 0], masks[1, :, 4] = True, True
    by = jmlv.Smoothed(KEY, n=1000, search=SEARCH, looks=1)
    relations = jmlv.relation_matrix(f, X, jmlv.Objects(masks, (0, 2)), by=by)
    assert relations.sizes[0, 1] > 0 and relations.rows()[0][-1] == "smoothing"
    assert relations.grown[0][1].layers == jmlv.Layers.around(masks[0])
    assert relations.grown[0][1].labels == (2,) and relations.grown[1][0].labels == (0,)
    assert (relations.grown[0][1].k, relations.grown[0][1].k_prime) == (2, 2)
    assert not np.array_equal(*(relations.grown[i][1 - i].looks[0].counts for i in (0, 1)))
    assert jmlv.label_dependence([relations]).count.sum() == 2
    assert jmlv.plotting.relation_figure(relations).axes
    assert "smoothed classifier" in json.dumps(relations.as_dict())
    absent = jmlv.relation_matrix(f, X, jmlv.Objects(masks, (1, 2)), by=by)
    assert absent.grown[1][0] is None and absent.rows()[1][-1] == "does not hold at x"
    for options in (
        {"strategy": jmlv.Uniform()},
        {"property": lambda label: jmlv.InTopK(label, 2)},
    ):
        with pytest.raises(ValueError, match="^property, strategy, bound: "):
            jmlv.relation_matrix(f, X, jmlv.Objects(masks, (0, 2)), by=by, **options)
    with pytest.raises(TypeError, match="^by: "):
        jmlv.relation_matrix(f, X, jmlv.Objects(masks, (0, 2)), by="smoothing")
