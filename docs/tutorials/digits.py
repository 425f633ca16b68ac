# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # From training to a certificate
#
# Two handwritten digits lie side by side in one image, and the network is to name both. We train a small
# one, ask what a change to the left digit may do to the right one's label, grow the neighbourhood in
# which that label is proven, and have the proof checked by a program that shares no code with us.

# %%
from pathlib import Path
from tempfile import mkdtemp

import numpy as np

import jmlv
from jmlv.data import double_digits
from jmlv.models import MLPConfig
from jmlv.training import GaussianNoise, TrainingConfig, top_k_accuracy, train

# %% [markdown]
# The images come from the digits that scikit-learn carries; nothing is fetched. A perceptron with Gaussian noise
# on its images trains in seconds, and is good enough for this page; the networks in `checkpoints/` are better.

# %%
data, test = double_digits(size=32_000), double_digits("test")
trained = train(
    data,
    MLPConfig(data.images.shape[1:], hidden=(100, 50), labels=len(data.label_names)),
    TrainingConfig(epochs=12),
    defence=GaussianNoise(0.1),
)
model = trained.model
print(f"loss {trained.losses[0]:.2f} -> {trained.losses[-1]:.2f}")
print(
    f"both digits in the top two: {top_k_accuracy(model, test.images, test.labels):.0%} of the test images"
)

# %% [markdown]
# ## One question
#
# May every pixel of a test image change by 0.005, and the right digit's label still be among the
# top two?

# %%
top = np.argsort(-np.asarray(model(test.images)), 1)[:, :2]
target = test.object_labels[:, 1]
image = int(np.argmax((top == target[:, None]).any(1)))  # the first one whose right digit it sees
x, target = test.images[image], int(target[image])
stays = jmlv.InTopK(target, k=2)
print(jmlv.verify(model, jmlv.Box.around(x, np.float32(0.005)), stays, budget=20))

# %% [markdown]
# ## The largest neighbourhood of one object
#
# Layers are the pixels at one Chebyshev distance from the left digit, each with an epsilon of its own.
# `grow` finds epsilons whose sum is large and whose neighbourhood is *proven*.

# %%
layers = jmlv.Layers.around(test.masks[image, 0])
grown = jmlv.grow(model, x, layers, stays, budget=20, certify=30)
print(grown)
jmlv.plotting.heatmap(grown, target=test.masks[image, 1])

# %% [markdown]
# ## A proof that does not rest on our word
#
# The certificate is one file of plain arrays. `jmlv-check` reads it with NumPy and Python's integers
# alone, and says what is proven about which network.

# %%
certificate = grown.verdict.certificate
if certificate is None:
    print("none was found in thirty seconds")
else:
    folder = Path(mkdtemp())
    certificate.save(folder / "grown.npz", network=folder / "network.npz")
    print(certificate.check())
