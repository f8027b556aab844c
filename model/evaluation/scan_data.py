"""What an evaluation reads: the shards of bjepa-preprocess, or connectomes that are already there (.npz).

An .npz holds `participant_id` (n,) and one of
    fc         (n, R, R)   symmetric; the diagonal is not used
    features   (n, n_edges) upper triangles, row by row
Their values are taken as they are: no Fisher transform is added, since r and z cannot be told apart.
A participant may have several rows: they are scans.
"""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file, sha256_of_json
from bjepa.preproc.participants import bare_id
from bjepa.preproc.shards import ShardReader

OF_SCANS = ("fd_mean", "tsnr_median", "t_r", "n_frames")  # columns of scans.tsv that may be confounds


@dataclass(frozen=True, kw_only=True)
class ScanData:
    """Scans to evaluate on. Exactly one of `reader` (series) and `edges` (connectomes) is given."""

    source: Path
    participant_id: list[str]  # one per scan, without "sub-"
    reader: ShardReader | None
    edges: NDArray[np.float32] | None  # (n_scans, n_edges), NaN where unknown
    sha256: str  # of the files

    @property
    def atlas_sha256(self) -> str | None:
        """Hash of the atlas; connectomes do not say theirs."""
        return None if self.reader is None else self.reader.atlas_sha256

    def participant_values(self) -> dict[str, dict[str, str]]:
        """What scans.tsv beside the shards tells of each participant: OF_SCANS, means over its scans.

        A mean over scans of which one has no value is n/a. Empty where there is no such table.
        """
        if self.reader is None:
            return {}
        path = self.reader.paths[0].parent.parent / "scans.tsv"
        if not path.is_file():
            return {}
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if "participant_id" not in table:
            return {}
        owner = [bare_id(p) for p in table["participant_id"]]
        found: dict[str, dict[str, str]] = {}
        for column in OF_SCANS:
            if column in table:
                numbers = pd.to_numeric(table[column], errors="coerce")
                means = numbers.groupby(owner).apply(lambda of_one: of_one.mean(skipna=False))
                found[column] = {str(p): "n/a" if np.isnan(m) else f"{m:.9g}" for p, m in means.items()}
        return found


def load_scan_data(path: Path) -> ScanData:
    """Open DATA: an output folder of bjepa-preprocess (or its shards), or an .npz of connectomes.

    Raises InputError where it is neither, or where an array is missing, misshapen or of objects.
    """
    if path.suffix == ".npz":
        edges, participants = _read_connectomes(path)
        return ScanData(
            source=path, participant_id=participants, reader=None, edges=edges, sha256=sha256_of_file(path)
        )
    if not path.exists():
        raise InputError(
            f"{path} does not exist.", hint="Give an output folder of bjepa-preprocess, or an .npz with `fc`."
        )
    reader = ShardReader(path)
    return ScanData(
        source=path,
        participant_id=[bare_id(p) for p in reader.scans["participant_id"]],
        reader=reader,
        edges=None,
        sha256=sha256_of_json([sha256_of_file(shard) for shard in reader.paths]),
    )


def participant_features(
    of_scans: Callable[[ScanData], NDArray[np.floating[Any]]],
) -> Callable[[ScanData, Sequence[str]], NDArray[np.float32]]:
    """The inputs of a method: features of scans (n_scans, D), averaged to (n_participants, D) float32."""

    def inputs(data: ScanData, participants: Sequence[str]) -> NDArray[np.float32]:
        return average_by_participant(of_scans(data), data.participant_id, participants)

    return inputs


def average_by_participant(
    features: NDArray[np.floating[Any]], participant_id: Sequence[str], wanted: Sequence[str]
) -> NDArray[np.float32]:
    """Mean of the scans' features (n_scans, D) for each wanted participant: (n_participants, D) float32.

    A value that is NaN in some scans is averaged over the others; NaN in all stays NaN.
    """
    row_of = {participant: row for row, participant in enumerate(wanted)}
    owner = np.array([row_of.get(participant, -1) for participant in participant_id])
    return mean_by_owner(features[owner >= 0], owner[owner >= 0], len(wanted))


def mean_by_owner(
    features: NDArray[np.floating[Any]], owner: NDArray[np.int64], n_owners: int
) -> NDArray[np.float32]:
    """(n_owners, D): of each owner the mean of its features (n, D), over those that are known (not NaN)."""
    known = np.isfinite(features)
    total, count = np.zeros((2, n_owners, features.shape[1]))
    np.add.at(total, owner, np.where(known, features, 0))
    np.add.at(count, owner, known)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean.astype(np.float32)


def _read_connectomes(path: Path) -> tuple[NDArray[np.float32], list[str]]:
    try:
        if not zipfile.is_zipfile(path):
            raise OSError("it is missing, cut off, or no zip archive")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: _array(path, arrays, name) for name in arrays.files}
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is not a readable .npz ({error}).", hint="Write it with numpy.savez."
        ) from error
    kinds = [name for name in ("fc", "features") if name in found]
    if "participant_id" not in found or len(kinds) != 1:
        raise InputError(
            f"{path} holds the arrays {sorted(found)}; `participant_id` and one of `fc` (n, R, R) or "
            "`features` (n, n_edges) are needed.",
            hint="numpy.savez(path, fc=fc, participant_id=np.array(ids, dtype=str))",
        )
    ids = found["participant_id"]
    values = found[kinds[0]]
    n_dim = {"fc": 3, "features": 2}[kinds[0]]
    if values.ndim != n_dim or values.dtype.kind not in "fiu" or ids.shape != values.shape[:1]:
        raise InputError(
            f"{path}: `{kinds[0]}` is {values.dtype} {values.shape} and `participant_id` {ids.shape}; "
            f"{n_dim} dimensions of numbers, and one id for each entry of the first, are needed.",
            hint="The first axis is the scan.",
        )
    edges = _upper_triangles(path, values) if kinds[0] == "fc" else values.astype(np.float32)
    if np.isinf(edges).any():
        raise InputError(
            f"{path}: `{kinds[0]}` has {np.isinf(edges).sum()} infinite values off the diagonal.",
            hint="Two regions with the same series give arctanh(1); set such edges to NaN.",
        )
    return edges, [bare_id(i.decode() if isinstance(i, bytes) else str(i)) for i in ids.tolist()]


def _array(path: Path, arrays: Any, name: str) -> NDArray[Any]:
    try:
        array: NDArray[Any] = arrays[name]
    except ValueError as error:  # numpy refuses to unpickle
        raise InputError(
            f"{path}: `{name}` is an array of Python objects, which is not read (it could run code).",
            hint="Save it as text or numbers: np.array(values, dtype=str).",
        ) from error
    return array


def _upper_triangles(path: Path, fc: NDArray[Any]) -> NDArray[np.float32]:
    n, n_rois = fc.shape[:2]
    upper = np.triu_indices(n_rois, k=1)
    edges = np.empty((n, len(upper[0])), dtype=np.float32)
    for scan, matrix in enumerate(fc):
        if matrix.shape[0] != matrix.shape[1] or not np.allclose(
            matrix[upper], matrix.T[upper], atol=1e-5, equal_nan=True
        ):
            raise InputError(
                f"{path}: `fc` is {fc.shape} and entry {scan} is not a symmetric matrix.",
                hint="Give (n, R, R) functional connectivity; directed matrices are not read.",
            )
        edges[scan] = matrix[upper]
    return edges
