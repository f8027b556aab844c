"""raw/template.py, raw/templateflow.py: which template, in which order, and how far from the atlas."""

import hashlib
import logging
import pickle
import socket
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from bjepa.preproc import InputError
from bjepa.preproc.raw import template as module
from bjepa.preproc.raw import templateflow
from bjepa.preproc.raw.template import BUNDLED, SPACE_6, SPACE_2009C, choose_template

AFFINES = {  # first voxels of the published grids, 8 mm here
    SPACE_2009C: np.array([[8.0, 0, 0, -96], [0, 8, 0, -132], [0, 0, 8, -78], [0, 0, 0, 1]]),
    SPACE_6: np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]]),
}
SHAPES = {SPACE_2009C: (24, 29, 24), SPACE_6: (23, 27, 23)}


def save(path: Path, data: NDArray[Any], space: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = nib.Nifti1Image(data, AFFINES[space])
    picture.set_sform(AFFINES[space], code=4)
    nib.save(picture, path)
    return path


def brain(space: str, seed: int = 1, radius: float = 72.0) -> NDArray[Any]:
    """A ball of 1.56 litres, 0 outside; uneven inside."""
    shape = SHAPES[space]
    centre = (np.array(shape) - 1) / 2
    far = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1) * 8 > radius
    values = np.random.default_rng(seed).uniform(60, 90, shape).astype(np.float32)
    values[far] = 0
    return values


@pytest.fixture(autouse=True)
def _no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own templates, and no network: a connection is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "templateflow"))
    monkeypatch.delenv("FSLDIR", raising=False)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """TemplateFlow's cache with small files, their MD5 the published one: the folder."""
    published = {}
    for space, what in templateflow.PUBLISHED.items():
        of_space = {}
        for number, name in enumerate(what):
            data = brain(space) + 10 if name == "T1w" else brain(space, number)
            data = data if name == "T1w" else np.minimum(data, number / 4).astype(np.float32)
            path = tmp_path / f"templateflow/tpl-{space}/tpl-{space}_res-01_{name}.nii.gz"
            save(path, data, space)
            of_space[name] = hashlib.md5(path.read_bytes()).hexdigest()
        published[space] = of_space
    mask = tmp_path / f"templateflow/tpl-{SPACE_2009C}/tpl-{SPACE_2009C}_res-01_desc-brain_mask.nii.gz"
    save(mask, (brain(SPACE_2009C) > 0).astype(np.uint8), SPACE_2009C)
    published[SPACE_2009C]["desc-brain_mask"] = hashlib.md5(mask.read_bytes()).hexdigest()
    monkeypatch.setattr(templateflow, "PUBLISHED", published)
    monkeypatch.setattr(module, "PUBLISHED", published)
    return tmp_path / "templateflow"


def fsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    return save(tmp_path / "fsl/data/standard/MNI152_T1_1mm_brain.nii.gz", brain(SPACE_6), SPACE_6)


# --- the order ----------------------------------------------------------------------------------------------


def test_nilearns_where_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose_template()
    assert (chosen.name, chosen.space, chosen.error_mm) == (BUNDLED, SPACE_2009C, 1.55)
    assert "template mismatch about 1.5 mm" in chosen.choice and chosen.mask is None
    assert "could not be had from TemplateFlow" in caplog.text and "template mismatch" in caplog.text
    other = choose_template(space=SPACE_6)
    assert (other.name, other.space, other.error_mm) == (BUNDLED, SPACE_6, 1.83)
    assert other.mismatch == "template mismatch about 1.8 mm"
    assert pickle.loads(pickle.dumps(chosen)) == chosen  # goes to processes


def test_nilearns_is_the_image_that_nilearn_loads() -> None:
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    chosen = choose_template(name=BUNDLED)
    theirs = load_mni152_template(resolution=1)
    ours = chosen.brain()
    assert_allclose(ours.affine, theirs.affine)
    scaled = np.asarray(ours.dataobj) / np.asarray(ours.dataobj).max()
    assert_allclose(scaled, theirs.get_fdata(), atol=1e-6)
    for tissue, load in zip(chosen.tissue(), (load_mni152_gm_template, load_mni152_wm_template), strict=True):
        assert_allclose(tissue.get_fdata(), load(resolution=1).get_fdata(), atol=1e-6)


def test_templateflow_comes_first_and_its_mask_strips_the_skull(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsl(tmp_path, monkeypatch)
    chosen = choose_template()
    assert (chosen.name, chosen.space, chosen.error_mm, chosen.mismatch) == (SPACE_2009C, SPACE_2009C, 0, "")
    assert chosen.path == cached / f"tpl-{SPACE_2009C}/tpl-{SPACE_2009C}_res-01_T1w.nii.gz"
    stripped, inside = np.asarray(chosen.brain().dataobj), brain(SPACE_2009C) > 0
    assert stripped.dtype == np.float32 and (stripped[~inside] == 0).all() and stripped[inside].min() >= 70
    grey, white = (np.asarray(tissue.dataobj) for tissue in chosen.tissue())
    assert_allclose((grey.max(), white.max()), (0.5, 0.75))
    assert len(chosen.files) == 4 and len({sha256 for _, sha256 in chosen.files}) == 4


def test_fsl_without_templateflow_and_first_in_its_space(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = fsl(tmp_path, monkeypatch)
    assert choose_template(space=SPACE_6).path == path
    assert choose_template(space=SPACE_2009C).path.parent.parent == cached
    monkeypatch.delenv("FSLDIR")
    assert choose_template(space=SPACE_6).path == cached / f"tpl-{SPACE_6}/tpl-{SPACE_6}_res-01_T1w.nii.gz"
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    chosen = choose_template()
    assert (chosen.path, chosen.space, chosen.error_mm) == (path, SPACE_6, 0)
    assert choose_template(space=SPACE_2009C).name == BUNDLED
    path.unlink()
    assert choose_template().name == BUNDLED


def test_what_is_damaged_in_the_cache_is_passed_over_and_kept(
    cached: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cached / f"tpl-{SPACE_2009C}/tpl-{SPACE_2009C}_res-01_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert choose_template().name == BUNDLED
    assert "damaged or not the published file" in caplog.text and path.is_file()


def test_place_holders_of_the_cache_are_downloaded_and_checked(
    cached: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import pooch

    path = cached / f"tpl-{SPACE_2009C}/tpl-{SPACE_2009C}_res-01_label-WM_probseg.nii.gz"
    content = path.read_bytes()
    sent = [content[:-5], content]
    asked = []

    def send(self: object, url: str, output_file: str, _: object, **__: object) -> None:
        asked.append((url, self.kwargs["timeout"]))  # type: ignore[attr-defined]
        Path(output_file).write_bytes(sent.pop(0))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", send)
    path.write_bytes(b"")
    assert choose_template().name == BUNDLED  # cut short on the way
    assert path.stat().st_size == 0 and "from TemplateFlow (ValueError)" in caplog.text
    assert choose_template().name == SPACE_2009C and path.read_bytes() == content
    assert asked == [(f"{templateflow.ADDRESS}/{path.parent.name}/{path.name}", 5.0)] * 2


def test_one_that_was_begun_with_goes_on_or_is_refused(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_template(space=SPACE_2009C, name=BUNDLED).name == BUNDLED
    assert choose_template(space=SPACE_2009C, name=SPACE_2009C).name == SPACE_2009C
    monkeypatch.setenv("TEMPLATEFLOW_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=f"{SPACE_2009C}.*begun with, is not to be had now"):
        choose_template(space=SPACE_2009C, name=SPACE_2009C)


def test_published_hashes_are_hashes_and_the_home_is_the_users() -> None:
    hashes = [md5 for files in templateflow.PUBLISHED.values() for md5 in files.values()]
    assert len(set(hashes)) == 6 and {len(md5) for md5 in hashes} == {32}


# --- a file of the user's -----------------------------------------------------------------------------------


def test_given_template(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    path = save(tmp_path / f"tpl-{SPACE_6}_desc-brain_T1w.nii.gz", brain(SPACE_6), SPACE_6)
    chosen = choose_template(path)
    assert (chosen.name, chosen.space, chosen.path, chosen.mask) == (SPACE_6, SPACE_6, path, None)
    assert chosen.error_mm is None and "given with --template" in chosen.choice and caplog.text == ""
    assert chosen.grey.name.startswith("mni_icbm152_gm")
    assert choose_template(path, SPACE_6) == chosen
    plain = save(tmp_path / "mine.nii.gz", brain(SPACE_6), SPACE_6)
    assert choose_template(plain, "MNI152Lin").name == "MNI152Lin"
    assert choose_template(plain, SPACE_6).sha256 == chosen.sha256  # the same content


@pytest.mark.parametrize("name", ["tpl-{}_T1w.nii.gz", "MNI152_T1_1mm.nii.gz"])
def test_a_head_needs_its_mask(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name.format(SPACE_6), brain(SPACE_6, radius=110) + 5, SPACE_6)
    with pytest.raises(InputError, match=r"fills [3-9]\.\d+ litres, a brain fills.*desc-brain_mask"):
        choose_template(path, SPACE_6)
    inside = (brain(SPACE_6) > 0).astype(np.uint8)
    mask = name.format(SPACE_6).replace("_T1w", "_desc-brain_mask").replace("1mm", "1mm_brain_mask")
    save(tmp_path / mask, inside, SPACE_6)
    chosen = choose_template(path, SPACE_6)
    assert chosen.mask == tmp_path / mask
    assert_allclose(np.asarray(chosen.brain().dataobj) > 0, inside)
    save(tmp_path / mask, np.ones(SHAPES[SPACE_2009C], np.uint8), SPACE_2009C)
    with pytest.raises(InputError, match="not on the grid of the template"):
        choose_template(path, SPACE_6)


def test_tissue_maps_beside_a_template_and_none_for_other_brains(tmp_path: Path) -> None:
    path = save(tmp_path / "tpl-Baby_T1w.nii.gz", brain(SPACE_6), SPACE_6)
    with pytest.raises(InputError, match=r"white matter and CSF of Baby.*tpl-Baby_label-GM_probseg"):
        choose_template(path)
    for tissue, level in (("GM", 51), ("WM", 102)):
        save(
            tmp_path / f"tpl-Baby_label-{tissue}_probseg.nii.gz",
            np.full(SHAPES[SPACE_6], level, np.uint8),
            SPACE_6,
        )
    grey, white = choose_template(path).tissue()
    assert_allclose((np.asarray(grey.dataobj).max(), np.asarray(white.dataobj).max()), (0.2, 0.4), rtol=1e-6)


def test_templates_refused(tmp_path: Path) -> None:
    good = save(tmp_path / f"tpl-{SPACE_6}_T1w.nii.gz", brain(SPACE_6), SPACE_6)
    unnamed = save(tmp_path / "t1.nii.gz", brain(SPACE_6), SPACE_6)
    flat = save(tmp_path / "four.nii.gz", brain(SPACE_6)[..., None], SPACE_6)
    (tmp_path / "broken.nii.gz").write_text("x")
    for path, space, says in (
        (good, SPACE_2009C, f"is in {SPACE_6} by its name, the atlas is in {SPACE_2009C}"),
        (unnamed, None, r"its space is unknown.*Give --space"),
        (unnamed, "a b", "its space is unknown"),
        (unnamed, SPACE_2009C, f"its grid is that of {SPACE_6}"),
        (flat, SPACE_6, r"must be a 3D image, got shape \(23, 27, 23, 1\)"),
        (tmp_path / "broken.nii.gz", SPACE_6, "cannot be read as NIfTI"),
        (tmp_path / "absent.nii.gz", SPACE_6, "does not exist"),
    ):
        with pytest.raises(InputError, match=says):
            choose_template(path, space)
    with pytest.raises(InputError, match=r"no template is known for --space MNI305.*Give --template"):
        choose_template(space="MNI305")


def test_real_template_of_2009c(shared: Path) -> None:
    path = shared / "data/raw/template/MNI152_2009_template.nii.gz"
    with pytest.raises(InputError, match=f"its grid is that of {SPACE_2009C}"):
        choose_template(path, SPACE_6)
    chosen = choose_template(path, SPACE_2009C)
    assert chosen.name == SPACE_2009C and chosen.error_mm is None
