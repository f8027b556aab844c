"""Which regions a prediction rests on, by captum.

integrated_gradients   Sundararajan et al. 2017 (arXiv 1703.01365): (x - x0) times the gradient, averaged on
                       the straight path from a baseline x0. Adds up to f(x) - f(x0). With several baselines
                       (windows of other participants), their mean: expected gradients (Erion et al. 2021,
                       doi:10.1038/s42256-021-00343-w)
occlusion              f(x) - f(x with one region put to the baseline); each region by itself

Both give a signed value a region, in units of the output: integrated gradients summed over the frames. The
magnitude of a region is its sum of |attribution| over frames (integrated gradients), or |change| (occlusion).

captum's GradientShap is not used: it draws from torch's and numpy's global generators. With baselines drawn
here, integrated gradients estimates the same quantity, the same way twice.

B windows, R regions, L frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bjepa.model.explain.output_network import OutputNetwork
from bjepa.model.explain.windows import Window
from bjepa.preproc.errors import InputError

METHODS = ("integrated-gradients", "occlusion")
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """Of one window; (R,) float64, NaN in missing regions."""

    signed: Array  # units of the output
    magnitude: Array  # the same units, 0 or more
    change: float  # output minus output of the baseline
    gap: float  # sum of `signed` minus `change`: 0 if the path of integrated gradients has enough points


def attribute(
    network: OutputNetwork,
    window: Window,
    *,
    method: str,
    baselines: Sequence[NDArray[np.float32]],
    n_steps: int,
    batch_size: int,
) -> Attribution:
    """Attribute the output of a network for one window.

    Parameters
    ----------
    baselines
        (R, L) each, in the scale of the window: zeros are the regions' medians.
    n_steps
        Points on the path of integrated gradients (Gauss-Legendre).
    batch_size
        Windows in one pass; changes memory, not the result.
    """
    x, present, t_r = window.tensors(next(network.encoder.parameters()).device)

    def output(x_BRL: Tensor) -> Tensor:
        n = len(x_BRL)
        return network(x_BRL, present.expand(n, -1), t_r.expand(n))

    signed = np.zeros(len(window.valid_R))
    magnitude = np.zeros(len(window.valid_R))
    for baseline in baselines:
        x0 = torch.from_numpy(baseline)[None].to(x)
        if method == "integrated-gradients":
            values = _integrated_gradients(output, x, x0, n_steps=n_steps, batch_size=batch_size)
            signed += values.sum(axis=1) / len(baselines)
            magnitude += np.abs(values).sum(axis=1) / len(baselines)
        else:
            values = _occlusion(output, x, x0, batch_size=batch_size)
            signed += values / len(baselines)
            magnitude += np.abs(values) / len(baselines)
    with torch.no_grad():
        before = [float(output(torch.from_numpy(baseline)[None].to(x))[0]) for baseline in baselines]
        change = float(output(x)[0]) - float(np.mean(before))
    gap = float(signed.sum()) - change
    signed[~window.valid_R] = magnitude[~window.valid_R] = np.nan
    return Attribution(signed=signed, magnitude=magnitude, change=change, gap=gap)


def _integrated_gradients(
    output: Callable[[Tensor], Tensor], x: Tensor, x0: Tensor, *, n_steps: int, batch_size: int
) -> Array:
    """(R, L)."""
    found = (
        captum_attr()
        .IntegratedGradients(output)
        .attribute(x, baselines=x0, n_steps=n_steps, method="gausslegendre", internal_batch_size=batch_size)
    )
    values: Array = found[0].detach().double().cpu().numpy()
    return values


@torch.no_grad()
def _occlusion(
    output: Callable[[Tensor], Tensor],
    x: Tensor,
    x0: Tensor,
    *,
    batch_size: int,
) -> Array:
    """(R,): captum gives the change of a feature to all of its frames. A missing region changes nothing."""
    number_R = torch.arange(x.shape[1], device=x.device)
    found = (
        captum_attr()
        .FeatureAblation(output)
        .attribute(
            x,
            baselines=x0,
            feature_mask=number_R[None, :, None].expand_as(x),
            perturbations_per_eval=batch_size,
        )
    )
    change: Array = found[0, :, 0].double().cpu().numpy()
    return change


def captum_attr() -> Any:
    """The module `captum.attr`; InputError where captum is not installed."""
    try:
        import captum.attr
    except ImportError as error:
        raise InputError(
            "Attribution needs the package captum, which is not installed.",
            hint="pip install 'bjepa[explain]', or leave --target out: attention needs no captum.",
        ) from error
    return captum.attr
