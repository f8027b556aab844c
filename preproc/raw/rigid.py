"""Rigid transforms of world points: six parameters to a 4 x 4 matrix and back.

    p' = R (p - centre) + centre + trans,        R = Rx(rot_x) Ry(rot_y) Rz(rot_z)

Points and `trans` are in mm, RAS; rotations in rad, right-handed (a positive rot_z turns the x axis, right,
towards the y axis, front). The order of rotations is SPM's.
"""

import numpy as np
from numpy.typing import NDArray

F = NDArray[np.float64]


def rigid_matrix(params: F, centre: F) -> F:
    """(4, 4) of `params` (6,): trans_x, trans_y, trans_z in mm, rot_x, rot_y, rot_z in rad about `centre`."""
    (cos_x, cos_y, cos_z), (sin_x, sin_y, sin_z) = np.cos(params[3:]), np.sin(params[3:])
    about_x = np.array([[1, 0, 0], [0, cos_x, -sin_x], [0, sin_x, cos_x]])
    about_y = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    about_z = np.array([[cos_z, -sin_z, 0], [sin_z, cos_z, 0], [0, 0, 1]])
    matrix = np.eye(4)
    matrix[:3, :3] = about_x @ about_y @ about_z
    matrix[:3, 3] = centre + params[:3] - matrix[:3, :3] @ centre
    return matrix


def rigid_params(matrix: F, centre: F) -> F:
    """(6,) of a rigid matrix (4, 4): what `rigid_matrix` makes it from, if |rot_y| < pi / 2."""
    rotation = matrix[:3, :3]
    trans = rotation @ centre + matrix[:3, 3] - centre
    rot_x = np.arctan2(-rotation[1, 2], rotation[2, 2])
    rot_y = np.arcsin(np.clip(rotation[0, 2], -1.0, 1.0))
    rot_z = np.arctan2(-rotation[0, 1], rotation[0, 0])
    return np.array([*trans, rot_x, rot_y, rot_z])


def invert_rigid(matrix: F) -> F:
    """The inverse of a rigid matrix, by its transpose: as exact as the matrix."""
    inverse = np.eye(4)
    inverse[:3, :3] = matrix[:3, :3].T
    inverse[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return inverse
