"""The order of the steps: connectivity, affinity, diffusion map, cross-check, alignment, files, report.

Everything is computed before the first file is written, so refused input leaves nothing behind.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bjepa.gradients.alignment import align_gradients
from bjepa.gradients.atlas_io import load_gradients, write_gradients
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.inputs import GroupConnectivity, Progress, read_connectivity
from bjepa.gradients.quality.crosscheck import check_possible, cross_check
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GradientRun:
    """All that a run computed; what the report shows."""

    source: Path
    options: GradientOptions
    group: GroupConnectivity
    affinity: Any  # (R, R) float64
    result: Embedding  # as written, aligned if asked
    align_to: Path | None
    check: dict[str, Any] | None  # cross_check.json


def make_gradients(
    source: Path,
    output: Path,
    options: GradientOptions,
    *,
    align_to: Path | None = None,
    participants: Path | None = None,
    atlas_dir: Path | None = None,
    with_cross_check: bool = False,
    progress: Progress = lambda maps, n_scans: maps,
    report: Callable[[Path, GradientRun], None] | None = None,
) -> GradientRun:
    """From INPUT to the files of the gradient atlas in `output`.

    Raises
    ------
    InputError
        Anything wrong with INPUT, options, reference or output place; nothing is written then.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"OUTPUT {output} is a file; a folder is needed.")
    reference = load_gradients(align_to) if align_to is not None else None

    group = read_connectivity(source, participants=participants, atlas_dir=atlas_dir, progress=progress)
    sha256 = group.regions.atlas_sha256
    if reference is not None and None not in (reference.atlas_sha256, sha256):
        if reference.atlas_sha256 != sha256:
            raise InputError(
                f"--align-to {align_to} was made with another atlas (hash {reference.atlas_sha256}) than "
                f"INPUT (hash {sha256}).",
                hint="Align to gradients of the same atlas.",
            )
    if with_cross_check:
        check_possible(len(group.fc), options.n_components)

    affinity, result = embed_connectivity(group.fc, options)
    log.info("%d components of %d regions", options.n_components, len(group.fc))

    check = None
    if with_cross_check:
        log.info("cross-check with BrainSpace")
        check = cross_check(
            group.fc,
            affinity,
            result,
            kernel=options.kernel,
            sparsity=options.sparsity,
            alpha=options.alpha,
        )
    if reference is not None:
        result = replace(result, gradients=align_gradients(result.gradients, reference.values))

    run = GradientRun(
        source=source,
        options=options,
        group=group,
        affinity=affinity,
        result=result,
        align_to=align_to,
        check=check,
    )
    _write(output, run, report)
    return run


def _write(output: Path, run: GradientRun, report: Callable[[Path, GradientRun], None] | None) -> None:
    if run.check is not None:
        write_json(output / "cross_check.json", run.check)
    else:
        (output / "cross_check.json").unlink(missing_ok=True)  # of an earlier run: not of these numbers
    if report is not None:
        report(output, run)
    write_gradients(
        output,
        run.result,
        run.group.regions,
        affinity=run.affinity,
        fc_mean=run.group.fc,
        parameters={
            **asdict(run.options),
            "alignment": "none" if run.align_to is None else "procrustes",
            "align_to": "" if run.align_to is None else run.align_to.name,
            "n_scans": run.group.n_scans,
            "n_participants": run.group.n_participants,
            "source": run.source.name,
        },
    )
