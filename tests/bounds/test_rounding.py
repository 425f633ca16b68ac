"""What bounds that are pulled back are rounded by: planes have no larger terms than is allowed for."""

import jax
import jax.numpy as jnp
import numpy as np

import jmlv
from jmlv.bounds import Interval
from jmlv.bounds.rounding import _softmax_magnitude
from jmlv.bounds.sizes import reach
from jmlv.bounds.softmax import pull_softmax, softmax_interval, softmax_lines
from jmlv.numerics import certificate_precision


def _terms_of_planes(seed, n=5):
    """Magnitudes of functionals that planes of a softmax are pulled back to, what is allowed for them, and
    what would be where a plane of an entry read that entry alone."""
    rng = np.random.default_rng(seed)
    eqn = jmlv.trace(jax.nn.softmax, (n,)).eqns[0]
    middle, width = rng.normal(0, 10.0 ** rng.uniform(-1, 2), (1, n)), 10.0 ** rng.uniform(-3, 1)
    interval = Interval(*map(jnp.asarray, (middle - width, middle + width * rng.random((1, n)))))
    rows = jnp.asarray(np.concatenate([np.eye(n), rng.normal(size=(20, n))])[:, None])
    whole = reach(interval) * (1 + 10 * rng.random((1, n)))
    lines, own = softmax_lines(eqn, interval), jnp.asarray(rng.random((len(rows), 2, 1, n)))
    (pulled,), constant, _ = pull_softmax(eqn, rows, lines, own)
    found = (jnp.abs(pulled) * whole).sum((1, 2)) + jnp.abs(constant)
    upper = softmax_interval(eqn, interval).upper
    allowed = _softmax_magnitude((1,), upper, whole, reach(interval))
    single = upper * (whole + reach(interval) + 2 + np.log(n)) + 1
    return (np.asarray(v) for v in (found, *((jnp.abs(rows) * m).sum((1, 2)) for m in (allowed, single))))  # fmt: skip


def test_planes_of_a_softmax_have_no_larger_terms():
    """Of one entry, and of mixtures; what the other entries add is seen to be missing where it is left out."""
    missing = 0
    with certificate_precision():
        for seed in range(40):
            found, allowed, single = _terms_of_planes(seed)
            assert (found <= allowed).all()
            missing += (found > single).sum()
    assert missing > 0
