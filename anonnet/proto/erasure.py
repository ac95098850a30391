"""The erasure code of `zfec`: any k of n shares give the k data shares back.

Its C module alone: the package's own `__init__` imports its command line too, argparse and all, and each of a
node's processes would hold that.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, Final


def _load() -> Any:
    package = PathFinder.find_spec("zfec")
    spec = package and PathFinder.find_spec("zfec._fec", package.submodule_search_locations)
    if not spec or not spec.loader:
        raise ModuleNotFoundError("No module named 'zfec'", name="zfec")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_fec: Final = _load()
Encoder: Final = _fec.Encoder
Decoder: Final = _fec.Decoder
