"""The order of the steps, from INPUT to the files of the gradient atlas.

    1. open     INPUT, and every file that an option names: what is wrong is told before the long work
    2. compute  connectivity, affinity, components                     inputs.py, recipe.py, neighbours.py
    3. judge    cross-check (before alignment, which it does not see)  quality/
    4. turn     towards a reference                                    alignment/
    5. ask      variance, stability, comparison, maps, groups          quality/, groups.py
    6. write    participants' gradients, all files, the report         individuals.py, atlas_io.py, report.py

Everything is computed before the first file is written, so refused input leaves nothing behind.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.atlas_io import write_gradients
from bjepa.gradients.bar import NO_BAR, Bar, over
from bjepa.gradients.connectivity.measure import Kind, Weights
from bjepa.gradients.embedding import Embedding
from bjepa.gradients.inputs import (
    GroupConnectivity,
    Input,
    count_participants,
    group_connectivity,
    open_input,
)
from bjepa.gradients.recipe import GradientOptions, embed_connectivity
from bjepa.gradients.surface_series import Hemisphere
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sweep_leftovers, write_json, write_tsv

if TYPE_CHECKING:
    from bjepa.gradients.alignment import Alignment, Reference
    from bjepa.gradients.groups import Groups
    from bjepa.gradients.individuals import Individuals
    from bjepa.gradients.quality.compare import Comparison
    from bjepa.gradients.quality.maps import Maps, Null
    from bjepa.gradients.quality.stability import Stability

log = logging.getLogger(__name__)

HCP = "hcp"  # the word for --align-to
MAX_DENSE = 12_000  # regions; a matrix of them is 1.2 GB, and five are held at once
WRITTEN = (  # names in OUTPUT that a run replaces or removes
    *("gradients.csv", "gradients.tsv", "gradients.h5", "eigenvalues.tsv", "cross_check.json"),
    *("stability.tsv", "stability_regions.tsv", "comparison.tsv", "maps.tsv", "groups.tsv"),
    *("individuals.tsv", "individuals.h5", "failures.tsv"),
)
AlignmentMethod = Literal["procrustes", "joint", "none"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked besides the gradients themselves."""

    align_to: str | None = None  # a file, or HCP
    alignment: AlignmentMethod = "procrustes"
    cross_check: bool = False
    split_half: bool = False
    n_splits: int = 100
    compare: Path | None = None
    maps: Path | None = None
    null: "Null" = "auto"
    n_permutations: int = 1000
    seed: int = 0
    group_by: str | None = None
    per_participant: bool = False
    surface: bool = False


@dataclass(frozen=True, kw_only=True)
class GradientRun:
    """All that a run computed; what the report shows. R regions, C components."""

    source: Path
    options: GradientOptions
    group: GroupConnectivity
    affinity: Any  # (R, R) float64, dense, or a scipy CSR array where n_neighbors is given
    result: Embedding  # as written, aligned if asked
    weights: Weights = "equal"
    n_neighbors: int | None = None
    alignment: "Alignment | None" = None
    variance: NDArray[np.float64] | None = None  # (C,) cumulative share of the variance of connectivity
    stability: "Stability | None" = None
    groups: "Groups | None" = None
    individuals: "Individuals | None" = None
    maps: "Maps | None" = None
    comparison: "Comparison | None" = None
    check: dict[str, Any] | None = None  # cross_check.json
    surface: bool = False

    @property
    def n_failed(self) -> int:
        """Participants that --per-participant could not embed."""
        return 0 if self.individuals is None else len(self.individuals.failures)


@dataclass(frozen=True, kw_only=True)
class _Named:
    """What the files hold that options name."""

    reference: "Reference | None" = None  # --align-to
    theirs: "Reference | None" = None  # --compare
    maps: Any = None  # pandas.DataFrame, one row a region
    labels: list[str] | None = None  # group of each scan, "" of none


def make_gradients(
    source: Path,
    output: Path,
    options: GradientOptions,
    *,
    asked: Asked | None = None,
    connectivity: Kind = "pearson",
    weights: Weights = "equal",
    n_neighbors: int | None = None,
    participants: Path | None = None,
    atlas_dir: Path | None = None,
    hemisphere: Hemisphere | None = None,
    n_jobs: int = 1,
    bar: Bar = NO_BAR,
    report: Callable[[Path, GradientRun], None] | None = None,
) -> GradientRun:
    """From INPUT to the files of the gradient atlas in `output`.

    Raises
    ------
    InputError
        Anything wrong with INPUT, options, reference or output place; nothing is written then.
    """
    asked = asked or Asked()
    _check_output(source, output, (participants, asked.align_to, asked.compare, asked.maps))
    given = open_input(source, participants=participants, atlas_dir=atlas_dir, hemisphere=hemisphere)
    _check_possible(given, options, asked, connectivity, weights, n_neighbors)
    named = _open_named(given, source, options, asked, participants)

    if n_neighbors is None:
        group = group_connectivity(given, kind=connectivity, weights=weights, n_jobs=n_jobs, bar=bar)
        assert group.fc is not None
        affinity, result = embed_connectivity(group.fc, options)
    else:
        group, affinity, result = _of_vertices(given, options, weights, n_neighbors, n_jobs, bar)
    log.info("%d components of %d regions", options.n_components, len(result.gradients))

    run = GradientRun(
        source=source,
        options=options,
        group=group,
        affinity=affinity,
        result=result,
        weights=weights,
        n_neighbors=n_neighbors,
        check=_cross_check(group, affinity, result, options) if asked.cross_check else None,
        surface=asked.surface,
    )
    run = _turned(run, named.reference, asked)
    run = _judged(run, named, asked, n_jobs, bar)
    run = _write(output, run, connectivity, asked, n_jobs, bar, report)
    return run


def _check_output(source: Path, output: Path, read: tuple[Path | str | None, ...]) -> None:
    """Refuse an OUTPUT in which files of others would be replaced, or be taken for scans next time."""
    if output.exists() and not output.is_dir():
        raise InputError(f"OUTPUT {output} is a file; a folder is needed.")
    made = [name for name in ("shards", "dataset_description.json", "run.json") if (output / name).exists()]
    if made or (output.is_dir() and source.exists() and output.samefile(source)):
        what = f"holds {made[0]} of another command" if made else "is INPUT"
        raise InputError(
            f"OUTPUT {output} {what}; files there would be mixed up, such as its report.html.",
            hint=f"Give a folder of its own, e.g. {output / 'gradients'}.",
        )
    for file in (source, *(Path(name) for name in read if name is not None)):
        if file.is_file() and output.is_dir() and file.parent.samefile(output) and file.name in WRITTEN:
            raise InputError(
                f"{file} would be replaced: OUTPUT {output} gets a file of this name.",
                hint="Give another OUTPUT, or move the file.",
            )


def _check_possible(
    given: Input,
    options: GradientOptions,
    asked: Asked,
    connectivity: Kind,
    weights: Weights,
    n_neighbors: int | None,
) -> None:
    """Refuse what INPUT cannot give, or what is not possible together, before anything long is begun."""
    of_scans = {
        "--split-half": asked.split_half,
        "--per-participant": asked.per_participant,
        "--group-by": asked.group_by is not None,
        f"--connectivity {connectivity}": connectivity != "pearson",
    }
    for option, wanted in {**of_scans, f"--weights {weights}": weights != "equal"}.items():
        if wanted:
            given.need_scans(option)
    of_a_matrix = {
        **of_scans,
        "--cross-check": asked.cross_check,
        "--alignment joint": asked.alignment == "joint",
    }
    if n_neighbors is not None and (dense := [option for option, wanted in of_a_matrix.items() if wanted]):
        raise InputError(
            f"{', '.join(dense)}: not together with --n-neighbors, which never forms the whole matrix.",
            hint="Leave --n-neighbors out, if the regions are few enough, or the others.",
        )
    n_rois = len(given.regions.names)
    if n_neighbors is None and n_rois > MAX_DENSE:
        raise InputError(
            f"{n_rois} regions: five matrices of {8e-9 * n_rois**2:.1f} GB would be needed; at most "
            f"{MAX_DENSE} regions are taken so.",
            hint="Give --n-neighbors, e.g. 1000: of each vertex the nearest others, in bounded memory.",
        )
    if asked.cross_check:
        from bjepa.gradients.quality.crosscheck import check_possible

        check_possible(n_rois, options.n_components)


def _open_named(
    given: Input, source: Path, options: GradientOptions, asked: Asked, participants: Path | None
) -> _Named:
    """Read what options name; refuse what they cannot have."""
    reference, theirs, maps, labels = None, None, None, None
    if asked.align_to == HCP:
        from bjepa.gradients.alignment import hcp_reference

        reference = hcp_reference(given.regions, options)
    elif asked.align_to is not None:
        from bjepa.gradients.alignment import load_reference

        reference = load_reference(Path(asked.align_to), given.regions)
    if reference is not None and asked.alignment == "joint":
        from bjepa.gradients.alignment.joint import connectivity_of

        connectivity_of(reference)
    if asked.compare is not None:
        from bjepa.gradients.alignment import load_reference

        theirs = load_reference(asked.compare, given.regions)
    if asked.maps is not None:
        from bjepa.gradients.quality.maps import read_maps

        maps = read_maps(asked.maps, given.regions)
    if asked.group_by is not None:
        from bjepa.gradients.participants_table import group_labels

        scans = given.need_scans("--group-by")
        labels, found = group_labels(scans, asked.group_by, participants=participants, source=source)
        log.info("--group-by %s: from %s", asked.group_by, found)
    return _Named(reference=reference, theirs=theirs, maps=maps, labels=labels)


def _cross_check(
    group: GroupConnectivity, affinity: Any, result: Embedding, options: GradientOptions
) -> dict[str, Any]:
    from bjepa.gradients.quality.crosscheck import cross_check

    log.info("cross-check with BrainSpace")
    return cross_check(
        group.fc,
        affinity,
        result,
        kernel=options.kernel,
        sparsity=options.sparsity,
        alpha=options.alpha,
    )


def _turned(run: GradientRun, reference: "Reference | None", asked: Asked) -> GradientRun:
    """The run with its gradients turned towards the reference, if there is one."""
    if reference is None:
        return run
    from bjepa.gradients.alignment import align, align_jointly

    if asked.alignment == "joint":
        if run.group.fc is None:
            raise InputError("--alignment joint needs a dense matrix.", hint="Leave --n-neighbors out.")
        alignment, result = align_jointly(
            run.group.fc, reference, run.options, gradients=run.result.gradients, seed=asked.seed
        )
    else:
        alignment = align(run.result.gradients, reference, seed=asked.seed)
        result = replace(run.result, gradients=alignment.gradients)
    return replace(run, result=result, alignment=alignment)


def _judged(run: GradientRun, named: _Named, asked: Asked, n_jobs: int, bar: Bar) -> GradientRun:
    """The run with the answers to what was asked of its gradients, as written."""
    values, regions = run.result.gradients, run.group.regions
    scans, fc = run.group.scans, run.group.fc
    found: dict[str, Any] = {}
    if fc is not None:
        from bjepa.gradients.quality.variance import variance_explained

        found["variance"] = variance_explained(fc, values)
    if named.theirs is not None:
        from bjepa.gradients.quality.compare import compare_gradients

        found["comparison"] = compare_gradients(values, named.theirs, seed=asked.seed)
    if asked.split_half:
        from bjepa.gradients.quality.stability import split_half

        assert scans is not None
        found["stability"] = split_half(
            scans,
            run.group.measure,
            values,
            run.options,
            weights=run.weights,
            n_splits=asked.n_splits,
            seed=asked.seed,
            regions=regions,
            n_jobs=n_jobs,
            bar=bar,
        )
    if named.maps is not None:
        from bjepa.gradients.quality.maps import correlate_maps

        found["maps"] = correlate_maps(
            named.maps,
            values,
            regions,
            null=asked.null,
            n_permutations=asked.n_permutations,
            seed=asked.seed,
            bar=bar,
        )
    if named.labels is not None:
        from bjepa.gradients.groups import group_gradients

        assert scans is not None and asked.group_by is not None
        bar.begin("groups", sum(label != "" for label in named.labels))
        found["groups"] = group_gradients(
            scans,
            named.labels,
            run.group.measure,
            values,
            run.options,
            column=asked.group_by,
            alignment=asked.alignment,
            weights=run.weights,
            n_jobs=n_jobs,
            progress=bar.step,
        )
    return replace(run, **found)


def _write(
    output: Path,
    run: GradientRun,
    connectivity: Kind,
    asked: Asked,
    n_jobs: int,
    bar: Bar,
    report: Callable[[Path, GradientRun], None] | None,
) -> GradientRun:
    """Write everything, remove what only an earlier run had; the run with its individuals."""
    from bjepa.gradients.groups import remove_groups, write_groups
    from bjepa.gradients.individuals import individual_gradients, remove_individuals

    (output / "gradients.csv").unlink(missing_ok=True)  # written last: while it is there, all is of one run
    if output.is_dir():
        sweep_leftovers(output, output / "figures")  # of a killed run
    regions, scans = run.group.regions, run.group.scans
    parameters = {
        **run.options.parameters(),
        "connectivity": connectivity if scans is not None else None,
        "weights": run.weights if scans is not None else None,
        "n_neighbors": run.n_neighbors,
        "hemisphere": getattr(scans, "hemisphere", None),
        "source": run.source.name,
    }
    if asked.per_participant:
        assert scans is not None
        bar.begin("participants", len(scans))
        individuals = individual_gradients(
            scans,
            run.group.measure,
            run.result.gradients,
            run.options,
            folder=output,
            regions=regions,
            weights=run.weights,
            n_jobs=n_jobs,
            progress=bar.step,
            parameters=parameters,
        )
        run = replace(run, individuals=individuals)
    else:
        remove_individuals(output)
    if run.groups is not None:
        write_groups(output, run.groups, regions, parameters=parameters)
    else:
        remove_groups(output)
    _write_tables(output, run)
    if report is not None:
        report(output, run)
    write_gradients(
        output,
        run.result,
        regions,
        affinity=run.affinity,
        fc_mean=run.group.fc,
        variance=run.variance,
        parameters={
            **parameters,
            "alignment": "none" if run.alignment is None else run.alignment.method,
            "align_to": "" if run.alignment is None else run.alignment.reference,
            "n_scans": run.group.n_scans,
            "n_participants": run.group.n_participants,
        },
    )
    return run


def _write_tables(output: Path, run: GradientRun) -> None:
    """The answers as tables; those that this run has not are removed, they would be of other numbers."""
    tables = {
        "stability.tsv": run.stability and run.stability.table,
        "stability_regions.tsv": run.stability and run.stability.regions,
        "comparison.tsv": run.comparison and run.comparison.table,
        "maps.tsv": run.maps and run.maps.table,
    }
    for name, table in tables.items():
        if table is None:
            (output / name).unlink(missing_ok=True)
        else:
            write_tsv(output / name, table, float_format="%.6g")
    if run.check is None:
        (output / "cross_check.json").unlink(missing_ok=True)
    else:
        write_json(output / "cross_check.json", run.check)


def _of_vertices(
    given: Input, options: GradientOptions, weights: Weights, n_neighbors: int, n_jobs: int, bar: Bar
) -> tuple[GroupConnectivity, Any, Embedding]:
    """Connectivity that is never formed, the graph of nearest neighbours, and its components."""
    from bjepa.gradients.neighbours import embed_neighbours

    what: Any = given.matrix if given.scans is None else given.scans
    affinity, result = embed_neighbours(
        what,
        options,
        n_neighbors=n_neighbors,
        weights=weights,
        n_jobs=n_jobs,
        progress=over(bar, "nearest neighbours"),
    )
    scans = given.scans
    group = GroupConnectivity(
        fc=given.matrix,
        regions=given.regions,
        n_scans=0 if scans is None else len(scans),
        n_participants=0 if scans is None else count_participants(scans),
        scans=scans,
    )
    return group, affinity, result
