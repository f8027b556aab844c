"""Where the published label files are: found in a folder, or downloaded with their SHA-256 checked.

`tables/downloads.tsv` lists the published files whose content is known, at addresses with a pinned commit. A
file that is not in it (another resolution, a re-compressed copy) is taken from the folder and proven by
content; it is never downloaded.
"""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import io_orientation, ornt_transform
from numpy.typing import NDArray

from bjepa.preproc.atlas.published import downloads
from bjepa.preproc.atlas.spaces import SPACES, grid_mismatch
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file

log = logging.getLogger(__name__)

__all__ = ["CITATIONS", "SPACES", "PublishedVolume", "find_volumes", "read_volume", "space_in_name"]

CITATIONS = {
    "schaefer": {
        "licence": "Schaefer 2018: MIT, Copyright (c) 2016 Computational Brain Imaging Group (CBIG)",
        "citation": "Schaefer et al. 2018, Cerebral Cortex 28:3095, doi:10.1093/cercor/bhx179",
    },
    "tian": {
        "licence": "Tian 2020: Melbourne Subcortex Atlas License (free use; publications cite the paper)",
        "citation": "Tian et al. 2020, Nature Neuroscience 23:1421, doi:10.1038/s41593-020-00711-6",
    },
}
_N_TIAN = {"tian-s1": 16, "tian-s2": 32, "tian-s3": 50, "tian-s4": 54}
_COMBINED = re.compile(r"schaefer.*?(\d+)parcels(?!.*kong).*tian.*s([1-4])")


@dataclass(frozen=True)
class PublishedVolume:
    """Labels as published, int64, 0 = background."""

    path: Path
    labels: NDArray[np.int64]
    affine: NDArray[np.float64]
    source: dict[str, str]  # file, sha256 of the file, how it is known

    @property
    def grid(self) -> tuple[Any, ...]:
        """Equal for volumes on one grid, whatever their storage order."""
        canonical = nib.as_closest_canonical(
            nib.Nifti1Image(np.zeros(self.labels.shape, np.uint8), self.affine)
        )
        return (canonical.shape, *np.round(canonical.affine, 3).ravel())


def find_volumes(names: set[str], space: str, folder: Path | None) -> dict[str, PublishedVolume]:
    """The volumes of all `names` ("schaefer-400", "tian-s3") in `space`, on one grid, in one storage order.

    In `folder` first (2 mm before 1 mm, separate files before a combined one, 17- before 7-network order),
    then by download.
    """
    search = _Search(space)
    found = search.in_folder(names, checked_folder(folder)) if folder is not None else None
    if found is None:
        if folder is not None:
            passed_over = f" ({'; '.join(search.passed_over)})" if search.passed_over else ""
            log.warning("%s holds no %s in %s%s; downloading.", folder, _and(names), space, passed_over)
        found = _download(names, space, search.passed_over)
    first = next(iter(found.values()))
    return {name: _stored_like(volume, first) for name, volume in found.items()}


def checked_folder(folder: Path) -> Path:
    """The folder, if there is one."""
    if not folder.is_dir():
        raise InputError(
            f"--atlas-dir {folder} is not a folder.", hint="Give the folder that holds the atlas files."
        )
    return folder


def is_named(path: Path, name: str) -> bool:
    """Whether a file's name is that of the published volume `name`.

    Not: volumes of both atlases, and Kong2022 volumes, which number the same parcels in a third way.
    """
    lower = path.name.lower()
    family, number = name.split("-")
    if family == "schaefer":
        size = rf"(?<!\d){number}(parcels|x\d)|_{number}(?!\d)"
        return bool(re.search(rf"schaefer(?!.*(tian|subcortex|kong)).*({size})", lower))
    return bool(re.search(rf"^(?!.*schaefer).*tian.*{number}", lower))


@dataclass
class _Search:
    """A search of a folder, and what it met that looked right but is not."""

    space: str
    passed_over: list[str] = field(default_factory=list)

    def in_folder(self, names: set[str], folder: Path) -> dict[str, PublishedVolume] | None:
        paths = sorted(
            p
            for p in folder.rglob("*")
            if re.search(r"\.nii(\.gz)?$", p.name) and "dlabel" not in p.name and p.is_file()
        )
        by_grid: dict[tuple[Any, ...], dict[str, PublishedVolume]] = {}
        # 17-network files first, so that renumbering is the exception
        for path in sorted(paths, key=lambda p: ("17" not in p.name, "2mm" not in p.name, str(p))):
            for name in sorted(names):
                if is_named(path, name) and self._is_in_space(path):
                    volume = read_volume(path)
                    by_grid.setdefault(volume.grid, {}).setdefault(name, volume)
        complete = [volumes for volumes in by_grid.values() if names <= volumes.keys()]
        if complete:  # 2 mm before 1 mm
            return max(complete, key=lambda v: abs(np.linalg.det(next(iter(v.values())).affine)))
        for volumes in by_grid.values():
            lacking = ", ".join(sorted(names - volumes.keys()))
            for volume in volumes.values():
                log.warning("%s is of no use here: there is no %s on its grid.", volume.path, lacking)
        combined = [p for p in paths if names <= combined_parts(p) and self._is_in_space(p)]
        if combined:
            coarsest = max(combined, key=lambda p: abs(np.linalg.det(nib.load(p).affine)))
            return _split_combined(read_volume(coarsest), names, combined_parts(coarsest))
        return None

    def _is_in_space(self, path: Path) -> bool:
        """By the grid, which cannot lie; a name that says another space is told and passed over."""
        image = _load(path)
        if len(image.shape) != 3:
            return False
        if mismatch := grid_mismatch(np.asarray(image.affine), image.shape, self.space):
            self.passed_over.append(f"{path.name} is not on a grid of {self.space}: {mismatch}")
            return False
        named = space_in_name(path)
        if named is not None and named != self.space:
            log.warning("%s: the name says %s, the grid is that of %s; passed over.", path, named, self.space)
            self.passed_over.append(f"{path.name} says {named}")
            return False
        return True


def combined_parts(path: Path) -> set[str]:
    """{"tian-sK", "schaefer-N"} for a published file of both (1..K Tian, then Schaefer), by its name."""
    named = _COMBINED.search(path.name.lower())
    return {f"schaefer-{named[1]}", f"tian-s{named[2]}"} if named else set()


def _split_combined(volume: PublishedVolume, names: set[str], parts: set[str]) -> dict[str, PublishedVolume]:
    n_tian = next(_N_TIAN[part] for part in parts if part in _N_TIAN)
    labels = volume.labels
    split = {
        name: np.where(labels <= n_tian, labels, 0) if name in _N_TIAN else np.maximum(labels - n_tian, 0)
        for name in names
    }
    return {n: PublishedVolume(volume.path, own, volume.affine, volume.source) for n, own in split.items()}


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
    _refuse_two_orientations(path, image)
    return PublishedVolume(path, values.astype(np.int64), image.affine, source_of(path))


def source_of(path: Path) -> dict[str, str]:
    """File name, SHA-256, and whether that is the hash of a published file."""
    sha256 = sha256_of_file(path)
    known = downloads().set_index("sha256")
    if sha256 not in known.index:
        return {"file": path.name, "sha256": sha256, "known": "by content"}
    row = known.loc[sha256]
    return {"file": path.name, "sha256": sha256, "known": f"{row['atlas']} as published at {row['address']}"}


def _refuse_two_orientations(path: Path, image: nib.Nifti1Image) -> None:
    """qform and sform may differ by rounding, not by more than a voxel or by left and right."""
    qform, sform = image.get_qform(coded=True), image.get_sform(coded=True)
    if not qform[1] or not sform[1]:
        return
    x, y, z = (n - 1 for n in image.shape[:3])
    corners = np.array([[i, j, k, 1] for i in (0, x) for j in (0, y) for k in (0, z)])
    apart = np.linalg.norm((corners @ (qform[0] - sform[0]).T)[:, :3], axis=1).max()
    if apart > 1.0:
        handed = " (left and right exchanged)" if np.linalg.det(qform[0] @ sform[0]) < 0 else ""
        raise InputError(
            f"{path}: its qform and its sform put the volume {apart:.0f} mm apart{handed}; "
            "one of them is wrong.",
            hint="Set both to the right one, or take the file from its publisher again.",
        )


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


# --- downloads ----------------------------------------------------------------------------------------------


def _download(names: set[str], space: str, passed_over: list[str]) -> dict[str, PublishedVolume]:
    table = downloads()
    table = table[(table["space"] == space) & (table["resolution"] == "2mm")].set_index("atlas")
    if names <= set(table.index):
        return {name: read_volume(download(name, table.loc[name])) for name in sorted(names)}
    for atlas in table.index:  # a published file of both, where one part is not to be had by itself
        if "+" in atlas and names == set(atlas.split("+")):
            return _split_combined(read_volume(download(atlas, table.loc[atlas])), names, names)
    lacking = sorted(names - set(table.index))
    met = f" In the folder: {'; '.join(passed_over)}." if passed_over else ""
    raise InputError(
        f"atlas {_and(set(lacking))} in {space} was not found, and no download of it is known.{met}",
        hint=f"Put {_and({_file_name(name, space) for name in lacking})} into the folder of --atlas-dir (or "
        "BJEPA_ATLAS_DIR).",
    )


def _file_name(name: str, space: str) -> str:
    """The name under which CBIG and TemplateFlow publish a volume."""
    family, number = name.split("-")
    if family == "tian":
        return f"Tian_Subcortex_{number.upper()}_3T.nii.gz"
    if space == "MNI152NLin6Asym":
        return f"Schaefer2018_{number}Parcels_17Networks_order_FSLMNI152_2mm.nii.gz"
    return f"tpl-{space}_res-02_atlas-Schaefer2018_desc-{number}Parcels17Networks_dseg.nii.gz"


def download(name: str, row: Any) -> Path:
    """Fetch one row of `downloads()` into the user's cache, its SHA-256 checked."""
    import pooch

    address, space = str(row["address"]), str(row["space"])
    try:
        path = pooch.retrieve(
            address,
            known_hash=f"sha256:{row['sha256']}",
            path=pooch.os_cache("bjepa") / "atlas" / space,
            fname=address.rsplit("/", 1)[1],
        )
    except Exception as error:  # requests, urllib3 and pooch raise their own kinds; a wrong hash a ValueError
        raise InputError(
            f"atlas {name} in {space} was not found and could not be downloaded from {address} ({error}).",
            hint="Give --atlas-dir (or BJEPA_ATLAS_DIR) with a folder that holds the published files.",
        ) from error
    return Path(path)


def _and(words: set[str]) -> str:
    return " and ".join(sorted(words))
