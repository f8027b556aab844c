"""Where the published label volumes are: found in a folder, or downloaded with their SHA-256 checked."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file

log = logging.getLogger(__name__)

# Lowest corner (centre of the first voxel in RAS, mm) of the published grids; 1 and 2 mm differ by up to 1
# mm.
SPACES = {"MNI152NLin6Asym": (-90.0, -126.0, -72.0), "MNI152NLin2009cAsym": (-96.0, -132.0, -78.0)}
_CORNER_TOLERANCE_MM = 1.5


@dataclass(frozen=True)
class Published:
    """A published atlas: how its files are called, where they are, how to cite them."""

    pattern: re.Pattern[str]  # of file names, lower case
    downloads: dict[str, tuple[str, str]]  # space -> (address, SHA-256 of the file)
    citation: dict[str, str]


# Commits are pinned: what an address gives cannot change, and the SHA-256 proves it.
_GITHUB = "https://raw.githubusercontent.com"
_XCPENGINE, _SCHAEFER = f"{_GITHUB}/PennLINC/xcpEngine", "atlas/schaefer400x17/schaefer400x17MNI.nii.gz"
_SUBCORTEX = f"{_GITHUB}/yetianmed/subcortex/62751401be0dba587442799748a886d5d87b8364"
_TIAN = f"{_SUBCORTEX}/Group-Parcellation/3T/Subcortex-Only"
PUBLISHED = {
    "schaefer-400": Published(
        re.compile(r"schaefer(?!.*(tian|subcortex)).*(400parcels|400x|_400)"),
        {  # one name, two commits: the file was replaced by that of the other space (both 2 mm, 17 networks)
            "MNI152NLin6Asym": (
                f"{_XCPENGINE}/b1d4c6a2b387159ca3e8800ce7d3f5a2b7f595ac/{_SCHAEFER}",
                "b275e31a5052434a2202f5ef0d6fd2e3cfa539453ae3af3975bf9bbeef58fd4c",
            ),
            "MNI152NLin2009cAsym": (
                f"{_XCPENGINE}/d7998c89bf4b77060479f164db8914d30afe5050/{_SCHAEFER}",
                "3ee61016960fde4b1296fd6632da338d80561ff3610796189a568bb2c79e6948",
            ),
        },
        {
            "licence": "Schaefer 2018: MIT, Copyright (c) 2016 Computational Brain Imaging Group (CBIG)",
            "citation": "Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179",
        },
    ),
    "tian-s3": Published(
        re.compile(r"^(?!.*schaefer).*tian.*s3"),
        {
            "MNI152NLin6Asym": (
                f"{_TIAN}/Tian_Subcortex_S3_3T.nii",
                "df86741fedcf5814cf9c91817f794f19b92e149f057335a5568b5fc32bb17bc7",
            ),
            "MNI152NLin2009cAsym": (
                f"{_TIAN}/Tian_Subcortex_S3_3T_2009cAsym.nii.gz",
                "f996886fe9cc497b29b0502b8a202022152868c3880f7df8c4f0b07eddb2fd04",
            ),
        },
        {
            "licence": "Tian 2020: Melbourne Subcortex Atlas License (free use; publications cite the paper)",
            "citation": "Tian et al. 2020, Nature Neuroscience 23:1421, doi:10.1038/s41593-020-00711-6",
        },
    ),
}
# One published volume that holds both: labels 1..50 Tian S3, 51..450 Schaefer-400 (either order).
_COMBINED = re.compile(r"schaefer.*400parcels.*tian.*s3")
_COMBINED_LABELS = {"tian-s3": (1, 50), "schaefer-400": (51, 450)}


@dataclass(frozen=True)
class PublishedVolume:
    """Labels as published, int64, 0 = background."""

    path: Path
    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    source: dict[str, str]  # file, sha256 of the file

    @property
    def grid(self) -> tuple[Any, ...]:
        """Equal for volumes on one grid, whatever their storage order."""
        canonical = nib.as_closest_canonical(
            nib.Nifti1Image(np.zeros(self.labels.shape, np.uint8), self.affine)
        )
        return (canonical.shape, *np.round(canonical.affine, 3).ravel())


def find_volumes(names: set[str], space: str, folder: Path | None) -> dict[str, PublishedVolume]:
    """The volumes of all `names` in `space`, on one grid and in one storage order.

    In `folder` first (2 mm before 1 mm, separate files before the combined one, 17- before 7-network order),
    then by download.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(
            f"--atlas-dir {folder} is not a folder.", hint="Give the folder that holds the atlas files."
        )
    found = _in_folder(names, space, folder) if folder is not None else None
    if found is None:
        if folder is not None:
            log.warning("%s holds no %s in %s; downloading.", folder, " and ".join(sorted(names)), space)
        found = {name: _download(name, space) for name in sorted(names)}
    first = next(iter(found.values()))
    return {name: _stored_like(volume, first) for name, volume in found.items()}


def _in_folder(names: set[str], space: str, folder: Path) -> dict[str, PublishedVolume] | None:
    paths = sorted(
        p
        for p in folder.rglob("*")
        if re.search(r"\.nii(\.gz)?$", p.name) and "dlabel" not in p.name and p.is_file()
    )
    by_grid: dict[tuple[Any, ...], dict[str, PublishedVolume]] = {}
    # 17-network files first, so that renumbering is the exception
    for path in sorted(paths, key=lambda p: ("17" not in p.name, "2mm" not in p.name, str(p))):
        for name in sorted(names):
            if PUBLISHED[name].pattern.search(path.name.lower()) and _is_in_space(path, space):
                volume = read_volume(path)
                by_grid.setdefault(volume.grid, {}).setdefault(name, volume)
    complete = [volumes for volumes in by_grid.values() if names <= volumes.keys()]
    if complete:
        return max(
            complete, key=lambda v: abs(np.linalg.det(next(iter(v.values())).affine))
        )  # 2 mm before 1 mm
    for volumes in by_grid.values():
        lacking = ", ".join(sorted(names - volumes.keys()))
        for volume in volumes.values():
            log.warning("%s is of no use here: there is no %s on its grid.", volume.path, lacking)
    combined = [p for p in paths if _COMBINED.search(p.name.lower()) and _is_in_space(p, space)]
    if combined and names <= _COMBINED_LABELS.keys():
        coarsest = max(combined, key=lambda p: abs(np.linalg.det(nib.load(p).affine)))
        return {name: _split_combined(read_volume(coarsest), name) for name in names}
    return None


def _split_combined(volume: PublishedVolume, name: str) -> PublishedVolume:
    low, high = _COMBINED_LABELS[name]
    labels = np.where((volume.labels >= low) & (volume.labels <= high), volume.labels - low + 1, 0)
    return PublishedVolume(volume.path, labels, volume.affine, volume.source)


def _is_in_space(path: Path, space: str) -> bool:
    """By the grid, which cannot lie; a name that says another space is told and passed over."""
    image = _load(path)
    if len(image.shape) != 3:
        return False
    corner = nib.as_closest_canonical(image).affine[:3, 3]
    if np.abs(corner - SPACES[space]).max() > _CORNER_TOLERANCE_MM:
        return False
    named = space_in_name(path)
    if named is not None and named != space:
        log.warning("%s: the name says %s, the grid is that of %s; passed over.", path, named, space)
        return False
    return True


def space_in_name(path: Path) -> str | None:
    """The template space that a file name states, if any."""
    if entity := re.search(r"(?:space|tpl)-([A-Za-z0-9]+)", path.name):
        return entity[1]
    lower = path.name.lower()
    if "2009casym" in lower:
        return "MNI152NLin2009cAsym"
    if "nlin6asym" in lower or "fslmni152" in lower:
        return "MNI152NLin6Asym"
    return None


def read_volume(path: Path) -> PublishedVolume:
    """A 3D label volume; values must be whole numbers from 0 to 32,767 (they are stored as int16)."""
    image = _load(path)
    if len(image.shape) != 3:
        raise InputError(f"{path} must be a 3D label volume, got shape {image.shape}.")
    values = np.asarray(image.dataobj)
    if (
        not np.isfinite(values).all()
        or (values != np.round(values)).any()
        or values.min() < 0
        or values.max() > 32767
    ):
        raise InputError(f"{path} must hold whole label numbers from 0 to 32767.")
    source = {"file": path.name, "sha256": sha256_of_file(path)}
    return PublishedVolume(path, values.astype(np.int64), image.affine, source)


def _load(path: Path) -> nib.Nifti1Image:
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for a broken file
        raise InputError(f"{path} cannot be read as NIfTI ({error}).") from error
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is one
        raise InputError(f"{path} is not a NIfTI volume.")
    return image


def _stored_like(volume: PublishedVolume, like: PublishedVolume) -> PublishedVolume:
    if volume.grid != like.grid:
        raise InputError(
            f"{volume.path} and {like.path} are on different grids.",
            hint="Use volumes of one space and resolution.",
        )
    image = nib.Nifti1Image(volume.labels.astype(np.int16), volume.affine)
    flips = ornt_transform(io_orientation(volume.affine), io_orientation(like.affine))
    labels = np.asarray(image.as_reoriented(flips).dataobj).astype(np.int64)
    return PublishedVolume(volume.path, labels, like.affine, volume.source)


def _download(name: str, space: str) -> PublishedVolume:
    import pooch

    address, sha256 = PUBLISHED[name].downloads[space]
    try:
        path = pooch.retrieve(
            address,
            known_hash=f"sha256:{sha256}",
            path=pooch.os_cache("bjepa") / "atlas" / space,
            fname=address.rsplit("/", 1)[1],
        )
    except (
        Exception
    ) as error:  # requests, urllib3 and pooch raise their own kinds; a wrong hash is a ValueError
        raise InputError(
            f"atlas {name} in {space} was not found and could not be downloaded from {address} ({error}).",
            hint="Give --atlas-dir (or BJEPA_ATLAS_DIR) with a folder that holds the published files.",
        ) from error
    return read_volume(Path(path))
