# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # An ONNX network from outside
#
# Whatever exports ONNX can be verified. So that this page needs no file of yours, a network is written
# here with the `onnx` package alone, channels first, as PyTorch would write it; then it is read, checked,
# asked, and asked again from the command line in the verification competition's form.

# %%
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import jmlv
from jmlv.interop import read_onnx, write_vnnlib

folder = Path(mkdtemp())
rng = np.random.default_rng(0)


def constant(name, *shape):
    return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)


graph = helper.make_graph(
    [
        helper.make_node("Conv", ["image", "k", "b"], ["c"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "v"], ["scores"], transB=1),
    ],
    "outside",
    [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
    [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 5])],
    [constant("k", 6, 3, 3, 3), constant("b", 6), constant("w", 5, 96), constant("v", 5)],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.save(model, folder / "network.onnx")

# %% [markdown]
# ## Reading it
#
# What comes back is a JAX function in the file's own layout. `check` lists every operation without a
# sound rule: an empty list means that all of jmlv can be used.

# %%
f = read_onnx(folder / "network.onnx")
x = rng.random(f.input_shape).astype(np.float32)
print(f.input_shape, jmlv.check(f, x), np.asarray(f(x[None])).round(2))

# %% [markdown]
# ## Asking
#
# Which label has the second highest score, and how far may all pixels move before it leaves the top two?

# %%
second = int(np.argsort(-np.asarray(f(x[None]))[0])[1])
stays = jmlv.InTopK(second, k=2)
for epsilon in (0.001, 0.01, 0.1):
    print(epsilon, jmlv.verify(f, jmlv.Box.around(x, np.float32(epsilon)), stays, budget=10))

# %% [markdown]
# The radius between the two can be asked for, too: the largest that is proven, and the smallest at which
# an attack succeeds.

# %%
print(jmlv.robust_radius(f, x, stays, norm=np.inf, budget=15))

# %% [markdown]
# ## From the command line
#
# The same question as a VNN-LIB file, which any verifier of the competition reads. `jmlv solve` answers
# `unsat` (no counterexample exists), `sat` with a witness, or `unknown`.

# %%
box = jmlv.Box.around(x, np.float32(0.001))
write_vnnlib(box, stays, 5, folder / "question.vnnlib")
command = [
    sys.executable,
    "-m",
    "jmlv",
    "solve",
    folder / "network.onnx",
    folder / "question.vnnlib",
]
answered = subprocess.run([*command, "--budget", "30"], capture_output=True, text=True)
print(answered.stdout, answered.stderr[-300:])
