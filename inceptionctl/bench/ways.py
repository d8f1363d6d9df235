"""What takes turns with the training loop in `bench step`, by the names that `--ways` knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inceptionctl.errors import RecipeError

if TYPE_CHECKING:
    from inceptionctl.train.torch_compile import Compile, CompileMode

BARE = "bare"
PARTS, FORMATS, PRODUCTS = "parts", "formats", "products"
TIMM, TIMM_COMPILED = "timm", "timm-compiled"
GRAPHS = "network/cuda-graphs"

COMPILED: dict[str, tuple[Compile, CompileMode]] = {
    "none": ("none", "default"),
    "blocks": ("blocks", "default"),
    "network": ("network", "default"),
    "blocks/max-autotune": ("blocks", "max-autotune"),
    "network/max-autotune": ("network", "max-autotune"),
    GRAPHS: ("network", "cuda-graphs"),
}
OF_ONE_RANK = (PARTS, FORMATS, PRODUCTS)
KNOWN = (BARE, *COMPILED, TIMM, TIMM_COMPILED, *OF_ONE_RANK)


def read_ways(text: str | None, ranks: int) -> tuple[str, ...]:
    """The names in `--ways A,B`, each once and in the order of KNOWN; None is everything that needs neither a compiler nor timm.

    Raises RecipeError for a name that is not KNOWN, and for one of OF_ONE_RANK on several ranks.
    """
    if text is None:
        return OF_ONE_RANK if ranks == 1 else (BARE,)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in KNOWN:
            raise RecipeError(f"--ways {text}: there is no way {name!r}", f"name some of {', '.join(KNOWN)}")
        if name in OF_ONE_RANK and ranks > 1:
            raise RecipeError(f"--ways {name} measures one rank alone, not {ranks}", f"leave {name} out, or measure one rank")
    if not names:
        raise RecipeError("--ways names nothing", f"`--ways {BARE}` is the least: the loop and the bare loop beside it")
    return tuple(name for name in KNOWN if name in names)


def compiles(ways: Sequence[str]) -> bool:
    """Whether any of these calls torch's compiler."""
    return TIMM_COMPILED in ways or any(COMPILED[name][0] != "none" for name in ways if name in COMPILED)


def has_timm(ways: Sequence[str]) -> bool:
    """Whether timm's step is among these."""
    return TIMM in ways or TIMM_COMPILED in ways
