# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Which object depends on which
#
# A network names two digits of one image. Does it look at the left one to name the right one? For every
# pair of objects: how large a layered neighbourhood of the one is certified to keep the other's label?
# Where that is small the label depends on the object; where it is large it provably does not.

# %%
import numpy as np

import jmlv
from jmlv import checkpoints
from jmlv.data import double_digits
from jmlv.neighborhoods import LayerSearch, Objects, label_dependence

model, _ = checkpoints.restore("checkpoints/double_digits_linf")
digits = double_digits("test")
names = digits.label_names

# %% [markdown]
# ## One image

# %%
image = 3
objects = Objects(digits.masks[image], tuple(digits.object_labels[image]))
quick = LayerSearch(tighter=None, complete=None)
result = jmlv.relation_matrix(model, digits.images[image], objects, strategy=quick, budget=8)
print(np.round(result.sizes, 2))
jmlv.plotting.relation_figure(result)

# %% [markdown]
# Row: the object that is changed. Column: the object whose label is kept. An object's own label
# (the diagonal) is lost after a smaller change than the other's, if the network looks where it should.

# %% [markdown]
# ## Over several images
#
# The same by label: what has to change least to lose a digit?

# %%
results = [result]
for image in (4, 5):
    objects = Objects(digits.masks[image], tuple(digits.object_labels[image]))
    results.append(
        jmlv.relation_matrix(model, digits.images[image], objects, strategy=quick, budget=8)
    )
print(label_dependence(results))
