"""Regional series of simulated participants: known connectivity, a known effect of age and of sex.

    C      (450, 450)  the population's correlation: HCP group matrix (cortex) and a planted subcortex
    E_s    (450, 450)  Q (0.25 age_s M_age + 0.3 sex_s M_sex + idiosyncratic_s) Qᵀ, symmetric
    x_s    (T, 450)    normalise(expm(E_s / 2) C^½) z_s, rows of unit norm: every region has variance 1
    z_s    (T, 450)    white noise smoothed by the haemodynamic response, independent between regions

Q holds the networks' indicators as orthonormal columns, so an effect changes how strongly whole networks
fluctuate together; since each region's variance stays 1, means and variances know nothing of age or sex:
only connectivity does. Age enters as (age - 50) / 17, sex as -1 (M) or 1 (F).

Everything is drawn from `numpy.random.SeedSequence((seed, participant number))`: participant 7 is the same
in a cohort of 10 and of 1,000.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.brainspace_files import brainspace_datasets
from bjepa.preproc.demo.atlas import N_ROIS, N_SUBCORTEX, demo_table

AGE_RANGE = 20.0, 80.0  # years, uniform: standard deviation 17
AGE_EFFECT, SEX_EFFECT, IDIOSYNCRATIC = 0.25, 0.3, 0.3
SUBCORTEX_COUPLING = 0.22  # correlation of a subcortical region with its mixture of networks
ASSOCIATION = ("DefaultA", "DefaultB", "ContA", "ContB", "SalVentAttnA", "DorsAttnA")
SENSORIMOTOR = ("SomMotA", "SomMotB", "VisCent", "VisPeri")

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Population:
    """What all participants share. K networks: 17 of the cortex and the subcortex."""

    fc: Array  # (450, 450) correlation, positive definite
    root: Array  # (450, 450) symmetric square root of fc
    networks: tuple[str, ...]  # K names
    indicators: Array  # Q, (450, K), orthonormal columns
    age_effect: Array  # M_age, (K, K) symmetric, spectral norm 1
    sex_effect: Array  # M_sex, (K, K) symmetric, spectral norm 1
    seed: int


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One simulated participant and the protocol of the one scan."""

    number: int  # from 1
    age: float  # years, one decimal
    sex: str  # F or M
    t_r: float  # s
    n_frames: int
    gain: float  # amplitude of the fluctuations, relative; spread 10 %
    level: float  # signal level, relative; spread 8 %


def make_population(seed: int = 0) -> Population:
    """The population of a seed. Cortical connectivity and effects are fixed; the subcortex is drawn."""
    table = demo_table()
    networks = tuple(table["network17"].unique())
    membership = np.stack([table["network17"] == name for name in networks], axis=1).astype(np.float64)
    fc = _population_fc(np.random.default_rng((seed, 0)), membership)
    values, vectors = np.linalg.eigh(fc)
    return Population(
        fc=fc,
        root=(vectors * np.sqrt(values)) @ vectors.T,
        networks=networks,
        indicators=membership / np.sqrt(membership.sum(axis=0)),
        age_effect=_effect_of_age(networks),
        sex_effect=_effect_of_sex(networks),
        seed=seed,
    )


def draw_participant(population: Population, number: int) -> Participant:
    """Age, sex and scanner of participant `number` (from 1). Odd numbers have the fast protocol."""
    rng = _generator(population, number, stream=0)
    # two protocols as in UK Biobank (0.735 s) and older cohorts (2 s): about 350 and 320 seconds
    t_r, n_frames = (0.735, 480) if number % 2 else (2.0, 160)
    return Participant(
        number=number,
        age=round(float(rng.uniform(*AGE_RANGE)), 1),
        sex="FM"[int(rng.integers(2))],
        t_r=t_r,
        n_frames=n_frames,
        gain=float(np.exp(0.10 * rng.standard_normal())),
        level=float(np.exp(0.08 * rng.standard_normal())),
    )


def participant_root(population: Population, participant: Participant) -> Array:
    """The matrix A, (450, 450) with rows of unit norm, whose A Aᵀ is the participant's true correlation."""
    n_networks = len(population.networks)
    noise = _generator(population, participant.number, stream=1).normal(size=(n_networks, n_networks))
    idiosyncratic = (noise + noise.T) / np.sqrt(8 * n_networks)  # spectral norm about 1
    effect = (
        AGE_EFFECT * (participant.age - 50) / 17 * population.age_effect
        + SEX_EFFECT * (1 if participant.sex == "F" else -1) * population.sex_effect
        + IDIOSYNCRATIC * idiosyncratic
    )  # (K, K)

    # expm(Q S Qᵀ / 2) = 1 + Q (expm(S / 2) - 1) Qᵀ, because the columns of Q are orthonormal
    values, vectors = np.linalg.eigh(effect)
    change = (vectors * np.expm1(values / 2)) @ vectors.T  # (K, K)
    q = population.indicators
    root = population.root + q @ (change @ (q.T @ population.root))
    unit: Array = root / np.linalg.norm(root, axis=1, keepdims=True)
    return unit


def simulate_series(population: Population, participant: Participant) -> Array:
    """Regional series, (n_frames, 450) float64, mean 0 and variance 1 in expectation."""
    from scipy.signal import fftconvolve

    response = haemodynamic_response(participant.t_r)
    response /= np.linalg.norm(response)  # white noise of variance 1 stays at variance 1
    rng = _generator(population, participant.number, stream=2)
    white = rng.standard_normal((participant.n_frames + len(response) - 1, N_ROIS))
    smooth = fftconvolve(white, response[:, None], mode="valid", axes=0)  # (n_frames, 450)
    series: Array = smooth @ participant_root(population, participant).T
    return series


def haemodynamic_response(t_r: float, duration: float = 32.0) -> Array:
    """Double-gamma response to a brief event, sampled every `t_r` seconds: peak at 5 s, undershoot at 15 s.

    Shape parameters 6 and 16 s, undershoot 1/6: the canonical response of SPM.
    """
    from scipy.stats import gamma

    seconds = np.arange(0, duration, t_r)
    response: Array = gamma.pdf(seconds, 6) - gamma.pdf(seconds, 16) / 6
    return response


def voxel_generator(population: Population, participant: Participant) -> np.random.Generator:
    """The generator for the noise of a participant's voxels."""
    return _generator(population, participant.number, stream=3)


def _generator(population: Population, number: int, *, stream: int) -> np.random.Generator:
    return np.random.default_rng((population.seed, number, stream))


def _population_fc(rng: np.random.Generator, membership: Array) -> Array:
    """Correlation of 450 regions: HCP's group matrix, extended to a subcortex that follows the networks.

    A subcortical region is 0.22 × a mixture of the networks' mean signals + a residual. Its left and right
    halves share the mixture, and residuals correlate with nearness, across the midline too.
    """
    table = demo_table()
    cortex = table[table["structure"] == "cortex"]
    hcp = np.loadtxt(
        brainspace_datasets() / "matrices" / "main_group" / "schaefer_400_mean_connectivity_matrix.csv",
        delimiter=",",
    )
    order = cortex["label_7networks"].to_numpy() - 1  # the file has 7-network order
    fc_cortex = hcp[np.ix_(order, order)]  # (400, 400), smallest eigenvalue 0.08
    np.fill_diagonal(fc_cortex, 1.0)

    means = membership[N_SUBCORTEX:, 1:]  # (400, 17); column 0 of membership is the subcortex
    means = means / means.sum(axis=0)
    half = rng.dirichlet(np.full(means.shape[1], 0.3), size=N_SUBCORTEX // 2)  # few networks each
    mixture = np.vstack([half, half]) @ means.T  # (50, 400), row = weights on cortical regions
    mixture /= np.sqrt(np.einsum("ij,jk,ik->i", mixture, fc_cortex, mixture))[:, None]  # unit variance

    centroids = table[["x", "y", "z"]].to_numpy()[:N_SUBCORTEX]
    folded = centroids * [0.0, 1.0, 1.0] + np.abs(centroids[:, :1]) * [1.0, 0.0, 0.0]  # left onto right
    distance = np.linalg.norm(folded[:, None] - folded[None], axis=-1)  # mm
    residual = 0.4 * np.exp(-distance / 20) + 0.6 * np.eye(N_SUBCORTEX)

    to_cortex = SUBCORTEX_COUPLING * mixture @ fc_cortex  # (50, 400)
    within = SUBCORTEX_COUPLING**2 * mixture @ fc_cortex @ mixture.T + (1 - SUBCORTEX_COUPLING**2) * residual
    return np.block([[within, to_cortex], [to_cortex.T, fc_cortex]])


def _effect_of_age(networks: tuple[str, ...]) -> Array:
    """Association networks grow less segregated with age (as found by Chan et al. 2014, PNAS 111:E4997)."""
    effect = _between(networks, ASSOCIATION, ASSOCIATION, 0.5)
    for name in ASSOCIATION:
        effect[networks.index(name), networks.index(name)] = -1.0
    return effect / np.linalg.norm(effect, 2)


def _effect_of_sex(networks: tuple[str, ...]) -> Array:
    """Sensorimotor against limbic coupling: an arbitrary contrast, a second thing to find."""
    effect = _between(networks, SENSORIMOTOR, SENSORIMOTOR, 1.0)
    effect -= _between(networks, ("LimbicA", "LimbicB", "TempPar"), ("LimbicA", "LimbicB", "TempPar"), 1.0)
    return effect / np.linalg.norm(effect, 2)


def _between(networks: tuple[str, ...], a: tuple[str, ...], b: tuple[str, ...], value: float) -> Array:
    """(K, K) zeros with `value` where a row is in `a` and a column in `b`."""
    rows = np.array([name in a for name in networks])
    columns = np.array([name in b for name in networks])
    return value * np.outer(rows, columns).astype(np.float64)
