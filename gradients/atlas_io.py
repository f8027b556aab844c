"""The gradient atlas on disk: one row per region, one column per component, and where it came from.

    gradients.csv     (R, C), no header, no index: what other programs read
    gradients.tsv     the columns of the atlas, then gradient_1 ... gradient_C
    gradients.h5      everything, with every parameter and the hash of the atlas
    gradients.nii.gz  4D, one volume per component (where the atlas is a volume)
    eigenvalues.tsv   one row per component

R regions, C components. Written with 17 significant digits, so reading gives the same float64 numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.regions import Regions
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_text

FORMAT, FORMAT_VERSION = "bjepa-gradients", 1


@dataclass(frozen=True)
class GradientTable:
    """Gradients as read from a file."""

    values: NDArray[np.float64]  # (R, C)
    atlas_sha256: str | None  # of the atlas's label array, None where the file does not say


def load_gradients(path: str | Path) -> GradientTable:
    """Read `gradients.csv`, `gradients.tsv` or `gradients.h5`, ours or anybody's.

    A text file holds no hash; it is taken from the `gradients.h5` beside it if that holds the same numbers.

    Raises
    ------
    InputError
        No such file; another format; not a table of finite numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"{path} is not a file of gradients.", hint="Give gradients.csv, gradients.tsv or gradients.h5."
        )
    if path.suffix == ".h5":
        return _read_h5(path)
    if path.suffix not in (".csv", ".tsv"):
        raise InputError(f"{path}: gradients are read from .csv, .tsv or .h5, not {path.suffix!r}.")
    values = _read_csv(path) if path.suffix == ".csv" else _read_tsv(path)
    beside = path.with_name("gradients.h5")
    if beside.is_file():
        full = _read_h5(beside)
        if np.array_equal(full.values, values):
            return full
    return GradientTable(values, None)


def _read_csv(path: Path) -> NDArray[np.float64]:
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=2, dtype=np.float64)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a table of numbers separated by commas ({error}).",
            hint="gradients.csv has neither header nor index: one row per region.",
        ) from error
    return _checked(values, path)


def _read_tsv(path: Path) -> NDArray[np.float64]:
    import pandas as pd

    try:
        # as text first: pandas' own parser is not exact to the last digit in every version
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        columns = [name for name in table.columns if str(name).startswith("gradient_")]
        values = table[columns].to_numpy(dtype=np.float64)
    except ValueError as error:
        raise InputError(f"{path} is not a table separated by tabs ({error}).") from error
    if not columns:
        raise InputError(f"{path} has no column gradient_1; it has {list(table.columns)[:12]}.")
    return _checked(values, path)


def _read_h5(path: Path) -> GradientTable:
    try:
        with h5py.File(path, "r") as file:
            if "gradients" not in file:
                raise InputError(f"{path} has no dataset /gradients; it has {sorted(file)[:12]}.")
            values = file["gradients"][()]
            sha256 = str(file.attrs.get("atlas_sha256", "")) or None
    except OSError as error:
        raise InputError(f"{path} is not a readable HDF5 file ({error}).") from error
    return GradientTable(_checked(values, path), sha256)


def _checked(found: Any, path: Path) -> NDArray[np.float64]:
    try:
        values: NDArray[np.float64] = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: gradients must be numbers ({error}).") from error
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        bad = f"{values.shape} with {np.count_nonzero(~np.isfinite(values))} non-finite values"
        raise InputError(f"{path}: gradients must be (regions, components) and finite, got {bad}.")
    return values


def write_gradients(
    folder: Path,
    result: Embedding,
    regions: Regions,
    *,
    affinity: NDArray[np.float64],
    fc_mean: NDArray[np.float64],
    parameters: Mapping[str, str | int | float | bool],
) -> None:
    """Write all files of the gradient atlas, each whole; gradients.csv comes last.

    `parameters` become attributes of gradients.h5; names of files, ids and numbers only.
    """
    values = result.gradients  # (R, C)
    with write_aside(folder / "gradients.h5") as aside, h5py.File(aside, "w") as file:
        file["gradients"] = values
        file["eigenvalues"] = result.eigenvalues
        file["multipliers"] = result.multipliers
        file["residuals"] = result.residuals
        file["affinity"] = affinity
        file["fc_mean"] = fc_mean
        for column in regions.table.columns:
            cells = [str(cell) for cell in regions.table[column]]
            file.create_dataset(f"rois/{column}", data=cells, dtype=h5py.string_dtype("utf-8"))
        file.attrs.update(
            format=FORMAT,
            format_version=FORMAT_VERSION,
            bjepa_version=bjepa.__version__,
            atlas=regions.atlas,
            atlas_sha256=regions.atlas_sha256 or "",
            **parameters,
        )

    table = regions.table.copy()
    for number, column in enumerate(values.T, start=1):
        table[f"gradient_{number}"] = [_exact(value) for value in column]
    write_text(folder / "gradients.tsv", table.to_csv(sep="\t", index=False, lineterminator="\n"))

    lines = ["component\teigenvalue\tmultiplier\trelative_gap_to_next\tresidual\n"]
    per_component = np.column_stack(
        [result.eigenvalues, result.multipliers, result.relative_gaps(), result.residuals]
    )  # (C, 4)
    for number, numbers in enumerate(per_component, start=1):
        lines.append("\t".join([str(number), *map(_exact, numbers)]) + "\n")
    write_text(folder / "eigenvalues.tsv", "".join(lines))

    if regions.labels_img is not None:
        _write_volume(folder / "gradients.nii.gz", values, regions.labels_img)
    else:
        (folder / "gradients.nii.gz").unlink(missing_ok=True)  # of an earlier run with another atlas

    rows = [",".join(map(_exact, row)) + "\n" for row in values]
    write_text(folder / "gradients.csv", "".join(rows))


def _exact(value: float) -> str:
    return "n/a" if np.isnan(value) else f"{value:.17g}"


def _write_volume(path: Path, values: NDArray[np.float64], labels_img: Any) -> None:
    """Each voxel takes the value of its region, 0 outside: (x, y, z, C) float32."""
    import nibabel

    nib: Any = nibabel  # partly typed
    volume = nib.Nifti1Image(paint(values, labels_img), labels_img.affine)
    volume.header.set_xyzt_units("mm")
    volume.header["descrip"] = b"connectivity gradients, one per volume"
    with write_aside(path) as aside:
        nib.save(volume, aside)


def paint(values: NDArray[np.float64], labels_img: Any) -> NDArray[np.float32]:
    """Spread (R, C) values over the voxels labelled 1..R: (x, y, z, C) float32, 0 elsewhere."""
    labels = np.asarray(labels_img.dataobj).astype(np.int64)  # (x, y, z)
    by_label = np.zeros((values.shape[0] + 1, values.shape[1]), dtype=np.float32)
    by_label[1:] = values
    painted: NDArray[np.float32] = by_label[labels]
    return painted
