"""Gradients of each participant, aligned to the group, written as they are computed.

    individuals.h5   /gradients (n, R, C) float32, NaN at regions that a participant misses;
                     /eigenvalues (n, C); /participant_id; /rois and attributes as in gradients.h5
    individuals.tsv  one row a participant: n_scans, n_frames (all phases), n_regions; after alignment r_1 to
                     r_3 and r_mean (of all C) with the template; variance_template and variance_fc
    failures.tsv     participants without gradients, and why

What the numbers are: participant_gradients.py. R regions, C components, n participants.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.atlas_io import Parameters, write_attributes, write_regions
from bjepa.gradients.connectivity.measure import Measure, Progress, Weights
from bjepa.gradients.participant_gradients import Failure, IndividualGradients, embed_participants
from bjepa.gradients.recipe import GradientOptions
from bjepa.gradients.regions import Regions
from bjepa.gradients.scans import Scans
from bjepa.preproc.files import write_aside, write_tsv

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
FORMAT = "bjepa-individual-gradients"
STAGE = "individuals"  # in failures.tsv
FAILURE_COLUMNS = ("source", "stage", "error", "message", "hint")
N_SHOWN = 3  # components with a column of their own


@dataclass(frozen=True, kw_only=True)
class Individuals:
    """What is told of all participants; their gradients are in individuals.h5, in the order of `table`."""

    table: "pd.DataFrame"  # columns of individuals.tsv
    n_components: int
    failures: "pd.DataFrame"  # FAILURE_COLUMNS


def individual_gradients(
    scans: Scans,
    measure: Measure,
    template: Array,
    options: GradientOptions,
    *,
    folder: Path,
    regions: Regions,
    weights: Weights = "equal",
    n_jobs: int = 1,
    progress: Progress | None = None,
    parameters: Parameters | None = None,
) -> Individuals:
    """Compute and write gradients of each participant; scans without an id are a participant each.

    Parameters
    ----------
    template
        (R, C) gradients of all scans, as written; NaN rows have none.
    folder
        OUTPUT.
    parameters
        Attributes of individuals.h5 besides those that this function knows.
    progress
        Called with the number of scans read since the last call (`tqdm.update` fits).

    A participant whose connectivity cannot be embedded is warned of and listed in failures.tsv.
    """
    found = embed_participants(
        scans, measure, template, options, weights=weights, n_jobs=n_jobs, progress=progress
    )
    own = options.parameters() | {"connectivity": measure.kind, "weights": weights, "alignment": "procrustes"}
    return write_individuals(folder, found, regions, template.shape, parameters={**(parameters or {}), **own})


def write_individuals(
    folder: Path,
    found: Iterable[IndividualGradients | Failure],
    regions: Regions,
    shape: tuple[int, ...],
    *,
    parameters: Parameters,
) -> Individuals:
    """Write participants as they come; `shape` is (R, C)."""
    import pandas as pd

    remove_individuals(folder)
    n_components = shape[1]
    rows: list[dict[str, Any]] = []
    failures = []
    with write_aside(folder / "individuals.h5") as aside, h5py.File(aside, "w") as file:
        gradients = file.create_dataset(
            "gradients", (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), dtype=np.float32
        )
        eigenvalues = []
        for one in found:
            if isinstance(one, Failure):
                log.warning("%s has no gradients: %s %s", one.participant_id, one.message, one.hint)
                failures.append((one.participant_id, STAGE, one.error, one.message, one.hint))
                continue
            gradients.resize(len(rows) + 1, axis=0)
            gradients[len(rows)] = one.gradients
            eigenvalues.append(one.eigenvalues)
            rows.append(_row(one))
        file["eigenvalues"] = np.reshape(eigenvalues, (len(rows), n_components)).astype(np.float64)
        ids = [row["participant_id"] for row in rows]
        file.create_dataset("participant_id", data=ids, dtype=h5py.string_dtype("utf-8"))
        write_regions(file, regions)
        write_attributes(file, regions, parameters, kind=FORMAT)
    if not rows:
        log.warning("none of %d participants has gradients", len(failures))
    table = pd.DataFrame(rows, columns=_columns(n_components))
    write_tsv(folder / "individuals.tsv", table, float_format="%.6g")
    failed = pd.DataFrame(failures, columns=list(FAILURE_COLUMNS))
    _write_failures(folder / "failures.tsv", failed)
    return Individuals(table=table, n_components=n_components, failures=failed)


def _columns(n_components: int) -> list[str]:
    r = [f"r_{number}" for number in range(1, min(N_SHOWN, n_components) + 1)]
    counts = ["participant_id", "n_scans", "n_frames", "n_regions"]
    return [*counts, *r, "r_mean", "variance_template", "variance_fc"]


def _row(one: IndividualGradients) -> dict[str, Any]:
    return {
        "participant_id": one.participant_id,
        "n_scans": one.n_scans,
        "n_frames": one.n_frames,
        "n_regions": int(np.isfinite(one.gradients).all(axis=1).sum()),
        **{f"r_{number}": r for number, r in enumerate(one.r[:N_SHOWN], start=1)},
        "r_mean": one.r.mean(),
        "variance_template": one.variance_template,
        "variance_fc": one.variance_fc,
    }


def remove_individuals(folder: Path) -> None:
    """Delete what `write_individuals` wrote here before, and nothing else."""
    import pandas as pd

    for name in ("individuals.tsv", "individuals.h5"):
        (folder / name).unlink(missing_ok=True)
    _write_failures(folder / "failures.tsv", pd.DataFrame(columns=list(FAILURE_COLUMNS)))


def _write_failures(path: Path, failed: "pd.DataFrame") -> None:
    """Replace our rows; those of another stage stay (OUTPUT may be that of bjepa-preprocess)."""
    import pandas as pd

    others = pd.DataFrame(columns=list(FAILURE_COLUMNS))
    if path.is_file():
        before = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
        if list(before.columns) == list(FAILURE_COLUMNS):
            others = before[before["stage"] != STAGE]
            if len(others) == len(before) and failed.empty:
                return  # none of it is ours
    together = pd.concat([others, failed]) if len(others) else failed
    if together.empty:
        path.unlink(missing_ok=True)
    else:
        write_tsv(path, together)
