"""gradients/figures/: what is drawn are the numbers that were given, each with its label."""

from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgba
from numpy.testing import assert_allclose, assert_array_equal

from bjepa.gradients.embedding import Embedding
from bjepa.gradients.figures.alignment import alignment_figure, comparison_figure
from bjepa.gradients.figures.cross_check import cross_check_figure
from bjepa.gradients.figures.groups import group_planes_figure, groups_figure, individuals_figure
from bjepa.gradients.figures.maps import maps_figure, maps_overview_figure
from bjepa.gradients.figures.matrices import matrices_figure
from bjepa.gradients.figures.regions import networks_figure, plane_figure
from bjepa.gradients.figures.scree import scree_figure
from bjepa.gradients.figures.stability import displacement_figure, stability_figure
from bjepa.gradients.figures.style import MANY_DOTS, NETWORK_COLOURS, by_network, colour_limit
from bjepa.gradients.figures.volume import volume_figure
from bjepa.gradients.regions import Regions

NETWORKS = ["Default", "Vis", "odd", "Vis", "Subcortex", "Default", "Vis"]  # 7 regions
ORDER = [1, 3, 6, 0, 5, 4, 2]  # published networks in their order, others behind


@pytest.fixture
def gradients() -> Any:
    return np.random.default_rng(0).normal(size=(7, 4))


def panels_of(figure: Any) -> list[Any]:
    """Its panels; a picture is asked for where there is one."""
    assert figure is not None
    return list(figure.axes)


def curves(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line.get_ydata() for line in axes.get_lines()}


def offsets(axes: Any) -> Any:
    return np.vstack([np.asarray(dots.get_offsets()) for dots in axes.collections])


def test_matrices_are_ordered_by_network() -> None:
    fc = np.arange(49, dtype=np.float64).reshape(7, 7)
    left, right = (axes for axes in panels_of(matrices_figure(fc, fc + 100, NETWORKS)) if axes.images)
    assert_array_equal(left.images[0].get_array(), fc[np.ix_(ORDER, ORDER)])
    assert_array_equal(right.images[0].get_array(), fc[np.ix_(ORDER, ORDER)] + 100)
    assert [label.get_text() for label in left.get_xticklabels()] == ["Vis", "Default", "Subcortex", "odd"]
    assert len(left.get_lines()) == 6  # three inner edges, both ways
    assert_array_equal(by_network(NETWORKS, 7)[0], ORDER)


def test_colours_end_at_the_98th_percentile_of_magnitude() -> None:
    values = np.append(-np.arange(101.0), np.nan)
    assert colour_limit(values) == 98
    assert colour_limit(np.zeros(3)) == colour_limit(np.full(2, np.nan)) == 1


def test_every_region_has_its_place_and_the_colour_of_its_network(gradients: Any) -> None:
    figure = plane_figure(gradients, NETWORKS)
    assert figure is not None
    panels = [axes for axes in panels_of(figure) if axes.collections]
    for second, axes in enumerate(panels, start=1):
        assert_array_equal(offsets(axes), gradients[ORDER][:, [0, second]])
        assert axes.get_ylabel() == f"gradient {second + 1}"
    assert len(panels) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        *("Vis (3)", "Default (2)", "Subcortex (1)", "odd (1)")
    ]
    assert_array_equal(panels[0].collections[0].get_facecolor()[0], to_rgba(NETWORK_COLOURS["Vis"]))
    assert plane_figure(gradients[:, :1], NETWORKS) is None
    two = plane_figure(gradients[:, :2], None)
    assert two is not None and not two.legends


def test_thousands_of_dots_are_pixels() -> None:
    many = np.random.default_rng(1).normal(size=(MANY_DOTS + 1, 2))
    assert panels_of(plane_figure(many, None))[0].collections[0].get_rasterized()
    assert not panels_of(plane_figure(many[:-1], None))[0].collections[0].get_rasterized()


def test_networks_are_shown_with_median_and_quartiles(gradients: Any) -> None:
    gradients[3, 0] = np.nan  # a region of Vis that was left out
    axes, *others = panels_of(networks_figure(gradients, NETWORKS))
    assert len(others) == 2
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Vis", "Default", "Subcortex", "odd"]
    assert_array_equal(axes.collections[0].get_offsets()[:, 0], gradients[[1, 6], 0])
    medians = [line.get_xdata()[0] for line in axes.get_lines()[:4]]
    groups = ([1, 6], [0, 5], [4], [2])
    assert_allclose(medians, [np.median(gradients[rows, 0]) for rows in groups])
    box = axes.patches[1]
    assert_allclose(
        [box.get_x(), box.get_x() + box.get_width()], np.quantile(gradients[[0, 5], 0], [0.25, 0.75])
    )
    assert networks_figure(gradients, None) is None
    last = panels_of(networks_figure(gradients, NETWORKS, also=3))[-1]
    assert last.get_xlabel() == "gradient 4"
    assert_array_equal(last.collections[0].get_offsets()[:, 0], gradients[[1, 3, 6], 3])
    assert len(panels_of(networks_figure(gradients, NETWORKS, also=1))) == 3


def embedding(eigenvalues: list[float], next_eigenvalue: float) -> Embedding:
    values = np.array(eigenvalues)
    return Embedding(
        gradients=np.ones((9, len(values))),
        eigenvalues=values,
        multipliers=values,
        residuals=np.zeros(len(values)),
        next_eigenvalue=next_eigenvalue,
    )


def test_brackets_stand_over_close_pairs_only() -> None:
    result = embedding([0.8, 0.79, 0.5, 0.3, 0.299], 0.298)
    figure = scree_figure(result, np.array([0.1, 0.2, 0.25, 0.4, 0.41]))
    left, right = panels_of(figure)
    assert_array_equal(left.get_lines()[0].get_ydata(), result.eigenvalues)
    brackets = [line.get_xdata().tolist() for line in left.get_lines()[1:]]
    assert brackets == [[1, 1, 2, 2], [4, 4, 5, 5]]
    assert all(line.get_ydata().min() > 0.29 for line in left.get_lines()[1:])
    assert_allclose(right.get_lines()[0].get_ydata(), [10, 20, 25, 40, 41])  # percent
    assert len(scree_figure(embedding([0.8, 0.5], 0.1)).axes) == 1


AFFINE = np.array([[-4.0, 0, 0, 30], [0, 4, 0, -20], [0, 0, 4, -10], [0, 0, 0, 1]])


def test_slices_show_left_and_right_and_their_height(gradients: Any) -> None:
    labels = np.zeros((15, 11, 9), dtype=np.int16)
    labels[1:-1, 1:-1, 1:-1] = np.arange(13 * 9 * 7).reshape(13, 9, 7) % 7 + 1
    regions = Regions(
        table=pd.DataFrame({"name": list("abcdefg")}), labels_img=nib.Nifti1Image(labels, AFFINE)
    )
    gradients[2] = np.nan
    figure = volume_figure(gradients, regions)
    assert figure is not None
    slices = [axes for axes in panels_of(figure) if axes.images]
    drawn = np.concatenate([np.unique(axes.images[0].get_array().compressed()) for axes in slices[14:]])
    assert_allclose(
        np.unique(drawn), np.unique(gradients[[0, 1, 3, 4, 5, 6], 2].astype(np.float32)), rtol=1e-6
    )
    told = [text.get_text() for axes in panels_of(figure) for text in axes.texts]
    assert (
        told.count("L") == told.count("R") == 3 * 7 and sum(text.startswith("z=") for text in told) == 3 * 7
    )
    assert [text.get_text() for text in figure.texts] == ["gradient 1", "gradient 2", "gradient 3"]
    bars = [axes for axes in panels_of(figure) if axes.get_position().x0 > 0.94]
    assert_allclose([axes.get_ylim()[1] for axes in bars], [colour_limit(gradients[:, k]) for k in range(3)])


def test_without_a_volume_regions_stand_at_their_coordinates(gradients: Any) -> None:
    x, y, z = np.random.default_rng(2).uniform(-40, 40, size=(3, 7)).round(1)
    table = pd.DataFrame(
        {"name": list("abcdefg"), "x": x.astype(str), "y": y.astype(str), "z": z.astype(str)}
    )
    drawn_on = panels_of(volume_figure(gradients[:, :1], Regions(table=table)))
    views = [axes for axes in drawn_on if axes.collections and axes.get_position().x0 < 0.94]
    drawn = [np.asarray(axes.collections[0].get_offsets()) for axes in views]
    assert [len(view) for view in drawn] == [(x < 0).sum(), 7, (x > 0).sum(), 7]  # left, back, right, top
    assert_allclose(drawn[1], np.stack([x, z], axis=1))
    assert_allclose(drawn[3], np.stack([x, y], axis=1))
    limit = colour_limit(gradients[:, 0])
    expected = colormaps["RdBu_r"](0.5 + gradients[:, 0] / (2 * limit))
    assert_allclose(views[3].collections[0].get_facecolor(), expected, atol=0.01)
    table.loc[3, "y"] = "n/a"
    assert volume_figure(gradients, Regions(table=table)) is None
    assert volume_figure(gradients, Regions(table=table[["name"]])) is None


def stability(structures: list[str]) -> Any:
    rows = [
        {"structure": s, "component": k, "r": 0.9 - 0.1 * k - 0.05 * n, "n_regions": 5, "n_splits": 20}
        for n, s in enumerate(structures)
        for k in (1, 2, 3)
    ]
    table = pd.DataFrame(rows).assign(r_null=0.31)
    table["r_low"], table["r_unaligned_low"] = table["r"] - 0.2, table["r"] - 0.4
    table["r_high"], table["r_unaligned"], table["r_unaligned_high"] = (
        table["r"] + 0.1,
        table["r"] - 0.1,
        table["r"],
    )
    regions = pd.DataFrame({"name": list("abcdefg"), "network7": NETWORKS, "displacement": np.arange(7) / 10})
    regions["structure"] = ["subcortex" if network == "Subcortex" else "cortex" for network in NETWORKS]
    subspaces = pd.DataFrame({"n_components": [1, 2, 3], "cosine_min": [0.9, 0.8, 0.95]})
    subspaces["cosine_low"], subspaces["cosine_high"] = subspaces["cosine_min"] - 0.1, 0.99
    return SimpleNamespace(table=table, regions=regions, subspaces=subspaces)


def test_stability_shows_all_structures_and_the_null() -> None:
    found = stability(["all", "cortex", "subcortex"])
    whole, parts, spaces = panels_of(stability_figure(found))
    assert_allclose(curves(whole)["after alignment"], [0.8, 0.7, 0.6])
    assert_allclose(curves(whole)["as computed"], [0.7, 0.6, 0.5])
    assert_allclose(curves(parts)["cortex (5)"], [0.75, 0.65, 0.55])
    assert_allclose(curves(parts)["subcortex (5)"], [0.7, 0.6, 0.5])
    assert_allclose(spaces.get_lines()[0].get_ydata(), [0.9, 0.8, 0.95])
    assert_allclose(whole.patches[0].get_data().values, [0.31] * 3)
    band = whole.collections[1].get_paths()[0].vertices  # after alignment
    assert_allclose([band[:, 1].min(), band[:, 1].max()], [0.4, 0.9])
    assert len(panels_of(stability_figure(stability(["all"])))) == 2


def test_displacement_is_told_by_network_and_structure() -> None:
    (axes,) = panels_of(displacement_figure(stability(["all"])))
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels == ["Vis", "Default", "Subcortex", "odd", "all cortex", "all subcortex"]
    assert_allclose(axes.collections[0].get_offsets()[:, 0], [0.1, 0.3, 0.6])
    assert_allclose(axes.collections[5].get_offsets()[:, 0], [0.4])
    bare = stability(["all"])
    bare.regions = bare.regions.assign(network7="n/a", structure="n/a")
    (axes,) = panels_of(displacement_figure(bare))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["all regions"]


def test_alignment_tells_which_regions_did_not_decide(gradients: Any) -> None:
    reference = np.random.default_rng(3).normal(size=(7, 2))
    rows = np.array([True, True, False, True, True, True, True])
    found: Any = SimpleNamespace(
        gradients=gradients,
        reference_values=reference,
        rows=rows,
        r_before=np.array([-0.3, 0.2]),
        r=np.array([0.9, 0.8]),
        r_null=np.array([0.4, 0.5]),
    )
    left, right = panels_of(alignment_figure(found, NETWORKS))
    assert_allclose(curves(left)["before"], [0.3, 0.2])
    assert_allclose(curves(left)["after alignment"], [0.9, 0.8])
    assert_allclose(left.patches[0].get_data().values, [0.4, 0.5])
    decided, others = right.collections
    assert_allclose(decided.get_offsets(), np.stack([reference[rows, 0], gradients[rows, 0]], axis=1))
    assert_allclose(others.get_offsets(), [[reference[2, 0], gradients[2, 0]]])
    assert len(others.get_facecolor()) == 0 and "0.900" in right.get_title()


def test_comparison_names_the_best_match_where_it_is_another() -> None:
    table = pd.DataFrame(
        {"component": [1, 2, 3], "r": [-0.4, 0.2, 0.9], "best_match": [2, 1, 3], "r_best": [-0.8, 0.7, 0.9]}
    ).assign(r_aligned=[0.95, 0.9, 0.85], r_null=0.2)
    subspaces = pd.DataFrame({"n_components": [1, 2], "cosine_min": [0.3, 0.9], "cosine_mean": [0.3, 0.95]})
    found: Any = SimpleNamespace(table=table, subspaces=subspaces)
    left, right = panels_of(comparison_figure(found))
    assert [(text.get_text(), text.xy[0]) for text in left.texts] == [("2", 1), ("1", 2)]
    assert_allclose(curves(left)["same number"], [0.4, 0.2, 0.9])
    assert_allclose(curves(left)["after alignment"], [0.95, 0.9, 0.85])
    assert_allclose(curves(right)["smallest"], [0.3, 0.9])


def groups(n: int) -> Any:
    made = [
        SimpleNamespace(
            name=f"g{k}",
            n_scans=4,
            n_participants=k + 2,
            r=np.array([0.9, -0.5]),
            variance=np.array([0.2, 0.3 + 0.01 * k]),
            embedding=SimpleNamespace(gradients=np.random.default_rng(k).normal(size=(7, 2))),
        )
        for k in range(n)
    ]
    return SimpleNamespace(groups=made)


def test_groups_are_drawn_with_their_sizes() -> None:
    left, middle, right = panels_of(groups_figure(groups(3)))
    assert list(curves(left)) == ["g0 (2)", "g1 (3)", "g2 (4)"]
    assert_allclose(curves(left)["g1 (3)"], [0.9, 0.5])
    assert_allclose([line.get_ydata()[1] for line in middle.get_lines()], [30, 31, 32])
    assert_allclose(right.get_lines()[0].get_xdata(), np.sort(groups(1).groups[0].embedding.gradients[:, 0]))
    planes = panels_of(group_planes_figure(groups(5), NETWORKS))
    drawn = [axes for axes in planes if axes.collections]
    assert [axes.get_title() for axes in drawn] == [f"g{k} ({k + 2})" for k in range(5)]
    assert_array_equal(offsets(drawn[4]), groups(5).groups[4].embedding.gradients[ORDER])


def test_individuals_are_dots() -> None:
    rng = np.random.default_rng(4)
    names = ["r_1", "r_2", "r_3", "r_mean", "variance_template", "variance_fc", "n_frames"]
    table = pd.DataFrame(rng.uniform(size=(6, 7)), columns=names)
    table.loc[2, "r_3"] = np.nan
    found: Any = SimpleNamespace(table=table)
    left, middle, right = panels_of(individuals_figure(found))
    assert [len(dots.get_offsets()) for dots in left.collections] == [6, 6, 5]
    assert_allclose(middle.collections[0].get_offsets()[:, 0], 100 * table["variance_fc"])
    assert_allclose(middle.collections[1].get_offsets()[:, 0], 100 * table["variance_template"])
    assert_allclose(right.collections[0].get_offsets(), table[["n_frames", "r_mean"]])


def test_maps_stand_against_their_gradient(gradients: Any) -> None:
    values = pd.DataFrame({"myelin": np.arange(7.0), "<age>": np.arange(7.0)[::-1]})
    table = pd.DataFrame(
        [(name, k, 0.1 * k, 0.02, 0.04 if k == 2 else 0.5) for name in values for k in (1, 2, 3, 4)],
        columns=["map", "component", "r", "p", "p_fdr"],
    )
    found: Any = SimpleNamespace(table=table, values=values)
    panels = panels_of(maps_figure(found, gradients, None))
    assert len(panels) == 6 and panels[3].get_ylabel() == "<age>"
    assert_allclose(
        panels[4].collections[0].get_offsets(), np.stack([gradients[:, 1], values["<age>"]], axis=1)
    )
    assert panels[4].get_title() == "r = 0.20, p = 0.02, FDR 0.04"
    axes = panels_of(maps_overview_figure(found))[0]
    assert_allclose(axes.images[0].get_array(), np.tile([0.1, 0.2, 0.3, 0.4], (2, 1)))
    assert_array_equal(axes.get_lines()[0].get_xydata(), [[1, 0], [1, 1]])  # component 2 of both
    found.values, found.table = values[["myelin"]], table[table["map"] == "myelin"]
    assert maps_overview_figure(found) is None


def test_cross_check_shows_both_residuals() -> None:
    check = {"abs_r": [1.0, 0.99], "abs_r_min_over_seeds": [0.98, 0.9]}
    check |= {"residual": [1e-15, 1e-14], "residual_brainspace": [0.1, 0.2]}
    left, right = panels_of(cross_check_figure(check))
    assert_allclose(curves(left)["lowest of seeds 0-4"], [0.98, 0.9])
    assert_allclose(curves(right)["BrainSpace"], [0.1, 0.2])
    assert_allclose(curves(right)["bjepa"], [1e-15, 1e-14])
    assert right.get_yscale() == "log"
