"""Attacks on inputs of any shape and range stay in their domain, as those on images stay in [0, 1]."""

import numpy as np
import pytest
from attack_problems import X, net

from jmlv.attacks import MIFGSM, MLALP, MLCW, FlipAll, MLDeepFool, attack
from jmlv.attacks.methods import PGD

METHODS = {
    "mifgsm": MIFGSM(),
    "mlalp": MLALP(2),
    "mlcw": MLCW(20, 2, 10.0),
    "mldeepfool": MLDeepFool(),
    "pgd l2": PGD("l2", steps=5, restarts=2),
}
LEAST, WIDTH = -1.0, np.linspace(1, 3, 48, dtype=np.float32)
FLAT = X.reshape(len(X), -1) * WIDTH + np.float32(LEAST)


def stretched(x):
    """The network of flat inputs between -1 and numbers that differ from entry to entry."""
    return net((x - LEAST) / WIDTH)


@pytest.mark.parametrize("name", METHODS)
def test_no_input_leaves_its_domain(name):
    domain = (LEAST, LEAST + WIDTH)
    chosen = np.arange(48) % 3 > 0
    result = attack(
        stretched, FLAT, FlipAll(), METHODS[name], budgets=(0.01, 5.0), mask=chosen, domain=domain
    )
    assert result.images.shape == (2, *FLAT.shape)
    assert (result.images >= domain[0]).all() and (result.images <= domain[1]).all()
    np.testing.assert_array_equal(result.images[..., ~chosen], np.stack([FLAT, FLAT])[..., ~chosen])
    assert result.linf[0].max() <= 0.01 or result.method.norm == "l2"
    assert result.images.max() > 1 and (result.images[1] != FLAT).any()


def test_without_a_domain_nothing_is_clipped():
    result = attack(stretched, FLAT, FlipAll(), PGD(steps=3), budgets=[9.0], domain=None)
    assert result.images.min() < LEAST - 1 and result.images.max() > LEAST + 3
    with pytest.raises(ValueError, match="domain: this method searches a finite range"):
        attack(stretched, FLAT, FlipAll(), MLCW(5, 1, 10.0), domain=None)


def test_the_same_attack_channel_first():
    order, back = (0, 3, 1, 2), (0, 2, 3, 1)
    method = PGD(steps=3, restarts=1)
    last = attack(net, X, FlipAll(), method, budgets=[0.1])
    moved = X.transpose(order)
    first = attack(lambda x: net(x.transpose(back)), moved, FlipAll(), method, budgets=[0.1])
    assert first.images.shape == (1, 6, 3, 4, 4)
    np.testing.assert_allclose(first.images[0].transpose(back), last.images[0], atol=1e-6)


def test_inputs_and_masks_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="x: values must lie in"):
        attack(stretched, FLAT, FlipAll(), PGD(), budgets=[0.1])
    with pytest.raises(ValueError, match="mask: shape"):
        attack(stretched, FLAT, FlipAll(), PGD(), budgets=[0.1], mask=np.ones((4, 4)), domain=None)
    with pytest.raises(ValueError, match="x: expected"):
        attack(net, X[0, 0, 0], FlipAll(), PGD(), budgets=[0.1])
