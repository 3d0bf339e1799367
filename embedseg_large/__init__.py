"""Every nucleus or cell of a volume far larger than memory, as one label volume.

The names of ``__init__.pyi`` are the public interface. They are loaded when they are first used, so
that ``import embedseg_large`` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
