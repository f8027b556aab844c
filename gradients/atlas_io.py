"""The gradient atlas on disk: one row per region, one column per component, and where it came from.

    gradients.csv          (R, C), no header, no index: what other programs read
    gradients.tsv          the columns of the atlas, then gradient_1 ... gradient_C
    gradients.h5           everything, with every parameter and the hash of the atlas
    gradients.nii.gz       4D, one volume per component (where the atlas is a volume)
    gradients.dscalar.nii  one map per component (where the atlas is CIFTI)
    eigenvalues.tsv        one row per component

R regions, C components. Written with 17 significant digits, so reading gives the same float64 numbers. A
region without gradients (--keep-largest) keeps its row: `nan` in .csv, `n/a` in .tsv, NaN and /kept in .h5.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.gradients.atlas_reading import GradientTable, load_fc_mean, load_gradients
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.painting import paint, write_grayordinates, write_volume
from bjepa.gradients.regions import Regions
from bjepa.preproc.files import write_aside, write_text

__all__ = ["GradientTable", "load_fc_mean", "load_gradients", "paint", "write_gradients"]

FORMAT, FORMAT_VERSION = "bjepa-gradients", 1
TABLES = ("gradients.csv", "gradients.tsv", "gradients.h5", "eigenvalues.tsv")

Array = NDArray[np.float64]
Parameters = Mapping[str, str | int | float | bool | None]


def write_gradients(
    folder: Path,
    result: Embedding,
    regions: Regions,
    *,
    affinity: Any | None,
    fc_mean: Array | None,
    parameters: Parameters,
    variance: Array | None = None,
) -> None:
    """Write all files of the gradient atlas, each whole; gradients.csv comes last.

    Parameters
    ----------
    affinity
        (R, R), dense or scipy sparse; None: not written. Sparse, `/affinity` of gradients.h5 is a group with
        the arrays of CSR.
    fc_mean
        (R, R), None where it was never formed: then it is not written.
    parameters
        Attributes of gradients.h5; names of files, ids and numbers only. None: not an option of this run.
    variance
        (C,) cumulative share of the variance of `fc_mean` that the components explain; None: not written.
    """
    values = result.gradients  # (R, C)
    with write_aside(folder / "gradients.h5") as aside, h5py.File(aside, "w") as file:
        file["gradients"] = values
        file["kept"] = result.kept
        file["eigenvalues"] = result.eigenvalues
        file["multipliers"] = result.multipliers
        file["residuals"] = result.residuals
        if affinity is not None:
            _write_affinity(file, affinity)
        if fc_mean is not None:
            file["fc_mean"] = fc_mean
        if variance is not None:
            file["variance_explained"] = variance
        write_regions(file, regions)
        write_attributes(file, regions, parameters)

    table = regions.table.copy()
    for number, column in enumerate(values.T, start=1):
        table[f"gradient_{number}"] = [_exact(value, missing="n/a") for value in column]
    write_text(folder / "gradients.tsv", table.to_csv(sep="\t", index=False, lineterminator="\n"))
    write_text(folder / "eigenvalues.tsv", _eigenvalues(result, variance))

    # what does not fit this atlas is of an earlier run with another one
    if regions.labels_img is not None:
        write_volume(folder / "gradients.nii.gz", values, regions.labels_img)
    else:
        (folder / "gradients.nii.gz").unlink(missing_ok=True)
    if regions.dlabel is not None:
        write_grayordinates(folder / "gradients.dscalar.nii", values, regions.dlabel)
    else:
        (folder / "gradients.dscalar.nii").unlink(missing_ok=True)

    rows = [",".join(_exact(value, missing="nan") for value in row) + "\n" for row in values]
    write_text(folder / "gradients.csv", "".join(rows))


def write_regions(file: Any, regions: Regions) -> None:
    """`/rois/*`: the table of the atlas, one text dataset per column, in an open HDF5 file."""
    for column in regions.table.columns:
        cells = [str(cell) for cell in regions.table[column]]
        file.create_dataset(f"rois/{column}", data=cells, dtype=h5py.string_dtype("utf-8"))


def write_attributes(file: Any, regions: Regions, parameters: Parameters, *, kind: str = FORMAT) -> None:
    """What tells where the numbers of an open HDF5 file come from; a parameter that is None is left out."""
    file.attrs.update(
        format=kind,
        format_version=FORMAT_VERSION,
        bjepa_version=bjepa.__version__,
        atlas=regions.atlas,
        atlas_sha256=regions.atlas_sha256 or "",
        **{name: value for name, value in parameters.items() if value is not None},
    )


def _write_affinity(file: Any, affinity: Any) -> None:
    from scipy.sparse import csr_array, issparse

    if not issparse(affinity):
        file["affinity"] = affinity
        return
    rows = csr_array(affinity)
    group = file.create_group("affinity")
    for name in ("data", "indices", "indptr"):
        group[name] = getattr(rows, name)
    group.attrs.update(format="csr", shape=rows.shape)


def _eigenvalues(result: Embedding, variance: Array | None) -> str:
    columns = {
        "eigenvalue": result.eigenvalues,
        "multiplier": result.multipliers,
        "relative_gap_to_next": result.relative_gaps(),
        "residual": result.residuals,
    }
    if variance is not None:
        columns["variance_explained"] = variance
    lines = ["\t".join(["component", *columns]) + "\n"]
    for number, numbers in enumerate(zip(*columns.values(), strict=True), start=1):
        lines.append("\t".join([str(number), *(_exact(n, missing="n/a") for n in numbers)]) + "\n")
    return "".join(lines)


def _exact(value: float, *, missing: str) -> str:
    return missing if np.isnan(value) else f"{value:.17g}"
