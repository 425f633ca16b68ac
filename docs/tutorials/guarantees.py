# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Proof beside attack
#
# An attack says: at least so many labels can be changed. A proof says: at most so many. Randomized
# smoothing says: with high probability at least so many stay, of the network under noise. This page puts
# the three beside each other for one image.

# %%
import jax
import numpy as np

import jmlv
from jmlv import checkpoints
from jmlv.data import double_digits
from jmlv.guarantees import GuaranteeTable
from jmlv.smoothing import certified_intersection_size, sample_counts

model, _ = checkpoints.restore("checkpoints/double_digits_linf")
digits = double_digits("test")
x, labels = digits.images[3], digits.object_labels[3]

# %% [markdown]
# ## How many of the top two can be taken at once?

# %%
for epsilon in (0.005, 0.02, 0.05):
    box = jmlv.Box.around(x, np.float32(epsilon))
    print(epsilon, jmlv.flips(model, box, jmlv.TopK(2), x=x, budget=15).removed)

# %% [markdown]
# Where both bounds are equal the count is exact: no attack can do better, and one does as much.
#
# ## The true labels, over the radius, in l2

# %%
noisy, _ = checkpoints.restore("checkpoints/double_digits_noise")
radii = (0.05, 0.1, 0.2)
kept = [
    [jmlv.kept(noisy, jmlv.Ball(x, radius), tuple(labels), 2, x=x, budget=8)] for radius in radii
]
counts = sample_counts(noisy, x, sigma=0.25, n=1000, k_prime=2, key=jax.random.key(0))
smoothed = certified_intersection_size(
    counts, 1000, digits.labels[3], radius=np.array(radii), k=2, k_prime=2, sigma=0.25, alpha=0.001
)

# %%
table = GuaranteeTable.of(radii, kept, {"MultiGuard": np.reshape(smoothed, (len(radii), 1))})
table = table.nested()  # what is proven of a ball holds in every smaller one
for row in table.rows():
    print(row)
jmlv.plotting.guarantees(table, radius="l2 radius", title="true labels that stay in the top two")

# %% [markdown]
# The band between attacked and proven is what nobody knows yet. Smoothing's line is about another
# classifier, the network under Gaussian noise, and holds with probability 0.999: that it may lie
# above the attacked line is no contradiction.
