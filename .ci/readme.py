"""README's examples, word for word, with an installed jmlv: ``python readme.py README.md`` in an empty folder.

Leaves ``certificate.npz`` and ``network.onnx``, for ``jmlv-check``.
"""

import pathlib
import re
import sys

import jmlv
import jmlv_check
from jmlv import checkpoints
from jmlv.data import double_digits
from jmlv.interop import write_onnx

LABEL = 3
"""That the example of one's own network asks about."""

own_network, layered = re.findall(
    r"^```python\n(.*?)^```", pathlib.Path(sys.argv[1]).read_text(), re.M | re.S
)
assert pathlib.Path(jmlv.__file__).is_relative_to(sys.prefix), jmlv.__file__

model, _ = checkpoints.restore("checkpoints/double_digits_linf")
digits = double_digits("test")
x = digits.images[jmlv.InTopK(LABEL, k=2).margin(model(digits.images)).argmax()]
write_onnx(model, x.shape, "network.onnx")
names = {"x": x}
exec(own_network, names)
verdict = jmlv.verify(names["f"], names["box"], jmlv.InTopK(LABEL, k=2), certify=True)
assert verdict.robust, verdict
certificate = verdict.certificate.about(jmlv_check.load("network.onnx"))
certificate.save("certificate.npz")

exec(layered, names)
assert names["grown"].verdict.robust, names["grown"]
assert pathlib.Path("heatmap.png").stat().st_size > 1000
