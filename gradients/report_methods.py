"""The method of a run as a paragraph for a paper, what it is to be cited with, and the files it wrote."""

import bjepa
from bjepa.gradients.pipeline import GradientRun

_CONNECTIVITY = {
    "pearson": "Pearson correlations between regional series, Fisher z-transformed",
    "ledoit-wolf": "correlations from the Ledoit-Wolf shrinkage covariance of regional series, Fisher "
    "z-transformed",
    "partial": "partial correlations (inverse of the Ledoit-Wolf shrinkage covariance) of regional series, "
    "Fisher z-transformed",
    "tangent": "Ledoit-Wolf shrinkage covariances of regional series, averaged in the tangent space at their "
    "geometric mean",
}
_APPROACH = {
    "dm": "diffusion map",
    "le": "Laplacian eigenmaps",
    "pca": "principal component analysis",
}
_NULLS = {
    "spin": "rotations of the cortical surface (spin test)",
    "variogram": "surrogate maps of matched variogram",
}

_SOFTWARE = (
    "Vos de Wael R, et al. (2020). BrainSpace: a toolbox for the analysis of macroscale gradients in "
    "neuroimaging and connectomics datasets. Communications Biology 3:103. doi:10.1038/s42003-020-0794-7"
)
_MARGULIES = (
    "Margulies DS, et al. (2016). Situating the default-mode network along a principal gradient of "
    "macroscale cortical organization. PNAS 113:12574-12579. doi:10.1073/pnas.1608282113"
)
_APPROACH_SOURCE = {
    "dm": "Coifman RR, Lafon S (2006). Diffusion maps. Applied and Computational Harmonic Analysis 21:5-30. "
    "doi:10.1016/j.acha.2006.04.006",
    "le": "Belkin M, Niyogi P (2003). Laplacian eigenmaps for dimensionality reduction and data "
    "representation. Neural Computation 15:1373-1396. doi:10.1162/089976603321780317",
}
_CONNECTIVITY_SOURCE = {
    "ledoit-wolf": "Ledoit O, Wolf M (2004). A well-conditioned estimator for large-dimensional covariance "
    "matrices. Journal of Multivariate Analysis 88:365-411. doi:10.1016/S0047-259X(03)00096-4",
    "tangent": "Varoquaux G, et al. (2010). Detection of brain functional-connectivity difference in "
    "post-stroke patients using group-level covariance modeling. MICCAI 2010, 200-208. "
    "doi:10.1007/978-3-642-15705-9_25",
}
_CONNECTIVITY_SOURCE["partial"] = _CONNECTIVITY_SOURCE["ledoit-wolf"]
_PROCRUSTES = (
    "Schönemann PH (1966). A generalized solution of the orthogonal Procrustes problem. Psychometrika "
    "31:1-10. doi:10.1007/BF02289451"
)
_ANGLES = (
    "Björck Å, Golub GH (1973). Numerical methods for computing angles between linear subspaces. Mathematics "
    "of Computation 27:579-594. doi:10.1090/S0025-5718-1973-0348991-3"
)
_NULL_SOURCE = {
    "spin": "Alexander-Bloch AF, et al. (2018). On testing for spatial correspondence between maps of human "
    "brain structure and function. NeuroImage 178:540-551. doi:10.1016/j.neuroimage.2018.05.070",
    "variogram": "Burt JB, et al. (2020). Generative modeling of brain maps with spatial autocorrelation. "
    "NeuroImage 220:117038. doi:10.1016/j.neuroimage.2020.117038",
}


def methods(run: GradientRun) -> str:
    """A paragraph with every parameter."""
    sentences = [_of_connectivity(run), _of_affinity(run), _of_embedding(run), _of_alignment(run)]
    sentences += [_of_stability(run), _of_groups(run), _of_individuals(run), _of_maps(run)]
    return " ".join(text for text in sentences if text)


def _of_connectivity(run: GradientRun) -> str:
    n_rois = len(run.result.gradients)
    where = f"{n_rois} regions" + (f" ({run.group.regions.atlas})" if run.group.regions.atlas else "")
    if not run.group.n_scans:
        return f"A given connectivity matrix of {where} was used, diagonal included."
    who = f"{run.group.n_scans} scan{'s' if run.group.n_scans > 1 else ''}"
    if run.group.n_participants:
        who += f" of {run.group.n_participants} participant{'s' if run.group.n_participants > 1 else ''}"
    weights = "equal weights" if run.weights == "equal" else "weights by number of frames"
    return (
        f"Functional connectivity of {where} was computed as {_CONNECTIVITY[run.group.measure.kind]}, and "
        f"averaged over {who} with {weights}."
    )


def _of_affinity(run: GradientRun) -> str:
    options, n_rois = run.options, len(run.result.gradients)
    n_kept = int((1 - options.sparsity) * n_rois)
    text = (
        f"In every row the largest {n_kept:,} of {n_rois:,} values were kept (sparsity "
        f"{options.sparsity:g}), and the affinity of two rows is their {options.kernel.replace('_', ' ')} "
        "similarity, negative values set to 0."
    )
    if run.n_neighbors is not None:
        text += f" Of each row of the affinity the {run.n_neighbors} largest values were kept."
    return text


def _of_embedding(run: GradientRun) -> str:
    options, result = run.options, run.result
    detail = ""
    if options.approach == "dm":
        alpha = 0.5 if options.alpha is None else options.alpha
        time = 0 if options.diffusion_time is None else options.diffusion_time
        scaled = options.scale_by_eigenvalues in (True, None)
        detail = f", α = {alpha:g}, diffusion time {time:g}" + (
            "" if scaled else ", components not scaled by their eigenvalues"
        )
    text = (
        f"{options.n_components} components were computed by {_APPROACH[options.approach]}{detail} (bjepa "
        f"{bjepa.__version__}; {result.solver} symmetric eigensolver, relative residuals at most "
        f"{result.residuals.max():.0e})."
    )
    if (n_lost := int((~result.kept).sum())) > 0:
        text += f" {n_lost} regions without a link to the largest piece of the graph were left out."
    return text


def _of_alignment(run: GradientRun) -> str:
    found = run.alignment
    if found is None:
        return "The sign of each component is such that its entry of largest magnitude is positive."
    if found.method == "joint":
        return (
            f"They were embedded together with {found.reference} (joint embedding of both matrices over "
            f"{int(found.rows.sum())} regions, diagonals set to 0), without a rotation."
        )
    how = {
        "procrustes": "turned by an orthogonal Procrustes rotation",
        "sign": "flipped in sign",
    }[found.method]
    return (
        f"They were {how} towards {found.reference} ({found.n_components} components, "
        f"{int(found.rows.sum())} regions, neither centred nor rescaled)."
    )


def _of_stability(run: GradientRun) -> str:
    found = run.stability
    if found is None:
        return ""
    return (
        f"Stability was assessed over {found.n_splits} random splits of {found.n_participants} participants "
        f"into halves (seed {found.seed}): gradients of each half were aligned to those of the whole group "
        "and correlated with one another, against a null of permuted regions; subspaces were compared by "
        "their principal cosines."
    )


def _of_groups(run: GradientRun) -> str:
    if run.groups is None:
        return ""
    how = {"none": "without alignment"}.get(
        run.groups.alignment, f"aligned to the gradients of all ({run.groups.alignment})"
    )
    names = ", ".join(group.name for group in run.groups.groups)
    return f"The same was done for each group of {run.groups.column} ({names}), {how}."


def _of_individuals(run: GradientRun) -> str:
    if run.individuals is None:
        return ""
    return (
        f"Gradients of each of {len(run.individuals.table)} participants were computed in the same way and "
        f"aligned to those of the group ({run.individuals.n_components} components)."
    )


def _of_maps(run: GradientRun) -> str:
    if run.maps is None:
        return ""
    which = f"the maps of {run.maps.file}" if run.maps.file else f"{run.maps.values.shape[1]} maps"
    nulls = " and ".join(what for name, what in _NULLS.items() if name in run.maps.null)
    return (
        f"Gradients were correlated (Pearson) with {which}; two-sided p-values are from "
        f"{run.maps.n_permutations} {nulls}, corrected for the false discovery rate over all maps and "
        "gradients (Benjamini-Hochberg)."
    )


def citations(run: GradientRun) -> list[str]:
    """What a paper with these numbers cites."""
    found = [_MARGULIES, _SOFTWARE]
    found += [_APPROACH_SOURCE[run.options.approach]] if run.options.approach in _APPROACH_SOURCE else []
    if run.group.n_scans and run.group.measure.kind in _CONNECTIVITY_SOURCE:
        found.append(_CONNECTIVITY_SOURCE[run.group.measure.kind])
    if run.alignment is not None or run.stability is not None or run.groups is not None:
        found.append(_PROCRUSTES)
    if run.stability is not None or run.comparison is not None or run.check is not None:
        found.append(_ANGLES)
    if run.maps is not None:
        found += [source for name, source in _NULL_SOURCE.items() if name in run.maps.null]
    return sorted(found)


def files(run: GradientRun, pictures: list[str]) -> list[tuple[str, str]]:
    """Name and content of every file of the run."""
    regions = run.group.regions
    n_rois, n_components = run.result.gradients.shape
    found = [
        ("gradients.csv", f"{n_rois} rows × {n_components} columns, numbers only, no header"),
        ("gradients.tsv", "the same beside the columns of the atlas: names, networks, coordinates"),
        ("gradients.h5", "gradients, eigenvalues, affinity, connectivity, and every parameter"),
    ]
    if regions.labels_img is not None:
        found.append(("gradients.nii.gz", "the gradients as a 4D image in the grid of the atlas"))
    if regions.dlabel is not None:
        found.append(("gradients.dscalar.nii", "the gradients on the surface, for wb_view"))
    found.append(
        ("eigenvalues.tsv", "eigenvalue, multiplier, gap to the next and residual of each component")
    )
    parts = (
        (run.check, "cross_check.json", "agreement with BrainSpace, in numbers"),
        (run.stability, "stability.tsv", "r between halves per component and structure, with intervals"),
        (run.stability, "stability_regions.tsv", "how far each region moves between halves"),
        (run.comparison, "comparison.tsv", "agreement with the file of --compare per component"),
        (run.maps, "maps.tsv", "r, p and corrected p of each map with each component"),
        (run.groups, "groups/, groups.tsv", "the same files for each group; r and variance of all"),
        (run.individuals, "individuals.h5, individuals.tsv", "gradients of each participant, and their r"),
    )
    found += [(name, what) for part, name, what in parts if part is not None]
    found.append(("figures/", "each picture of this page as .png and .svg: " + ", ".join(pictures)))
    return found
