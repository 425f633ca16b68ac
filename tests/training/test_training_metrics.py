"""Metrics of clean images, against their definitions written out by hand."""

import jax
import numpy as np
import pytest
from flax import nnx
from small_training import table

from jmlv.training import (
    classification_metrics,
    mean_average_precision,
    pgd_accuracy,
    predict,
    top_k_accuracy,
)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    labels = rng.random((40, 5)) > 0.6
    labels[:, 4] = False  # a label that never occurs
    labels[:2] = [[True, False, False, False, False], [False] * 5]
    return rng.normal(size=(40, 5)) + labels, labels


def test_hamming_loss_and_f1_count_pairs(case):
    scores, labels = case
    found, predicted = classification_metrics(scores, labels), scores > 0
    assert found.hamming_loss == pytest.approx(np.mean(predicted != labels))
    hits, sums = (predicted & labels).sum(0), predicted.sum(0) + labels.sum(0)
    assert found.micro_f1 == pytest.approx(2 * hits.sum() / sums.sum())
    assert found.macro_f1 == pytest.approx(np.mean(2 * hits / np.maximum(sums, 1)))


def test_ranking_loss_and_average_precision_are_means_over_images(case):
    scores, labels = case
    losses, precisions = [], []
    for score, label in zip(scores, labels):
        true, other = score[label], score[~label]
        wrong = [s <= o for s in true for o in other]
        losses.append(np.mean(wrong) if wrong else 0.0)
        shares = [(true >= s).sum() / (score >= s).sum() for s in true]
        precisions.append(np.mean(shares) if shares else 1.0)
    found = classification_metrics(scores, labels)
    assert found.ranking_loss == pytest.approx(np.mean(losses))
    assert found.average_precision == pytest.approx(np.mean(precisions))


def test_map_is_a_mean_over_labels_that_occur(case):
    scores, labels = case
    areas = []
    for score, label in zip(scores.T[:4], labels.T[:4]):
        ranked = label[np.argsort(-score)]
        areas.append((np.cumsum(ranked) / np.arange(1, 41))[ranked].mean())
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(areas))


def test_perfect_scores_are_perfect():
    labels = np.eye(3, dtype=bool)
    found = classification_metrics(labels * 2.0 - 1, labels)
    assert (found.hamming_loss, found.ranking_loss) == (0, 0)
    assert found.micro_f1 == found.macro_f1 == found.average_precision == 1
    assert found.mean_average_precision == 1


def test_predictions_of_batches_are_those_of_the_whole():
    data = table(300)
    scores = predict(lambda x: x.reshape(x.shape[0], -1)[:, :3], data)
    assert np.array_equal(scores, data.images[:, 0, :3, 0])


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.ones((2, 2), bool), "scores: got shape"),
        (np.full((2, 2), np.nan), np.ones((2, 2), bool), "scores: not all are finite"),
        (np.zeros((2, 2)), np.zeros((2, 2), bool), "labels: no image has a label"),
    ],
)
def test_impossible_arguments_are_named(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        classification_metrics(scores, labels)


def test_a_module_is_measured_in_evaluation_mode_and_left_as_it_is():
    data = table(64)
    model = nnx.Sequential(
        lambda x: x.reshape(len(x), -1),
        nnx.BatchNorm(int(np.prod(data.images.shape[1:])), rngs=nnx.Rngs(0)),
        nnx.Dropout(0.5, rngs=nnx.Rngs(1)),
        nnx.Linear(int(np.prod(data.images.shape[1:])), data.labels.shape[1], rngs=nnx.Rngs(2)),
    )
    model.train()
    before = np.asarray(model.layers[1].mean[...])
    key = jax.random.key(0)
    measures = [
        lambda f: predict(f, data),
        lambda f: top_k_accuracy(f, data.images, data.labels),
        lambda f: pgd_accuracy(f, data.images, data.labels, 0.01, 2, key),
    ]
    found = [measure(model) for measure in measures]
    assert not model.layers[1].use_running_average and np.array_equal(
        before, model.layers[1].mean[...]
    )
    model.eval()
    for value, measure in zip(found, measures):
        assert np.array_equal(value, measure(model))
