"""`--align-to hcp`: the published gradients of the Human Connectome Project, for Schaefer parcels.

Order of operations (N = 100, 200, 300 or 400 parcels, R regions, C components):
  1. match      regions to parcels, by name
  2. own        our exact gradients of the HCP group connectivity (N x N), with the options of the run. It is
                treated as scans are: Fisher z, diagonal 0
  3. published  gradients 1 and 2 of the same cohort (fsLR 32k vertices), averaged over parcels
  4. turn       our first ten components so that the first two lie nearest to the published maps
  5. place      the rows of the parcels; other regions (subcortex) have none: NaN

So the reference has as many components as ours, and the published meaning of the first two:
  1  from unimodal (somatomotor, visual: negative) to transmodal regions (default mode network: positive)
  2  from somatomotor (negative) to visual regions (positive)
Why turned: neither published map is one of our components. Their plane lies in the space of our first three
(principal cosines 0.986 and 0.958 with 400 parcels), of our first ten 0.991 and 0.981.

The files are inside the installed package brainspace: Vos de Wael et al. 2020, doi:10.1038/s42003-020-0794-7;
maps as Margulies et al. 2016, doi:10.1073/pnas.1608282113. Their parcellation differs from release 0.14.3 of
the Schaefer atlas only along the medial wall, where the maps have no values (5 to 15 % of the parcels).
"""

import functools
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.alignment.parcels import schaefer_positions
from bjepa.gradients.alignment.procrustes import align_gradients
from bjepa.gradients.alignment.quiet import without_tie_warnings
from bjepa.gradients.alignment.reference import Reference
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.regions import Regions
from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.errors import InputError

HCP_SIZES = (100, 200, 300, 400)
N_COMPONENTS = 10  # among which the published maps are sought


def hcp_reference(regions: Regions, options: GradientOptions) -> Reference:
    """HCP gradients with the same options, in the order of `regions`.

    Raises
    ------
    InputError
        The regions do not hold one whole Schaefer atlas of 100 to 400 parcels; brainspace is not installed.
    """
    found = schaefer_positions(regions, "7networks")
    if found is None or found[0] not in HCP_SIZES:
        what = "none of these" if found is None else f"schaefer-{found[0]}"
        raise InputError(
            f"--align-to hcp is for Schaefer parcels (100, 200, 300 or 400, all of them), found by their "
            f"names; INPUT has {len(regions.table)} regions: {what}.",
            hint="Give a file of gradients of your atlas (--align-to FILE).",
        )
    n_parcels, positions = found
    fc = hcp_connectivity(n_parcels)
    options = replace(options, n_components=min(options.n_components, n_parcels - 1))
    try:
        with without_tie_warnings():  # five digits are published: one row of 300 or 400 has a tie
            own = embed_connectivity(fc, options)[1].gradients  # (N, C)
    except InputError as error:
        raise InputError(
            f"--align-to hcp: of the HCP connectivity: {error.message}", hint=error.hint
        ) from error
    n_turned = min(N_COMPONENTS, own.shape[1])
    turned = align_gradients(own, published_maps(n_parcels), n_components=n_turned)

    parcels = positions >= 0
    values = np.full((len(positions), turned.shape[1]), np.nan)
    values[parcels] = turned[positions[parcels]]
    full_fc = np.full((len(positions), len(positions)), np.nan)
    full_fc[np.ix_(parcels, parcels)] = fc[np.ix_(positions[parcels], positions[parcels])]
    return Reference(name=f"HCP (schaefer-{n_parcels})", values=values, fc=full_fc)


def hcp_connectivity(n_parcels: int) -> NDArray[np.float64]:
    """(N, N) Fisher z of the HCP group, diagonal 0, parcels in 7-network order."""
    path = brainspace_datasets() / f"matrices/main_group/schaefer_{n_parcels}_mean_connectivity_matrix.csv"
    r = np.loadtxt(path, delimiter=",")
    np.fill_diagonal(r, 0.0)
    z: NDArray[np.float64] = np.arctanh(r)
    return z


@functools.cache
def published_maps(n_parcels: int) -> NDArray[np.float64]:
    """(N, 2) published gradients, mean of each parcel, centred; 7-network order. Do not modify: shared."""
    datasets = brainspace_datasets()
    label = np.loadtxt(datasets / f"parcellations/schaefer_{n_parcels}_conte69.csv").astype(np.int64)
    maps = np.empty((n_parcels, 2))
    for number in range(2):
        vertices = np.loadtxt(datasets / f"matrices/main_group/conte69_32k_fc_gradient{number}.csv")
        has_value = np.isfinite(vertices)
        parcel = label[has_value]
        total = np.bincount(parcel, weights=vertices[has_value], minlength=n_parcels + 1)[1:]
        maps[:, number] = (
            total / np.bincount(parcel, minlength=n_parcels + 1)[1:]
        )  # 0, the medial wall, is out
    maps -= maps.mean(axis=0)
    maps.flags.writeable = False
    return maps
