"""jmlv: differentiable verification of multi-label neural networks in JAX.

What it offers is listed in ``__init__.pyi``. A name is imported when it is first used, so that a
program waits for what it needs alone.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
