"""A simulated head: a template's brain in skull and scalp, warped by a known smooth deformation.

In the template's space (MNI mm, RAS), from inside to outside:
    brain   the template itself; EPI contrast follows from T1w intensity: CSF 1.35, grey 1, white 0.72
    CSF     a rim of 2 mm round the brain, and its fissures
    skull   5 to 7 mm, dark, with marrow
    soft    muscle, neck, face, eyes, nasal air; in T1w a bright scalp, in EPI a faint one

A participant's T1w point p lies at template point  to_template(p) = A p + u(p):  A turns by up to 10 degrees,
scales each axis by up to 8 % and shifts; u is smooth, up to `warp_mm`, with a Jacobian above 0.3, so the
mapping can be inverted. Images are pulled through it, nothing is inverted to make them.
"""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.raw.displacement import Displacement

BRAIN_CENTRE = np.array([0.0, -18.0, 10.0])  # MNI mm
CSF, GREY, WHITE = 1.35, 1.0, 0.72  # EPI, relative to grey
FIELD_STEP = 4.0  # mm, grid of the deformation
HALF_BOX = np.array([132.0, 152.0, 160.0])  # mm, the deformation is known this far from the brain's centre
_HULL_STEP = 3.0  # mm, grid of the distance to the brain

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Head:
    """Intensities of a head in template space, relative to white matter (T1w) and grey matter (EPI).

    t1w, epi, inside : (x, y, z) float32 on the template's grid, 0 outside the brain; inside is 0 or 1
    csf_weight, white_weight : (x, y, z) float32, 0 to 1
    distance : mm to the closed brain, on a coarser, wider grid
    """

    t1w: F32
    epi: F32
    inside: F32
    csf_weight: F32
    white_weight: F32
    affine: F64
    distance: F32
    distance_affine: F64

    def sample(self, volume: F32, points: F64) -> F32:
        """A volume of the template's grid at template points (n, 3) mm, linearly, 0 outside: (n,)."""
        return _sample(volume, self.affine, points)

    def intensities(self, points: F64, shape: "Shape", *, epi: bool) -> F32:
        """T1w or EPI intensity at template points (n, 3) mm: brain, and what lies round it. (n,)"""
        inside = self.sample(self.inside, points)
        brain = self.sample(self.epi if epi else self.t1w, points)
        gap = _sample(self.distance, self.distance_affine, points, outside=200.0)
        return brain + (1 - inside) * shape.shell(points, gap, epi=epi)


@dataclass(frozen=True, eq=False)
class Shape:
    """What differs between heads outside the brain: thickness of skull and scalp (mm), their waves."""

    skull: float
    scalp: float
    waves: F64  # (6, 4): wave vector (1/mm) and phase

    def shell(self, points: F64, gap: F32, *, epi: bool) -> F32:
        """Intensity outside the brain at template points, `gap` mm from it: (n,)."""
        wave = np.zeros(len(points), np.float32)
        for *vector, phase in self.waves:
            wave += np.cos(points @ np.array(vector) + phase).astype(np.float32) / np.sqrt(len(self.waves))
        skull = self.skull + wave  # mm
        depth = 2 + skull + self.scalp + 2 * wave - gap  # mm below the skin, over the skull
        x, y, z = points.T.astype(np.float32)
        neck = np.minimum(58 - np.hypot(x, (y + 30) * 0.85), -45 - z)
        face = 45 * (1 - np.sqrt((x / 58) ** 2 + ((y - 50) / 48) ** 2 + ((z + 62) / 52) ** 2))
        depth = np.maximum(depth, np.maximum(neck, face))

        soft, rim = (0.3, 0.15) if epi else (0.55, 1.15)
        value = np.where(depth < 4 + wave, np.float32(rim), np.float32(soft))
        for side in (-31.0, 31.0):
            eye = np.sqrt((x - side) ** 2 + (y - 58) ** 2 + (z + 34) ** 2)
            value = np.where(eye < 12, np.float32(1.2 if epi else 0.2), value)
        nose = np.sqrt((x / 14) ** 2 + ((y - 55) / 22) ** 2 + ((z + 48) / 20) ** 2)
        value *= _step(nose - 1, 0.1)  # air
        bone = _step(gap - 2, 1.0) * _step(2 + skull - gap, 1.0)
        marrow = (0.1 if epi else 0.4) * np.exp(-(((gap - 2 - skull / 2) / 1.2) ** 2))
        value += bone * (0.08 + marrow - value)
        fluid = _step(2 - gap, 1.0)
        value += fluid * ((CSF if epi else 0.25) - value)
        return np.asarray(value * _step(depth, 1.0), dtype=np.float32)


def build_head(template: nib.Nifti1Image) -> Head:
    """A head round the brain of `template`: skull-stripped T1w, MNI mm, zero outside the brain.

    Raises InputError where more than half of the image is not 0, as it is with scalp or background.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, distance_transform_edt, gaussian_filter

    data = np.asarray(template.dataobj, dtype=np.float32)
    inside = data > 0.02 * data.max()
    if data.ndim != 3 or not 0.02 < inside.mean() < 0.5:
        raise InputError(f"template must be one skull-stripped volume, {inside.mean():.0%} of it is not 0.")
    inside = binary_fill_holes(inside)
    fluid, grey, white = _tissue_levels(data[inside])
    t1w = np.where(inside, np.maximum(data, 0.5 * fluid) / white, 0).astype(np.float32)
    knots = [0.0, fluid / white, grey / white, 1.0, 2.0]
    epi = np.where(inside, np.interp(t1w, knots, [CSF, CSF, GREY, WHITE, WHITE]), 0).astype(np.float32)
    csf_weight = np.where(inside, np.interp(t1w, knots[1:3], [1, 0]), 0).astype(np.float32)
    white_weight = np.where(inside, np.interp(t1w, knots[2:4], [0, 1]), 0).astype(np.float32)

    affine = np.asarray(template.affine, dtype=np.float64)
    low, high = BRAIN_CENTRE - HALF_BOX, BRAIN_CENTRE + HALF_BOX
    shape = tuple(np.ceil((high - low) / _HULL_STEP).astype(int) + 1)
    coarse = nib.affines.from_matvec(np.eye(3) * _HULL_STEP, low)
    brain = _sample(inside.astype(np.float32), affine, grid_points(shape, coarse)).reshape(shape) > 0.5
    hull = binary_closing(brain, iterations=4)  # 12 mm: fissures are not filled with bone
    gap = distance_transform_edt(~hull, sampling=_HULL_STEP) - distance_transform_edt(
        hull, sampling=_HULL_STEP
    )
    gap = gaussian_filter(gap, 1.0).astype(np.float32)
    return Head(t1w, epi, inside.astype(np.float32), csf_weight, white_weight, affine, gap, coarse)


def draw_shape(rng: np.random.Generator) -> Shape:
    """Skull of 5 to 7 mm, scalp of 4 to 8 mm, waves of 50 to 120 mm."""
    vectors = rng.standard_normal((6, 3))
    vectors *= 2 * np.pi / rng.uniform(50, 120, (6, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    waves = np.column_stack([vectors, rng.uniform(0, 2 * np.pi, 6)])
    return Shape(float(rng.uniform(5, 7)), float(rng.uniform(4, 8)), waves)


def draw_deformation(rng: np.random.Generator, centre: F64, *, warp_mm: float) -> Displacement:
    """T1w point to template point of one participant, whose brain's centre lies at `centre` (3,) mm.

    u is 3/4 waves of sigma 24 mm and 1/4 of sigma 12 mm, its longest vector `warp_mm`.
    """
    from scipy.ndimage import gaussian_filter

    shape = tuple(np.ceil(2 * HALF_BOX / FIELD_STEP).astype(int) + 1)
    affine = nib.affines.from_matvec(np.eye(3) * FIELD_STEP, centre - HALF_BOX)
    warp = np.zeros((*shape, 3))
    for sigma, share in ((24.0, 0.75), (12.0, 0.25)):
        noise = rng.standard_normal((*shape, 3))
        smooth = np.stack([gaussian_filter(noise[..., k], sigma / FIELD_STEP) for k in range(3)], axis=-1)
        warp += share * warp_mm * smooth / np.linalg.norm(smooth, axis=-1).max()
    matrix = np.diag(1 + rng.uniform(-0.08, 0.08, 3)) @ rotation(np.deg2rad(rng.uniform(-10, 10, 3)))
    points = grid_points(shape, affine).reshape(*shape, 3)
    field = BRAIN_CENTRE + (points - centre) @ matrix.T - points + warp
    determinant = _jacobian(field)
    if determinant.min() < 0.3:
        raise InputError(
            f"warp_mm: {warp_mm:g} folds space (Jacobian {determinant.min():.2f}).", hint="Use 8 or less."
        )
    return Displacement(field.astype(np.float32), affine)


def rotation(angles: F64) -> F64:
    """Turn about x, then y, then z by `angles` (3,) rad: (3, 3)."""
    from scipy.spatial.transform import Rotation

    return np.asarray(Rotation.from_euler("xyz", angles).as_matrix())


def grid_points(shape: tuple[int, ...], affine: F64) -> F64:
    """World points of all voxels of a grid, C order: (n, 3) mm."""
    return apply_affine(affine, np.indices(shape).reshape(3, -1).T)  # type: ignore[no-any-return]


def oblique_grid(shape: tuple[int, int, int], zooms: F64, codes: str, centre: F64, turn: F64) -> F64:
    """Affine (4, 4) of a grid whose axes point as `codes` ("PSR") and then turned by `turn` (3,) rad."""
    axes = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    matrix = np.zeros((3, 3))
    for column, code in enumerate(codes):
        row, sign = axes[code]
        matrix[row, column] = sign * zooms[column]
    matrix = rotation(turn) @ matrix
    return nib.affines.from_matvec(matrix, centre - matrix @ (np.array(shape) - 1) / 2)  # type: ignore[no-any-return]


def _sample(volume: F32, affine: F64, points: F64, outside: float = 0.0) -> F32:
    from scipy.ndimage import map_coordinates

    voxels = apply_affine(np.linalg.inv(affine), points).T
    return np.asarray(map_coordinates(volume, voxels, order=1, cval=outside, output=np.float32))


def _tissue_levels(values: F32) -> tuple[float, float, float]:
    """Intensity of CSF, grey and white matter: three means of the brain's histogram (k-means)."""
    means = np.percentile(values, [5, 40, 85])
    counts, edges = np.histogram(values, 400)
    middles = (edges[1:] + edges[:-1]) / 2
    for _ in range(50):
        nearest = np.abs(middles[:, None] - means).argmin(axis=1)
        means = np.array(
            [np.average(middles[nearest == k], weights=counts[nearest == k] + 1e-9) for k in range(3)]
        )
    return float(means[0]), float(means[1]), float(means[2])


def _jacobian(field: F64) -> F64:
    """Determinant of the derivative of p + field(p), on the field's grid."""
    gradient = np.stack([np.stack(np.gradient(field[..., k], FIELD_STEP), -1) for k in range(3)], axis=-2)
    return np.asarray(np.linalg.det(np.eye(3) + gradient))


def _step(value: F32, width: float) -> F32:
    """0 below, 1 above 0, linear over `width`."""
    return np.clip(value / np.float32(width) + np.float32(0.5), 0, 1)
