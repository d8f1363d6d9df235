"""Machine code from numba, for what a training on a CPU does to images and weights."""

from __future__ import annotations

from threading import RLock
from typing import Any

from inceptionctl.errors import EnvironmentFault

# numba puts other modules in the place of its own while it is imported, and a second thread finds those halfway. So whoever imports
# it or compiles with it holds this.
COMPILING = RLock()

# Machine code lets other threads of Python go on, and divides by zero as numpy does. Nothing is fused or reordered (`fastmath`): the
# same bits on any processor. Nothing is kept on disk: numba's files are pickles, and processors of two kinds that share a home may
# be given each other's.
OPTIONS = {"nogil": True, "error_model": "numpy"}


def import_numba(purpose: str) -> Any:
    """The package. Raises EnvironmentFault, which says what numba is for (`purpose`), when it cannot be used."""
    try:
        import numba  # here, since only a training on a CPU needs it
    except ImportError as error:
        hint = "install inceptionctl again with what it needs, or train on a GPU; `inceptionctl doctor` lists the packages"
        raise EnvironmentFault(f"numba, which {purpose} on a CPU, cannot be used: {error}", hint) from error
    return numba
