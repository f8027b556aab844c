"""preproc/raw/{figures,mosaic,motion_plot}.py: right place, side and scale; same bytes, small files."""

import io
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from PIL import Image as PillowImage

from bjepa.preproc.raw import figures, mosaic, motion_plot
from bjepa.preproc.raw.mosaic import N_SLICES, TILE, Image, box_of, edges, outlines, planes

# x runs to the left, axes swapped and turned by 15 degrees: only the affine says what lies where
SHAPE = (31, 26, 22)
_TURN = np.array([[np.cos(0.26), -np.sin(0.26), 0], [np.sin(0.26), np.cos(0.26), 0], [0, 0, 1]])
_LINEAR = _TURN @ np.array([[0, -5.0, 0], [5.5, 0, 0], [0, 0, 6.0]])
AFFINE = from_matvec(_LINEAR, [5.0, -12.0, 9.0] - _LINEAR @ ((np.array(SHAPE) - 1) / 2))
CENTRE = np.array([5.0, -12.0, 9.0])
SPOT, REGION = CENTRE + np.array([-30.0, 25, 20]), CENTRE + np.array([15.0, -10, 0])
LIMIT = 150_000  # bytes: what a picture may weigh


def _at(shape: tuple[int, ...] = SHAPE, affine: NDArray[np.float64] = AFFINE) -> NDArray[np.float64]:
    return np.asarray(apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1)))


def _ball(centre: Any, radius: float, **grid: Any) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(_at(**grid) - centre, axis=-1) < radius)


def _head() -> NDArray[np.float32]:
    """A ball with a bright spot on the left, in front and on top."""
    rng = np.random.default_rng(3)
    head = 500 * _ball(CENTRE, 58) + 500 * _ball(SPOT, 18) + rng.normal(size=SHAPE)
    return np.asarray(head, dtype=np.float32)


@pytest.fixture(scope="module")
def boldref() -> nib.Nifti1Image:
    return nib.Nifti1Image(_head(), AFFINE)


def _read(path: Path) -> NDArray[np.int64]:
    return np.asarray(PillowImage.open(path).convert("RGB")).astype(np.int64)


def _motion(n_frames: int = 90) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    params = rng.normal(size=(n_frames, 6)).cumsum(axis=0) * [0.04, 0.03, 0.06, 6e-4, 5e-4, 4e-4]
    steps = np.abs(np.diff(params, axis=0)) @ [1, 1, 1, 50, 50, 50]
    return params, np.r_[np.nan, steps], np.r_[np.nan, rng.uniform(0.9, 1.1, n_frames - 1)]


# --- where slices lie ---------------------------------------------------------------------------------------


def test_planes_go_through_the_box_at_one_scale() -> None:
    box = np.array([[-60.0, -100, -40], [70, 80, 85]])
    rows = planes(box)
    assert [len(row) for row in rows] == [N_SLICES] * 3
    for axis, row in zip((2, 1, 0), rows, strict=True):
        places = [plane.points[0, 0, axis] for plane in row]
        assert_allclose(np.diff(places), np.diff(places)[0])
        assert_allclose([places[0] - box[0, axis], box[1, axis] - places[-1]], 0.1 * np.ptp(box[:, axis]))
        for plane in row:
            assert (plane.points[..., axis] == plane.points[0, 0, axis]).all()
            down, right = np.diff(plane.points[:2, 0], axis=0)[0], np.diff(plane.points[0, :2], axis=0)[0]
            assert_allclose([np.linalg.norm(down), np.linalg.norm(right)], 180 / TILE)
            assert right.sum() > 0 > down.sum()  # right, front and up are where they belong
            assert max(plane.points.shape[:2]) <= TILE
            assert plane.has_sides == (axis != 0)
    assert rows[0][0].title == f"z = {round(-40 + 12.5)} mm" and rows[2][-1].title.startswith("x = 57")


def test_an_image_is_looked_up_through_its_affine(boldref: nib.Nifti1Image) -> None:
    image = Image(np.asarray(boldref.dataobj), AFFINE)
    voxels = np.array([[4, 20, 7], [17, 3, 15]])
    assert_allclose(image.at(apply_affine(AFFINE, voxels)), image.data[tuple(voxels.T)], rtol=1e-5)
    assert image.at(np.array([[500.0, 0, 0]])) == [0]
    shift = np.array([3.0, 1.0, -2.0])
    moved = Image(image.data, AFFINE, lambda points: points + shift)
    points = apply_affine(AFFINE, voxels + 0.3)
    assert_allclose(moved.at(points - shift), image.at(points))
    labels = Image(np.arange(np.prod(SHAPE)).reshape(SHAPE), AFFINE)
    found = labels.at(apply_affine(AFFINE, voxels + np.array([0.4, -0.4, 0.2])), order=0)
    assert (found == labels.data[tuple(voxels.T)]).all()


def test_edges_and_outlines_are_where_values_change() -> None:
    plane = np.zeros((60, 80))
    plane[:, 33:] = 100
    found = edges(plane, 1.5, strength=2, smooth=2.0)
    assert set(np.argwhere(found[10:50])[:, 1]) == {33}
    assert not edges(plane, 1.5, strength=40, smooth=2.0).any()
    labels = np.zeros((12, 12), np.int64)
    labels[3:8, 2:6], labels[3:8, 6:9] = 7, 9
    line = outlines(labels)
    assert not line[labels == 0].any()
    ring = labels > 0
    inner = np.zeros_like(ring)
    inner[4:7, 3:8] = True
    assert line[ring & ~inner].all()
    assert line[4:7, 6].all() and not line[4:7, 3:5].any()  # between the two: one line, on the second


def test_box_holds_the_mask_and_stray_voxels_do_not_widen_it() -> None:
    mask = _ball(CENTRE, 50)
    box = box_of(mask, AFFINE, margin=0)
    assert_allclose(box, [CENTRE - 50, CENTRE + 50], atol=6)
    fine = np.zeros((100, 100, 100), bool)
    fine[30:60, 30:60, 30:60] = True
    fine[99, 99, 99] = True
    assert (box_of(fine, np.eye(4), margin=0)[1] == 59).all()


# --- the pictures -------------------------------------------------------------------------------------------


def _draw_all(folder: Path, boldref: nib.Nifti1Image) -> dict[str, Path]:
    mask = nib.Nifti1Image(_ball(CENTRE, 57).astype(np.uint8), AFFINE)
    labels = nib.Nifti1Image((_ball(CENTRE, 50) * (1 + np.indices(SHAPE)[0] // 4)).astype(np.int16), AFFINE)
    paths = {
        name: folder / f"{name}.webp" for name in ("mask", "atlas", "coregistration", "template", "motion")
    }
    figures.draw_mask_on_boldref(paths["mask"], boldref, mask)
    figures.draw_atlas_on_boldref(paths["atlas"], boldref, labels)
    figures.draw_boldref_on_t1w(paths["coregistration"], boldref, boldref, np.eye(4))
    figures.draw_t1w_on_template(paths["template"], boldref, boldref)
    figures.draw_motion(paths["motion"], *_motion(), 3, 1.5)
    return paths


def test_same_input_same_bytes_small_and_without_metadata(boldref: nib.Nifti1Image, tmp_path: Path) -> None:
    first, second = (_draw_all(tmp_path / name, boldref) for name in ("a", "b"))
    for name, path in first.items():
        content = path.read_bytes()
        assert content == second[name].read_bytes() and len(content) < LIMIT, name
        picture = PillowImage.open(io.BytesIO(content))
        assert picture.format == "WEBP" and 900 < picture.width <= 1330 and picture.height < 900
        assert not {"exif", "xmp", "icc_profile"} & set(picture.info)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {p.name for p in first.values()}  # no leftovers


def test_a_noisy_picture_is_kept_small() -> None:
    noise = np.random.default_rng(1).normal(128, 18, (450, 1300, 1)).repeat(3, axis=2)
    content = mosaic.encoded(PillowImage.fromarray(noise.clip(0, 255).astype(np.uint8)))
    assert LIMIT / 4 < len(content) < LIMIT


def _tiles(picture: NDArray[np.int64], image: nib.Nifti1Image, mask: NDArray[np.bool_]) -> list[Any]:
    """(plane, pixels) of every slice of a sheet of three rows, cut at a mask's box."""
    rows = planes(box_of(mask, image.affine))
    cell = max(plane.points.shape[1] for row in rows for plane in row)
    top, found = mosaic._GAP + mosaic._TITLE, []
    for row in rows:
        height, width = row[0].points.shape[:2]
        for number, plane in enumerate(row):
            left = mosaic._GAP + number * (cell + mosaic._GAP) + (cell - width) // 2
            found.append((plane, picture[top : top + height, left : left + width]))
        top += height + mosaic._LABEL + mosaic._GAP
    return found


def test_pixels_show_what_lies_there(boldref: nib.Nifti1Image, tmp_path: Path) -> None:
    """The bright spot is where it is in mm: on the left, in front, on top; the outline is the mask's."""
    mask = _ball(CENTRE, 57)
    figures.draw_mask_on_boldref(tmp_path / "m.webp", boldref, nib.Nifti1Image(mask.astype(np.uint8), AFFINE))
    spots, reds = [], []
    for plane, pixels in _tiles(_read(tmp_path / "m.webp"), boldref, mask):
        red = pixels[..., 0] - pixels[..., 2]
        pixels, points = pixels[18:, :], plane.points[18:, :]  # below the letters
        red = red[18:]
        spots.append(points[(pixels.min(axis=-1) > 200)])
        reds.append(points[red > 50])
    spot, line = np.concatenate(spots), np.concatenate(reds)
    assert len(spot) > 500
    assert_allclose(spot.mean(axis=0), SPOT, atol=4)
    assert len(line) > 3000
    assert_allclose(np.linalg.norm(line - CENTRE, axis=1), 57, atol=8)


def test_the_atlas_is_coloured_where_it_lies(boldref: nib.Nifti1Image, tmp_path: Path) -> None:
    """Labels on another grid than the image's."""
    affine = from_matvec(np.diag([3.0, 4.0, 3.5]), [-50, -70, -40])
    shape = (38, 30, 30)
    region = _ball(REGION, 24, shape=shape, affine=affine)
    labels = nib.Nifti1Image(region.astype(np.int16) * 300, affine)
    figures.draw_atlas_on_boldref(tmp_path / "a.webp", boldref, labels)
    coloured = []
    for plane, pixels in _tiles(_read(tmp_path / "a.webp"), labels, region):
        coloured.append(plane.points[18:][np.ptp(pixels[18:], axis=-1) > 25])
    points = np.concatenate(coloured)
    assert len(points) > 1000
    # nearest labels: nothing between them, so as much is coloured as lies in the region
    lookup = Image(region.astype(np.uint8), affine)
    cut = [plane for row in planes(box_of(region, affine)) for plane in row]
    expected = sum((lookup.at(plane.points[18:], order=0) > 0).sum() for plane in cut)
    assert abs(len(points) / expected - 1) < 0.05
    distance = np.linalg.norm(points - REGION, axis=1)
    assert np.percentile(distance, 99) < 24 + 5 and distance.min() < 8


def test_the_bold_image_is_shown_where_the_registration_puts_it(
    boldref: nib.Nifti1Image, tmp_path: Path
) -> None:
    """Moved by the matrix, or its affine rewritten by it: the same picture; another matrix, another."""
    matrix = from_matvec(_TURN, [6.0, -9.0, 4.0])
    t1w = nib.Nifti1Image(_head(), matrix @ AFFINE)
    rewritten = nib.Nifti1Image(_head(), matrix @ AFFINE)
    figures.draw_boldref_on_t1w(tmp_path / "moved.webp", boldref, t1w, matrix)
    figures.draw_boldref_on_t1w(tmp_path / "rewritten.webp", rewritten, t1w, np.eye(4))
    figures.draw_boldref_on_t1w(tmp_path / "wrong.webp", boldref, t1w, np.linalg.inv(matrix))
    moved, rewritten_pixels = _read(tmp_path / "moved.webp"), _read(tmp_path / "rewritten.webp")
    assert moved.shape == rewritten_pixels.shape
    assert np.abs(moved - rewritten_pixels).mean() < 0.5
    wrong = _read(tmp_path / "wrong.webp")
    assert wrong.shape != moved.shape or np.abs(moved - wrong).mean() > 5


def test_the_checkerboard_shows_both(boldref: nib.Nifti1Image, tmp_path: Path) -> None:
    """A template that fits gives the fields of one picture, one that is moved breaks the borders."""
    shifted = from_matvec(np.eye(3), [14.0, 0, 0]) @ AFFINE
    figures.draw_t1w_on_template(tmp_path / "fits.webp", boldref, boldref)
    figures.draw_t1w_on_template(tmp_path / "off.webp", nib.Nifti1Image(_head(), shifted), boldref)
    fits, off = _read(tmp_path / "fits.webp"), _read(tmp_path / "off.webp")
    assert fits.shape == off.shape
    board = slice(-TILE - 15, -mosaic._LABEL - mosaic._GAP)
    blue = fits[board, :, 2] - fits[board, :, 0]
    share = (blue > 8).sum() / (fits[board].max(axis=-1) > 60).sum()
    assert 0.35 < share < 0.65
    assert np.abs(fits[board] - off[board]).mean() > 5


def test_images_without_anything_to_see_are_drawn(boldref: nib.Nifti1Image, tmp_path: Path) -> None:
    none = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
    holes = _head()
    holes[3:9] = np.nan
    figures.draw_mask_on_boldref(tmp_path / "a.webp", nib.Nifti1Image(holes, AFFINE), none)
    figures.draw_atlas_on_boldref(tmp_path / "b.webp", boldref, none)
    figures.draw_boldref_on_t1w(tmp_path / "c.webp", boldref, none, np.eye(4))
    figures.draw_t1w_on_template(tmp_path / "d.webp", none, boldref)
    figures.draw_motion(tmp_path / "e.webp", np.zeros((5, 6)), np.full(5, np.nan), np.full(5, np.nan), 5, 2.0)
    assert all((tmp_path / f"{name}.webp").stat().st_size > 500 for name in "abcde")


# --- motion -------------------------------------------------------------------------------------------------


def test_motion_is_drawn_in_mm_and_degrees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    made: list[Any] = []
    subplots = Figure.subplots

    def kept(*given: Any, **more: Any) -> Any:
        made.append(subplots(*given, **more))
        return made[-1]

    monkeypatch.setattr(Figure, "subplots", kept)
    params, fd, dvars = _motion()
    fd[50], dvars[50] = 2.9, 4.0
    dvars[1:4] = 40.0  # into and out of the frames that are not steady: they do not set the scale
    figures.draw_motion(tmp_path / "m.webp", params, fd, dvars, 3, 1.5)
    trans, rot, displacement, standardised = made[0]
    minutes = np.arange(90) * 1.5 / 60
    for column, strip, factor in ((0, trans, 1.0), (3, rot, 180 / np.pi)):
        for k in range(3):
            assert_allclose(strip.lines[k].get_xdata(), minutes)
            assert_allclose(strip.lines[k].get_ydata(), params[:, column + k] * factor)
        assert strip.get_ylim()[1] >= np.abs(params[:, column : column + 3] * factor).max()
        assert "mm" in trans.get_ylabel() and "degrees" in rot.get_ylabel()
    for strip, values, limit in ((displacement, fd, 0.5), (standardised, dvars, 1.5)):
        assert_allclose(strip.lines[0].get_ydata(), values)
        assert set(strip.lines[1].get_ydata()) == {limit}
        assert_allclose(strip.lines[2].get_xdata(), minutes[values > limit])
        texts = [text.get_text() for text in strip.get_legend().get_texts()]
        assert f"{(values > limit).sum()} above" in texts
        assert 1.05 < strip.get_ylim()[1] / values[50] < 1.2
        assert f"mean {np.nanmean(values):.2f}" in texts
        shaded = strip.patches[0]
        assert_allclose([shaded.get_x(), shaded.get_x() + shaded.get_width()], [-1.5 / 120, 2.5 * 1.5 / 60])
    assert "90 frames of 1.5 s" in standardised.get_xlabel()


def test_settings_of_the_user_do_not_matter(tmp_path: Path) -> None:
    import matplotlib

    motion_plot.draw_motion(tmp_path / "a.webp", *_motion(), 0, 0.8)
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.grid": True, "font.size": 30}):
        motion_plot.draw_motion(tmp_path / "b.webp", *_motion(), 0, 0.8)
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()
