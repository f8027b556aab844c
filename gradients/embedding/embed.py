"""One name for all approaches: `embed(affinity, approach=...)`.

dm   diffusion map (Coifman & Lafon 2006), the one of the gradient literature      diffusion.py
le   Laplacian eigenmaps (Belkin & Niyogi 2003), normalized                        laplacian.py
pca  principal components of the affinity                                          pca.py
"""

from typing import Any, Literal, get_args

from bjepa.gradients.embedding.diffusion import diffusion_map
from bjepa.gradients.embedding.eigenpairs import Solver
from bjepa.gradients.embedding.embedding import Embedding
from bjepa.gradients.embedding.laplacian import laplacian_eigenmaps
from bjepa.gradients.embedding.pca import principal_components
from bjepa.preproc.errors import InputError

Approach = Literal["dm", "le", "pca"]
APPROACHES: tuple[Approach, ...] = get_args(Approach)
DM_DEFAULTS: dict[str, Any] = {"alpha": 0.5, "diffusion_time": 0, "scale_by_eigenvalues": True}


def embed(
    affinity: Any,
    *,
    approach: Approach = "dm",
    n_components: int = 30,
    alpha: float | None = None,
    diffusion_time: float | None = None,
    scale_by_eigenvalues: bool | None = None,
    keep_largest: bool = False,
    solver: Solver = "auto",
) -> Embedding:
    """Components of an affinity matrix (R, R), dense or scipy sparse, by one of APPROACHES.

    Parameters
    ----------
    alpha, diffusion_time, scale_by_eigenvalues
        Of `diffusion_map` only; None: 0.5, 0, True.
    n_components, keep_largest, solver
        As in `diffusion_map`.

    Raises
    ------
    InputError
        Another approach; an option that it does not have; as the function of the approach.
    """
    given = {"alpha": alpha, "diffusion_time": diffusion_time, "scale_by_eigenvalues": scale_by_eigenvalues}
    check_approach(approach, **given)
    if approach == "le":
        return laplacian_eigenmaps(
            affinity, n_components=n_components, keep_largest=keep_largest, solver=solver
        )
    if approach == "pca":
        return principal_components(
            affinity, n_components=n_components, keep_largest=keep_largest, solver=solver
        )
    own = DM_DEFAULTS | {name: value for name, value in given.items() if value is not None}
    return diffusion_map(affinity, n_components=n_components, keep_largest=keep_largest, solver=solver, **own)


def check_approach(approach: str, **options: float | bool | None) -> None:
    """Refuse another approach, and options (by name) given to one that does not have them."""
    if approach not in APPROACHES:
        raise InputError(f"approach must be one of {APPROACHES}, got {approach!r}.")
    given = [name for name, value in options.items() if value is not None]
    if given and approach != "dm":
        raise InputError(
            f"{', '.join(given)}: approach {approach!r} has no such option; a diffusion map (dm) has.",
            hint=f"Leave {'it' if len(given) == 1 else 'them'} out, or use the approach dm.",
        )
