r"""ReLUs that read the input box directly, bounded from above in all their pixels at once.

``max(x, c)`` is ``c + relu(x - c)``: here a rounding of the size of ``c`` is harmless, since planes are
taken only where ``c`` lies within the bounds on ``x``.

For ``y = relu(w . v + b)`` over a box ``m - r <= v <= m + r`` the chord of the scalar ``w . v + b``
forgets that the pixels vary on their own. Write ``c_i = 2 |w_i| r_i`` and let ``rho_i`` in [0, 1] be
how far pixel ``i`` is on its way from its worst to its best end, so that

    w . v + b = u - sum_i c_i (1 - rho_i),        u = b + w . m + |w| . r.

For any *shares* ``t_i`` in [0, 1] and ``S = sum_i c_i t_i``

    y  <=  sum_i t_i c_i rho_i + max(0, u - S)  =  sum_i t_i w_i (v_i - m_i) + S / 2 + max(0, u - S):

the right side is not negative, and it exceeds ``w . v + b`` by at least
``max(0, u - S) - u + sum_i c_i (1 - rho_i + t_i rho_i) >= max(0, u - S) - u + S >= 0``, since
``1 - rho_i + t_i rho_i >= t_i``. With all shares equal and ``S = u`` it is CROWN's chord; the
shares with ``S = u`` together describe the convex hull of ``y`` over the box exactly. Here they
are optimised with the slopes of alpha-CROWN, for every row of its own.

Source: the hull is that of Anderson et al., *Strong mixed-integer programming formulations for
trained neural networks*, Mathematical Programming 2020, and Tjandraatmadja et al., *The Convex
Relaxation Barrier, Revisited*, NeurIPS 2020. New here: its form by shares, which any values in
[0, 1] make valid, so that projected gradient steps need no separation and run in batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jmlv.bounds.functionals import Functional, Whole, Window, crop, flat_sum
from jmlv.bounds.lines import Lines, admissible
from jmlv.bounds.method import Interval
from jmlv.bounds.windows import is_plain_convolution, kernel_of, lay_pieces
from jmlv.graph import Equation, Graph, Variable
from jmlv.graph.independent import independent
from jmlv.graph.ir import Literal, prefix, read
from jmlv.graph.operations import is_maximum, is_relu, knee_of

LARGEST = 2**15
"""Shares of one row, beyond which CROWN's chord is taken: rows over a whole convolutional layer gain
little (0.04 of 1.48 in the mean row of a published network) and cost as much as all inner neurons."""

Weights = tuple[Float[Array, "row 1 h w output"], Float[Array, "row h w output entry"]]
"""The lower weights of each row, and its shares."""


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("kernel", "middle", "radius", "bias", "knee"),
    meta_fields=("affine", "operand"),
)
@dataclasses.dataclass(frozen=True)
class FirstLayer:
    """The affine operation under a first ``max(x, c)``, as one kernel at every position.

    A matrix product has one position, at which all entries are read.

    Attributes:
        kernel: the weights, the same at every position; their first axes are the patch that is read.
        middle, radius: of the box of the entries that a position reads; zero in padding.
        bias: what is added at each position.
        knee: the ``c``, zero where it is minus infinity; None for a ReLU.
        affine: the convolution or matrix product.
        operand: what it reads: the input, moved element by element at most.
    """

    kernel: Float[Array, "*patch output"]
    middle: Float[Array, "height width entry"]
    radius: Float[Array, "height width entry"]
    bias: Float[Array, "height width output"]
    knee: Float[Array, "height width output"] | None
    affine: Equation
    operand: Variable

    @property
    def weights(self) -> Float[Array, "output entry"]:
        return self.kernel.reshape(-1, self.kernel.shape[-1]).T

    def fits(self, functional: Functional) -> bool:
        """Whether shares for every output and entry are few enough."""
        return functional.rows[0].size * math.prod(self.kernel.shape[:-1]) <= LARGEST

    def pull(
        self, eqn: Equation, functional: Functional, lines: Lines, own: Weights | None
    ) -> tuple[dict[Variable, Functional], Float[Array, " row"], Weights]:
        """Pulls functionals of the maximum to the operand.

        Args:
            eqn: the maximum.
            functional: of its output.
            lines: around it; stable neurons keep theirs.
            own: each row's own lower weights and shares, or None for those of ``lines``.

        Returns:
            Functionals of the operand, the constant of each row, and the weights and shares used.
        """
        window = self._window(functional)
        low, high = (
            crop(line.reshape(self.bias.shape), window)
            for line in (lines.lower_weights, lines.upper_weights)
        )
        lower, shares = (low[:, None], high[..., None]) if own is None else own
        lower = admissible(eqn, lower, low[:, None], high[:, None])
        planes = (window.rows < 0) & (low != high)
        along = jnp.where(planes, 0, window.rows * jnp.where(window.rows > 0, lower[:, 0], high))
        shares = jnp.where(jnp.isnan(high)[..., None], jnp.nan, shares)
        above = window._replace(rows=jnp.where(planes, window.rows, 0))
        pieces, offset, shares = self._above(above, shares)
        pieces += jnp.einsum("rhwo,oe->rhwe", along, self.weights, precision="highest")
        offset += flat_sum(along * crop(self.bias, window))
        if self.knee is not None:
            offset += self._at_knee(window, lower[:, 0], planes, lines)
        return {self.operand: self._placed(pieces, window)}, offset, (lower, shares)

    def _at_knee(self, window: Window, lower: Array, planes: Array, lines: Lines) -> Array:
        """What lower lines, planes and the lines of stable neurons add for a knee beside zero."""
        knee, stable = (
            crop(v.reshape(self.bias.shape), window) for v in (self.knee, lines.upper_constant)
        )
        above = jnp.where(planes, knee, stable)
        return flat_sum(window.rows * jnp.where(window.rows > 0, (1 - lower) * knee, above))

    def _above(self, window: Window, shares: Array) -> tuple[Array, Array, Array]:
        """The planes above times rows that are not positive: pieces, constants and shares used."""
        weights, size = self.weights, jnp.abs(self.weights)
        bias = self.bias if self.knee is None else self.bias - self.knee
        middle, radius, bias = (crop(v, window) for v in (self.middle, self.radius, bias))
        most = bias + _each(middle, weights) + _each(radius, size)
        shares = jnp.broadcast_to(shares, (*window.rows.shape, size.shape[1]))
        total = 2 * _weighed(shares * size, radius)
        scale = jnp.where(total > 0, jnp.maximum(most, 0) / jnp.where(total > 0, total, 1), 1)
        shares = jnp.clip(shares * lax.stop_gradient(scale)[..., None], 0, 1)
        total = 2 * _weighed(shares * size, radius)
        rows = window.rows
        pieces = jnp.einsum("rhwo,rhwoe->rhwe", rows, shares * weights, precision="highest")
        offset = flat_sum(rows * _constant(total, most))
        return pieces, offset - flat_sum(pieces * middle), shares

    def _window(self, functional: Functional) -> Window:
        if isinstance(functional, Window):
            return functional
        count = functional.rows.shape[0]
        return Window(
            functional.rows.reshape(count, *self.bias.shape), jnp.zeros((count, 2), jnp.int32)
        )

    def _placed(self, pieces: Array, window: Window) -> Functional:
        if not is_plain_convolution(self.affine):
            return Whole(pieces.reshape(-1, *self.operand.shape))
        pieces = pieces.reshape(*pieces.shape[:3], *self.kernel.shape[:-1])
        return lay_pieces(pieces, self.affine, window.corner, self.operand)


def _constant(total: Array, most: Array) -> Array:
    """Of a plane whose shares weigh ``S`` in total, around the box's middle."""
    return total / 2 + jnp.maximum(0, most - total)


def _each(entries: Float[Array, "r h w entry"], weights: Float[Array, "output entry"]) -> Array:
    return jnp.einsum("rhwe,oe->rhwo", entries, weights, precision="highest")


def _weighed(weights: Float[Array, "r h w output entry"], entries: Array) -> Array:
    return jnp.einsum("rhwoe,rhwe->rhwo", weights, entries, precision="highest")


def first_layers(graph: Graph, box: Interval) -> dict[int, FirstLayer]:
    """The first layer under every ``max(x, c)`` that has one of a known form, by its output.

    Known are a convolution without groups and a matrix product, of the input moved element by
    element, followed by factors and terms that are the same at every position (a bias, a batch
    norm).

    Args:
        graph: the network, or a part of it.
        box: the input, arrays of shape (1, height, width, channel).
    """
    producers = {eqn.outvar: eqn for eqn in graph.eqns}
    unmixed = independent(graph)
    found = {}
    for eqn in graph.eqns:
        if is_maximum(eqn):
            affine = _affine_under(graph, eqn.invars[0], producers)
            if affine is not None and affine.invars[0] in unmixed:
                found[eqn.outvar.index] = _first_layer(graph, eqn, affine, box)
    return found


def _affine_under(
    graph: Graph, source: Variable, producers: Mapping[Variable, Equation]
) -> Equation | None:
    """The convolution or matrix product that a variable comes from by factors and terms alone."""
    eqn = producers.get(source)
    while eqn is not None and eqn.primitive in (lax.add_p, lax.mul_p, lax.div_p, lax.neg_p):
        inputs = graph.inputs_of(eqn)
        others = [v for v in eqn.invars if v not in inputs]
        if len(inputs) != 1 or not all(_same_everywhere(v, eqn.outvar) for v in others):
            return None
        eqn = producers.get(inputs[0])
    known = eqn is not None and (is_plain_convolution(eqn) or is_matrix_product(eqn))
    return eqn if known and graph.inputs_of(eqn) == eqn.invars[:1] else None


def _same_everywhere(constant: Variable | Literal, output: Variable) -> bool:
    return math.prod(constant.shape) in (1, math.prod(constant.shape[-1:])) and (
        constant.shape[-1:] in ((), (1,), output.shape[-1:])
    )


def is_matrix_product(eqn: Equation) -> bool:
    """(1, n) times (n, m)."""
    plain = eqn.primitive is lax.dot_general_p and len(eqn.invars[0].shape) == 2
    return plain and eqn.params["dimension_numbers"] == (((1,), (0,)), ((), ()))


def _first_layer(graph: Graph, eqn: Equation, affine: Equation, box: Interval) -> FirstLayer:
    constants = graph.constants()
    kernel, operand = read(constants, affine.invars[1]), affine.invars[0]
    ends = [prefix(graph, operand)(side) for side in box]
    low, high = jnp.minimum(*ends), jnp.maximum(*ends)
    if is_plain_convolution(affine):
        kernel = kernel_of(affine, constants)
    patches = partial(entries_read, affine, kernel.shape[:-1])
    shift, scale = _after(graph, eqn.invars[0], affine)
    place = (*_grid(affine), -1)
    return FirstLayer(
        kernel * scale,
        patches((low + high) / 2),
        patches((high - low) / 2),
        shift.reshape(place),
        None if is_relu(eqn) else _finite_knee(graph, eqn).reshape(place),
        affine,
        operand,
    )


def _finite_knee(graph: Graph, eqn: Equation) -> Array:
    knee = jnp.broadcast_to(knee_of(graph, eqn), eqn.outvar.shape)
    return jnp.where(jnp.isfinite(knee), knee, 0)


def _after(graph: Graph, source: Variable, affine: Equation) -> tuple[Array, Array]:
    """What follows the affine operation up to a variable: a term, and a factor for each output."""
    rest = dataclasses.replace(graph.structure, invars=(affine.outvar,), outvars=(source,))
    reachable = {affine.outvar}
    eqns = []
    for eqn in graph.eqns:
        if reachable & set(eqn.invars) and eqn is not affine:
            reachable.add(eqn.outvar)
            eqns.append(eqn)
    after = prefix(Graph(dataclasses.replace(rest, eqns=tuple(eqns)), graph.consts), source)
    zero = jnp.zeros(affine.outvar.shape, graph.dtype)
    shift, scale = jax.jvp(after, (zero,), (jnp.ones_like(zero),))
    return shift, scale.reshape(-1, scale.shape[-1])[0]


def _grid(affine: Equation) -> tuple[int, int]:
    return affine.outvar.shape[1:3] if is_plain_convolution(affine) else (1, 1)


def entries_read(affine: Equation, patch: tuple[int, ...], values: Array) -> Array:
    """The entries that each position reads, zero in padding: (height, width, entry)."""
    if not is_plain_convolution(affine):
        return values.reshape(1, 1, -1)
    entries = math.prod(patch)
    outputs, features, *spatial = affine.params["dimension_numbers"].rhs_spec
    kernel = jnp.eye(entries, dtype=values.dtype).reshape(*patch, entries)
    order = [0] * 4
    for axis, place in enumerate((*spatial, features, outputs)):
        order[place] = axis
    return affine.bind(values, jnp.transpose(kernel, order))[0]
