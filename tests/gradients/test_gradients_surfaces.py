"""gradients/figures/surfaces.py and surface_view.py: regions on vertices, judged by where they lie."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PolyCollection
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from bjepa.gradients.figures.surface_view import region_of_faces, surface_figure
from bjepa.gradients.figures.surfaces import Hemisphere, SurfaceLabels, surface_labels
from bjepa.gradients.regions import Regions
from bjepa.preproc.atlas.published import schaefer_table, schaefer_vertices, tian_table
from bjepa.preproc.brainspace_files import brainspace_datasets

FSLR, FSAVERAGE5 = 32492, 10242
LEFT, RIGHT = "CIFTI_STRUCTURE_CORTEX_LEFT", "CIFTI_STRUCTURE_CORTEX_RIGHT"


def named(names: list[str], **columns: Any) -> Regions:
    return Regions(table=pd.DataFrame({"name": names, **columns}))


def flat(surface: SurfaceLabels) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    labels = np.concatenate([hemisphere.labels for hemisphere in surface.hemispheres])
    return labels, np.vstack([hemisphere.vertices for hemisphere in surface.hemispheres])


@pytest.mark.parametrize(
    ("order", "n_parcels"), [("17networks", 400), ("7networks", 100), ("17networks", 1000)]
)
def test_schaefer_parcels_lie_where_they_are_published(order: str, n_parcels: int) -> None:
    table = schaefer_table(order, n_parcels)
    shuffled = table.sample(frac=1, random_state=0, ignore_index=True)
    surface = surface_labels(named(shuffled["name"].tolist()))
    assert surface is not None and surface.mesh == "fs_LR 32k" and not surface.is_approximate
    labels, vertices = flat(surface)
    n_vertices = np.bincount(labels, minlength=n_parcels + 1)[1:]
    published = schaefer_vertices(order, n_parcels)
    assert published is not None
    expected = published.to_numpy()[shuffled["index"].to_numpy() - 1]
    assert np.abs(n_vertices - expected).sum() < 0.02 * expected.sum()  # measured 0.011: the medial wall
    there = np.flatnonzero(n_vertices)
    centres = np.array([vertices[labels == row + 1].mean(axis=0) for row in there])
    distance = np.linalg.norm(centres - shuffled[["x", "y", "z"]].to_numpy()[there], axis=1)
    assert np.median(distance) < 5 and np.quantile(distance, 0.99) < 15  # mm; another order: 60
    for hemisphere in surface.hemispheres:
        of_side = shuffled["hemisphere"].to_numpy()[hemisphere.labels[hemisphere.labels > 0] - 1]
        assert set(of_side) == {hemisphere.side[0].upper()}
        assert np.sign(hemisphere.vertices[:, 0].mean()) == (-1 if hemisphere.side == "left" else 1)


def test_schaefer_parcels_among_other_regions_keep_their_columns() -> None:
    names = [*tian_table()["name"], *schaefer_table("17networks", 200)["name"], "cerebellum"]
    surface = surface_labels(named(names))
    assert surface is not None and "Schaefer-200" in surface.how
    assert_array_equal(surface.shown, np.arange(51, 251))
    myelin = np.loadtxt(brainspace_datasets() / "matrices/main_group/conte69_32k_t1wt2w.csv")
    labels, _ = flat(surface)
    mean = pd.Series(myelin).groupby(labels).mean().loc[51:]
    by_network = mean.groupby(schaefer_table("17networks", 200)["network7"].to_numpy()).mean()
    assert set(by_network.nlargest(2).index) == {"Vis", "SomMot"}  # the myelinated ones
    assert by_network.idxmin() == "Limbic"


def test_a_dlabel_beside_the_shards_tells_the_vertices(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vertices = [np.sort(rng.permutation(FSLR)[:n]) for n in (700, 500)]
    axis = nib.cifti2.BrainModelAxis(
        name=np.repeat([LEFT, RIGHT, "CIFTI_STRUCTURE_THALAMUS_LEFT"], [700, 500, 3]),
        vertex=np.concatenate([*vertices, [-1, -1, -1]]),
        voxel=np.vstack([np.full((1200, 3), -1), [[3, 4, 5], [3, 4, 6], [3, 5, 5]]]),
        affine=np.diag([-2.0, 2, 2, 1]),
        volume_shape=(91, 109, 91),
        nvertices={LEFT: FSLR, RIGHT: FSLR},
    )
    keys = np.concatenate([rng.integers(0, 4, 700), rng.integers(4, 6, 500), [6, 6, 6]])
    table = {key: (f"r{key}", (0.0, 0.0, 0.0, 1.0)) for key in range(7)}
    header = nib.cifti2.LabelAxis(["map"], [table])
    file = tmp_path / "atlas.dlabel.nii"
    nib.save(nib.Cifti2Image(keys[None].astype(np.float32), (header, axis)), file)

    surface = surface_labels(
        Regions(table=pd.DataFrame({"name": [f"r{k}" for k in range(1, 7)]}), dlabel=file)
    )
    assert surface is not None and surface.mesh == "fs_LR 32k" and not surface.is_approximate
    for hemisphere, own, part in zip(
        surface.hemispheres, vertices, (keys[:700], keys[700:1200]), strict=True
    ):
        expected = np.zeros(FSLR, dtype=int)
        expected[own] = part
        assert_array_equal(hemisphere.labels, expected)
    assert 6 not in surface.shown  # voxels only


def octants() -> tuple[Any, NDArray[np.float64]]:
    """Labels 1 left front, 2 left back, 3 right front, 4 right back, 5 a ball in the middle; oblique grid."""
    affine = np.array([[0, -3.0, 0, 90], [2.5, 0, 0, -130], [0, 0, 4, -80], [0, 0, 0, 1]])
    grid = np.stack(np.meshgrid(*map(np.arange, (92, 62, 44)), indexing="ij"), -1)
    x, y, z = np.moveaxis(nib.affines.apply_affine(affine, grid), -1, 0)
    labels = 1 + 2 * (x > 0) + (y < 0)
    labels[np.hypot(np.hypot(x, y + 20), z) < 25] = 5
    return nib.Nifti1Image(labels.astype(np.int16), affine), affine


@pytest.mark.parametrize("known", [True, False])
def test_a_label_volume_is_projected_without_averaging(known: bool) -> None:
    image, _ = octants()
    structure, side = [*["cortex"] * 4, "subcortex"], ["L", "L", "R", "R", "n/a"]
    columns = {"structure": structure, "hemisphere": side} if known else {}
    regions = named(list("abcde"), **columns)
    surface = surface_labels(Regions(table=regions.table, labels_img=image))
    assert surface is not None and surface.is_approximate and surface.mesh == "fsaverage5"
    assert "approximate" in surface.how
    labels, vertices = flat(surface)
    assert set(labels) == ({0, 1, 2, 3, 4} if known else {1, 2, 3, 4, 5})  # the ball is no cortex
    far = (np.abs(vertices[:, :2]) > 8).all(axis=1) & ~np.isin(labels, [0, 5])
    expected = 1 + 2 * (vertices[:, 0] > 0) + (vertices[:, 1] < 0)
    assert (labels[far] == expected[far]).mean() > 0.99 and far.sum() > 10_000
    left, right = (set(hemisphere.labels) for hemisphere in surface.hemispheres)
    if known:
        assert not left & {3, 4} and not right & {1, 2}


def test_values_of_vertices_need_no_labels(caplog: pytest.LogCaptureFixture) -> None:
    both = surface_labels(named(["v"] * (2 * FSAVERAGE5)))
    assert both is not None and [h.side for h in both.hemispheres] == ["left", "right"]
    assert_array_equal(flat(both)[0], np.arange(1, 2 * FSAVERAGE5 + 1))
    right = surface_labels(named(["v"] * FSLR, hemisphere=["R"] * FSLR))
    assert right is not None and [h.side for h in right.hemispheres] == ["right"]
    assert right.hemispheres[0].vertices[:, 0].mean() > 20  # mm
    assert not caplog.records
    guessed = surface_labels(named(["v"] * FSLR))
    assert guessed is not None and "does not say which" in guessed.how and "left" in caplog.text


def test_no_surface_without_a_way(caplog: pytest.LogCaptureFixture) -> None:
    assert surface_labels(named([f"region-{n}" for n in range(1, 401)])) is None  # 400, but whose?
    names = schaefer_table("7networks", 400)["name"].tolist()
    assert surface_labels(named(names[:-1])) is None
    assert caplog.text.count("no surface is drawn") == 2


def test_a_face_has_the_region_of_most_of_its_vertices() -> None:
    labels = np.array([7, 7, 3, 5, 5])
    faces = np.array([[0, 1, 2], [2, 0, 1], [0, 2, 1], [2, 3, 4], [0, 2, 3]])
    assert_array_equal(region_of_faces(labels, faces), [7, 7, 7, 5, 7])


def _ball(side: str) -> Hemisphere:
    """A sphere of 40 mm: region 1 in front, 2 behind; the medial third has none."""
    from scipy.spatial import ConvexHull

    turn = np.arange(900)
    z = 1 - 2 * (turn + 0.5) / 900
    angle = turn * 2.399963
    points = 40 * np.stack([np.sqrt(1 - z**2) * np.cos(angle), np.sqrt(1 - z**2) * np.sin(angle), z], 1)
    hull = ConvexHull(points)
    normal = np.cross(*(points[hull.simplices[:, k]] - points[hull.simplices[:, 0]] for k in (1, 2)))
    inward = (normal * points[hull.simplices].mean(axis=1)).sum(axis=1) < 0
    faces = np.where(inward[:, None], hull.simplices[:, ::-1], hull.simplices).astype(np.int64)
    labels = np.where(points[:, 1] > 0, 1, 2)
    labels[points[:, 0] * (1 if side == "left" else -1) > 25] = 0
    middle = np.array([-45.0 if side == "left" else 45.0, -15, 20])
    return Hemisphere(side=side, vertices=points + middle, faces=faces, depth=points[:, 2], labels=labels)


def test_the_front_is_drawn_where_it_is_seen() -> None:
    surface = SurfaceLabels(hemispheres=[_ball("left"), _ball("right")], mesh="fsaverage5", how="made up")
    figure: Any = surface_figure(np.array([[1.0, -2], [-1, 1]]), surface)
    panels = [
        axes for axes in figure.axes if axes.collections and isinstance(axes.collections[0], PolyCollection)
    ]
    assert len(panels) == 4 * 2  # views x gradients
    titles = [axes.get_title() for axes in panels[:4]]
    assert titles == ["left, lateral", "left, medial", "right, medial", "right, lateral"]
    places = []
    for axes in panels[:4]:
        (painted,) = axes.collections
        assert painted.get_rasterized()
        colours = painted.get_facecolor()
        centre = np.array([path.vertices[:3].mean(axis=0) for path in painted.get_paths()])
        red = colours[:, 0] > 2 * colours[:, 2]  # region 1, the front, has the value +1
        blue = colours[:, 2] > 2 * colours[:, 0]
        grey = np.ptp(colours[:, :3], axis=1) < 1e-6
        assert red.sum() > 30 and blue.sum() > 30
        assert grey.any() == ("medial" in axes.get_title())
        places.append(np.sign(centre[red, 0].mean() - centre[blue, 0].mean()))
        assert centre[:, 1].mean() == pytest.approx(20, abs=2)  # z is up, mm
    assert places == [-1, 1, -1, 1]  # seen from the left, the front is to the left


@pytest.mark.parametrize("sides", ["L", "R", "LR"])
def test_vertices_of_cifti_series_are_found_by_name(sides: str) -> None:
    vertices = np.arange(3, FSLR, 3)  # some are left out, as the medial wall
    names = [f"{side}-{vertex:05d}" for side in sides for vertex in vertices]
    surface = surface_labels(named(names))
    assert surface is not None and surface.mesh == "fs_LR 32k"
    assert "".join(hemisphere.side[0].upper() for hemisphere in surface.hemispheres) == sides
    for number, hemisphere in enumerate(surface.hemispheres):
        assert_array_equal(np.flatnonzero(hemisphere.labels), vertices)
        assert hemisphere.labels[3] == number * len(vertices) + 1
