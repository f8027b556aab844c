"""Random maps that are as smooth as a given one: the spatial null models of BrainSpace, fed with our regions.

spin       the cortex is a sphere: a map is turned by a random rotation, the other hemisphere by its mirror
           image, and every parcel takes the value of the nearest turned one (Alexander-Bloch et al. 2018,
           doi:10.1016/j.neuroimage.2018.05.070; nearest parcel: Vázquez-Rodríguez et al. 2019,
           doi:10.1073/pnas.1905694116). Places: centres of the regions' vertices on the fs_LR 32k sphere. The
           medial wall belongs to no region, so it takes no value and gives none
variogram  values are permuted, then smoothed over neighbours, so that differences between regions grow with
           their distance as in the map (Burt et al. 2020, doi:10.1016/j.neuroimage.2020.117038). For regions
           anywhere. Distance: straight, between centres (mm), the right hemisphere mirrored onto the left

Why mirrored: maps of the brain are nearly the same on both sides. With true distances the random maps would
be less alike left and right than the map, as if it had more independent regions, and p too small.

R regions, n permutations.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.parcels import schaefer_positions
from bjepa.gradients.figures.surfaces import FSLR_VERTICES, SCHAEFER_ON_FSLR, surface_labels
from bjepa.gradients.regions import Regions
from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
MIN_REGIONS = 10  # with values; the nearest tenth of the regions is the least smoothing of the variogram
MAX_VARIOGRAM = 2000  # regions; it holds nine matrices of them
_BLOCK = 100  # rotations made at a time


@dataclass(frozen=True)
class Sphere:
    """Regions of the cortex and their centres on the unit sphere, left and right."""

    rows: list[NDArray[np.intp]]  # regions of each hemisphere
    centres: list[Array]  # (regions, 3)

    def holds(self, n_rois: int) -> NDArray[np.bool_]:
        """(R,) whether a region has a place."""
        inside = np.zeros(n_rois, dtype=np.bool_)
        inside[np.concatenate(self.rows)] = True
        return inside


def sphere_of(regions: Regions) -> Sphere | None:
    """Places of cortical regions; None where they are no Schaefer parcels, fs_LR vertices or CIFTI labels."""
    import nibabel as nib

    n_rois = len(regions.table)
    parcels = schaefer_positions(regions, "7networks")
    known = parcels is not None and parcels[0] in SCHAEFER_ON_FSLR
    if not (known or regions.dlabel is not None or n_rois in (FSLR_VERTICES, 2 * FSLR_VERTICES)):
        return None
    surface = surface_labels(replace(regions, labels_img=None))  # a volume would be projected: approximate
    if surface is None or surface.mesh != "fs_LR 32k":
        return None
    sums, counts = np.zeros((2, n_rois + 1, 3)), np.zeros((2, n_rois + 1))
    for hemisphere in surface.hemispheres:
        side = "lr".index(hemisphere.side[0])
        file = brainspace_datasets() / "surfaces" / f"conte69_32k_{hemisphere.side[0]}h_sphere.gii"
        vertices = nib.load(file).darrays[0].data.astype(np.float64)
        np.add.at(sums[side], hemisphere.labels, vertices)
        np.add.at(counts[side], hemisphere.labels, 1)
    counts[:, 0] = 0  # the medial wall
    is_left = counts[0] >= counts[1]
    rows, centres = [], []
    for side, here in enumerate((is_left, ~is_left)):
        own = np.flatnonzero(here & (counts[side] > 0))
        if len(own):
            rows.append(own - 1)
            centres.append(sums[side, own] / np.linalg.norm(sums[side, own], axis=1, keepdims=True))
    return Sphere(rows, centres)


def spun_rows(sphere: Sphere, *, n_permutations: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """Blocks (b, N) of the rows that the N regions of the sphere take their values from; n in all.

    The N regions are those of `sphere.rows`, one hemisphere after the other.
    """
    from brainspace.null_models import SpinPermutations

    starts = range(0, n_permutations, _BLOCK)
    for start, state in zip(starts, np.random.SeedSequence(seed).generate_state(len(starts)), strict=True):
        spin = SpinPermutations(n_rep=min(_BLOCK, n_permutations - start), random_state=int(state))
        spin.fit(*sphere.centres)
        turned = [spin.spin_lh_] if len(sphere.rows) == 1 else [spin.spin_lh_, spin.spin_rh_]
        yield np.concatenate([own[index] for own, index in zip(sphere.rows, turned, strict=True)], axis=1)


def variogram_surrogates(values: Array, centres: Array, *, n_permutations: int, seed: int) -> Array:
    """(n, regions) random maps with the variogram of `values` (regions,); `centres` (regions, 3) in mm.

    The numbers are those of BrainSpace's SurrogateMaps. It computes weights that depend on distances alone
    anew for each of the nine smoothings of each map; here they are computed once: about 20 times faster.
    """
    from brainspace.null_models import SurrogateMaps
    from scipy.spatial.distance import cdist
    from threadpoolctl import threadpool_limits

    if len(values) > MAX_VARIOGRAM:
        raise InputError(
            f"the null model variogram is for {MAX_VARIOGRAM} regions or fewer, got {len(values)}.",
            hint="Average the maps over the parcels of an atlas.",
        )
    mirrored = np.column_stack([np.abs(centres[:, 0]), centres[:, 1:]])
    maps = SurrogateMaps(n_rep=n_permutations, random_state=seed)
    maps.fit(cdist(mirrored, mirrored))
    _make_quick(maps)
    with threadpool_limits(1, user_api="blas"):  # products are small
        surrogates: Array = np.asarray(maps.randomize(values - values.mean()))
    return surrogates


def _make_quick(maps: Any) -> None:
    """Give a fitted SurrogateMaps its steps as products with matrices that are made once."""
    near, steps, width = maps._uidx, maps._h, maps.b
    weights = np.exp(-np.square(2.68 * (maps._u[near] - steps[:, None]) / width) / 2)  # (steps, near pairs)
    weights /= weights.sum(axis=1, keepdims=True)
    first, second = (edge[near] for edge in maps._triu)
    smoothing = {}
    for share in maps.deltas:
        kernel = maps.kernel(maps._dkn[share])  # (regions, neighbours)
        smoothing[share] = np.zeros((maps.nmap, maps.nmap))
        np.put_along_axis(
            smoothing[share], maps._jkn[share], kernel / kernel.sum(axis=1, keepdims=True), axis=1
        )

    def compute_variogram(x: Array) -> Array:  # of near pairs only
        x = np.asarray(x)
        difference: Array = x[first] - x[second]
        return 0.5 * difference**2

    def regress(x: Array, y: Array) -> tuple[float, float, float]:  # one predictor
        x_centred, y_centred = x - x.mean(), y - y.mean()
        beta = (x_centred @ y_centred) / (x_centred @ x_centred)
        residual = y_centred - beta * x_centred
        return y.mean() - beta * x.mean(), beta, residual @ residual

    maps.compute_variogram, maps.regress = compute_variogram, regress
    maps.smooth_variogram = lambda v: weights @ v
    maps.smooth_map = lambda x, delta: smoothing[delta] @ np.asarray(x)
