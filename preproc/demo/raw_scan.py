"""Simulated BOLD and T1w images of a head: known motion, known place, known signals.

    frame_t(q) = receive(q) (anatomy_t * PSF)(matrices[t]⁻¹ q) + Rician noise       q: mm in the scanner
    anatomy_t(x) = base(x) (1 + 0.02 gain s_region(t) + physiology(x, t))          x: mm in the reference

The anatomy is known on a grid 1.5 times as fine as the run's and continued by cubic B-splines that do not
interpolate: the same as a point spread of 0.9 voxels (full width at half maximum). A frame is one exact
reading of it, whatever the motion, and every slice reads the signals of its own time. `base` is EPI-like
(grey brighter than white, CSF bright, scalp faint), with signal lost over the nasal air and, if asked for,
shifted along the phase axis.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from numpy.typing import NDArray

from bjepa.preproc.demo.raw_head import Head, Shape, grid_points, rotation
from bjepa.preproc.raw.displacement import Displacement

FINE = 2 / 3  # voxels, grid of the anatomy
FLUCTUATION = 0.02  # of the base, at gain 1
DROPOUT = (  # template mm: centre, widths, share of the signal that is lost
    ((0.0, 38.0, -24.0), (22.0, 16.0, 11.0), 0.75),
    ((46.0, 6.0, -38.0), (13.0, 16.0, 10.0), 0.6),
    ((-46.0, 6.0, -38.0), (13.0, 16.0, 10.0), 0.6),
)
PHYSIOLOGY_CSF, PHYSIOLOGY_WHITE = 0.01, 0.003  # standard deviation, share of the base
GREY_LEVEL = 1000.0  # of a stored EPI; a stored T1w has 800 in white matter

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scene:
    """A participant as the scanner sees one run: the anatomy on the fine grid, in the reference's space.

    base : (x, y, z) float32; region : (x, y, z) int16, 0 = none; csf, white : weights, 0 to 1
    """

    base: F32
    region: NDArray[np.int16]
    csf: F32
    white: F32
    affine: F64


def draw_motion(
    rng: np.random.Generator, n_frames: int, centre: F64, *, largest_mm: float
) -> tuple[F64, F64]:
    """Head motion: smooth drift, a few lasting jerks and a few that are over in a frame.

    Returns matrices (T, 4, 4), a point of the reference to the same point of the head in frame t, mm, and the
    parameters (T, 6), mm and rad, turned about `centre`. `largest_mm` is the farthest any point of a sphere
    of 60 mm round the centre comes.
    """
    from scipy.ndimage import gaussian_filter1d

    drift = gaussian_filter1d(np.cumsum(rng.standard_normal((n_frames, 6)), axis=0), n_frames / 25, axis=0)
    drift /= np.abs(drift).max(axis=0) + 1e-9
    steps, spikes = np.zeros((n_frames, 6)), np.zeros((n_frames, 6))
    n_jerks = max(1, n_frames // 40)
    for at in rng.integers(1, n_frames, n_jerks):
        steps[at:] += 0.25 * rng.standard_normal(6)
    for at in rng.integers(1, n_frames, n_jerks):
        spikes[at] = 0.3 * rng.standard_normal(6)
    shape = (drift - drift[n_frames // 2] + steps - steps[n_frames // 2] + spikes) * [
        0.5,
        0.6,
        1,
        0.025,
        0.012,
        0.012,
    ]
    sphere = np.concatenate([60 * np.eye(3), -60 * np.eye(3)])
    matrices = _about(centre, shape)
    moved = np.linalg.norm(_displaced(matrices, centre + sphere), axis=-1).max()
    params = shape * (largest_mm / moved)  # small angles: the largest path is right to about 1 %
    return _about(centre, params), params


def make_scene(
    head: Head,
    shape: Shape,
    to_template: Displacement,
    to_t1w: F64,
    labels_img: nib.Nifti1Image,
    bold_shape: tuple[int, int, int],
    bold_affine: F64,
    *,
    dropout: bool,
    distortion_mm: float,
) -> Scene:
    """The anatomy that a BOLD run reads, on a finer grid that covers the run and 12 mm more.

    `to_t1w` (4, 4): reference mm to T1w mm. `labels_img`: the atlas, in the template's space.
    """
    zooms = np.linalg.norm(bold_affine[:3, :3], axis=0)
    span = (np.array(bold_shape) - 1) * zooms + 24
    n_fine = tuple(int(n) for n in np.ceil(span / (FINE * zooms)) + 1)
    axes = bold_affine[:3, :3] * FINE
    middle = apply_affine(bold_affine, (np.array(bold_shape) - 1) / 2)
    affine = nib.affines.from_matvec(axes, middle - axes @ (np.array(n_fine) - 1) / 2)

    points = grid_points(n_fine, affine)
    template = template_points(points, to_template, to_t1w, bold_affine, distortion_mm)
    base = head.intensities(template, shape, epi=True)
    if dropout:
        base *= _dropout(template)
    region = nearest_labels(labels_img, template)
    return Scene(
        base.reshape(n_fine),
        region.reshape(n_fine),
        head.sample(head.csf_weight, template).reshape(n_fine),
        head.sample(head.white_weight, template).reshape(n_fine),
        affine,
    )


def template_points(
    points: F64, to_template: Displacement, to_t1w: F64, bold_affine: F64, distortion_mm: float
) -> F64:
    """Template mm of what a reference image shows at `points` (n, 3) mm.

    With distortion the image shows at x what lies at x + d(x) e, e along the phase axis: the array's second.
    """
    template = to_template(apply_affine(to_t1w, points))
    if distortion_mm:
        along = bold_affine[:3, 1] / np.linalg.norm(bold_affine[:3, 1])
        shift = distortion_mm * _field_shift(template)[:, None] * along
        template = to_template(apply_affine(to_t1w, points + shift))
    return template


def nearest_labels(labels_img: nib.Nifti1Image, points: F64) -> NDArray[np.int16]:
    """The label of the voxel that each point (n, 3) mm lies in, 0 outside: (n,)."""
    labels = np.asarray(labels_img.dataobj).astype(np.int16)
    voxels = np.rint(apply_affine(np.linalg.inv(labels_img.affine), points)).astype(np.intp)
    known = ((voxels >= 0) & (voxels < labels.shape)).all(axis=1)
    found = np.zeros(len(points), np.int16)
    found[known] = labels[tuple(voxels[known].T)]
    return found


def render_bold(
    rng: np.random.Generator,
    scene: Scene,
    series: F64,
    matrices: F64,
    shape: tuple[int, int, int],
    affine: F64,
    *,
    amplitude: float,
    level: float,
    noise: float,
    n_non_steady: int,
) -> NDArray[np.int16]:
    """All frames, (x, y, z, T) int16 in Fortran order, in units of 1 / 8.

    `series` (T, n_groups, n_regions): the regions' signals at the time of each group of slices; slice k is of
    group k % n_groups. `noise`: standard deviation as a share of grey matter's signal.
    """
    from scipy.ndimage import affine_transform

    n_frames, n_groups = series.shape[:2]
    stored = np.empty((*shape, n_frames), np.int16, order="F")
    receive = _receive_field(rng, shape) * np.float32(GREY_LEVEL * level)
    inside = np.flatnonzero((scene.region > 0) | (scene.csf > 0) | (scene.white > 0))
    region, base = scene.region.ravel()[inside], scene.base.ravel()[inside]
    waves, weights = _physiology(rng, scene, inside, n_frames)
    signals = np.zeros((n_frames, n_groups, series.shape[2] + 1), np.float32)  # column 0: no region
    signals[..., 1:] = amplitude * series
    drift = 1 + 0.01 * np.cos(np.pi * np.arange(n_frames) / n_frames + rng.uniform(0, np.pi))
    excess = np.where(np.arange(n_frames) < n_non_steady, 0.5 * 0.4 ** np.arange(n_frames), 0)

    fine, to_fine = scene.base.copy(), np.linalg.inv(scene.affine)
    frame = np.empty(shape, np.float32)
    for t in range(n_frames):
        voxel_to_fine = to_fine @ np.linalg.inv(matrices[t]) @ affine
        for group in range(n_groups):
            change = signals[t, group][region] + weights @ waves[t]
            fine.reshape(-1)[inside] = base * (1 + change)
            matrix = voxel_to_fine[:3, :3] * [1, 1, n_groups]
            offset = voxel_to_fine[:3, :3] @ [0, 0, group] + voxel_to_fine[:3, 3]
            out = frame[:, :, group::n_groups]
            out[:] = affine_transform(fine, matrix, offset, out.shape, np.float32, order=3, prefilter=False)
        frame *= receive * np.float32(drift[t] * (1 + excess[t]))
        real = frame + np.float32(noise * GREY_LEVEL * level) * rng.standard_normal(shape, dtype=np.float32)
        imaginary = np.float32(noise * GREY_LEVEL * level) * rng.standard_normal(shape, dtype=np.float32)
        stored[..., t] = np.minimum(np.rint(8 * np.hypot(real, imaginary)), 32767)
    return stored


def render_t1w(
    rng: np.random.Generator,
    head: Head,
    shape: Shape,
    to_template: Displacement,
    grid: tuple[int, int, int],
    affine: F64,
    *,
    noise: float,
) -> NDArray[np.int16]:
    """The T1w image, (x, y, z) int16: the head, a bias field of up to 30 %, Rician noise (share of white)."""
    image = np.empty(grid, np.float32)
    for k in range(grid[2]):  # a slice at a time: a million points are 100 MB
        slab = affine.copy()
        slab[:3, 3] += affine[:3, 2] * k
        points = grid_points((grid[0], grid[1], 1), slab)
        image[:, :, k] = head.intensities(to_template(points), shape, epi=False).reshape(grid[:2])
    image *= _receive_field(rng, grid, strength=0.3)
    real = image + np.float32(noise) * rng.standard_normal(grid, dtype=np.float32)
    imaginary = np.float32(noise) * rng.standard_normal(grid, dtype=np.float32)
    return np.asarray(np.minimum(np.rint(800 * np.hypot(real, imaginary)), 32767), dtype=np.int16)


def _about(centre: F64, params: F64) -> F64:
    """Rigid matrices (T, 4, 4) of translations (mm) and angles (rad) about `centre`."""
    matrices = np.zeros((len(params), 4, 4))
    for matrix, row in zip(matrices, params, strict=True):
        turn = rotation(row[3:])
        matrix[:] = nib.affines.from_matvec(turn, centre - turn @ centre + row[:3])
    return matrices


def _displaced(matrices: F64, points: F64) -> F64:
    """How far each matrix moves each point: (T, n, 3) mm."""
    return np.asarray(
        np.einsum("tij,nj->tni", matrices[:, :3, :3], points) + matrices[:, None, :3, 3] - points
    )


def _dropout(template: F64) -> F32:
    kept = np.ones(len(template), np.float32)
    for centre, widths, lost in DROPOUT:
        far = (((template - centre) / np.array(widths)) ** 2).sum(axis=1)
        kept *= 1 - np.float32(lost) * np.exp(-far / 2).astype(np.float32)
    return kept


def _field_shift(template: F64) -> F64:
    """How far EPI is shifted, -1 to 1: forwards over the nasal air, backwards over the ears."""
    places = (
        ((0.0, 45.0, -20.0), 20.0, 1.0),
        ((50.0, -20.0, -35.0), 18.0, -0.6),
        ((-50.0, -20.0, -35.0), 18.0, -0.6),
    )
    shift = np.zeros(len(template))
    for centre, width, size in places:
        shift += size * np.exp(-((template - centre) ** 2).sum(axis=1) / (2 * width**2))
    return shift


def _receive_field(rng: np.random.Generator, shape: tuple[int, int, int], *, strength: float = 0.12) -> F32:
    """Sensitivity of the coil over a grid, 1 ± strength: it stays where it is when the head moves."""
    along = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    x, y, z = np.meshgrid(*along, indexing="ij", sparse=True)
    a = rng.uniform(-1, 1, 6).astype(np.float32)
    field = a[0] * x + a[1] * y + a[2] * z + a[3] * (x * x - y * y) + a[4] * x * z + a[5] * (z * z - 0.5)
    return np.asarray(1 + np.float32(strength) * field / np.abs(field).max(), dtype=np.float32)


def _physiology(
    rng: np.random.Generator, scene: Scene, inside: NDArray[np.intp], n_frames: int
) -> tuple[F32, F32]:
    """Fluctuations of CSF (three) and white matter (two): waves (T, 5) and each voxel's weights (n, 5)."""
    from scipy.ndimage import gaussian_filter1d

    waves = rng.standard_normal((n_frames, 5))
    waves[:, 3:] = gaussian_filter1d(waves[:, 3:], 2.0, axis=0)
    waves /= waves.std(axis=0)
    points = np.stack(np.unravel_index(inside, scene.base.shape), axis=1) * voxel_sizes(scene.affine)
    vectors = rng.standard_normal((3, 5)) * 2 * np.pi / 150
    patterns = np.cos(points @ vectors + rng.uniform(0, 2 * np.pi, 5))
    patterns[:, :3] *= PHYSIOLOGY_CSF * scene.csf.ravel()[inside, None]
    patterns[:, 3:] *= PHYSIOLOGY_WHITE * scene.white.ravel()[inside, None]
    return waves.astype(np.float32), patterns.astype(np.float32)
