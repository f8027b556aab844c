"""A raw BIDS folder of simulated participants, as a scanner would leave it, and its truth.

    FOLDER/dataset_description.json  README  participants.tsv  participants.json
    FOLDER/sub-01/[ses-1/]anat/sub-01_T1w.{nii.gz,json}
    FOLDER/sub-01/[ses-1/]func/sub-01_task-rest_run-1_bold.{nii.gz,json}

Every participant has its own deformation of the template (raw_head.py), every run its own place in the
scanner, motion and signals (raw_scan.py). Grids are oblique, lopsided and of several orientations. Needs no
downloads: the template is nilearn's, the atlas that of `atlas.py`, taken as lying in the template's space.
The same seed gives the same bytes; participant 3 is the same in a cohort of 3 and of 30.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.demo.atlas import N_ROIS
from bjepa.preproc.demo.raw_head import (
    Head,
    Shape,
    build_head,
    draw_deformation,
    draw_shape,
    oblique_grid,
    rotation,
)
from bjepa.preproc.demo.raw_scan import (
    FLUCTUATION,
    draw_motion,
    make_scene,
    render_bold,
    render_t1w,
)
from bjepa.preproc.demo.raw_truth import RawTruth, RunTruth
from bjepa.preproc.demo.simulate import (
    Participant,
    Population,
    draw_participant,
    make_population,
    participant_root,
    simulate_series,
)
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import write_aside, write_json, write_text

__all__ = ["COARSE", "RawProtocol", "RawTruth", "RunTruth", "write_raw_cohort"]

SIMULATED = "Simulated; no person was scanned."
T1W_CODES, BOLD_CODES = ("LAS", "PSR", "RAS", "ASR"), ("RAS", "LAS", "LPS")  # participants take turns
T1W_FIELD_OF_VIEW = np.array([196.0, 240.0, 212.0])  # mm, right-left, front-back, up-down

F64 = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RawProtocol:
    """How the simulated scanner works. mm, seconds; noise as a share of white (T1w) or grey matter (BOLD).

    motion_mm : farthest that any point of the brain moves; warp_mm : longest vector of the deformation
    slice_groups : slices k, k + slice_groups, ... are acquired together, interleaved; 1 = all at once
    distortion_mm : largest shift along the phase axis, 0 = none
    """

    t_r: float = 2.0
    bold_shape: tuple[int, int, int] = (64, 72, 42)
    bold_zooms: tuple[float, float, float] = (3.0, 3.0, 3.6)
    t1w_zooms: tuple[float, float, float] = (1.0, 1.05, 0.95)  # right-left, front-back, up-down
    motion_mm: float = 3.0
    warp_mm: float = 7.0
    bold_noise: float = 0.015
    t1w_noise: float = 0.03
    n_non_steady: int = 3
    slice_groups: int = 1
    distortion_mm: float = 0.0
    dropout: bool = True


COARSE = RawProtocol(bold_shape=(46, 52, 37), bold_zooms=(4.0, 4.2, 4.0), t1w_zooms=(2.9, 3.1, 3.0))


def write_raw_cohort(
    folder: Path,
    *,
    atlas_labels: nib.Nifti1Image,
    template: nib.Nifti1Image | None = None,
    n_participants: int = 2,
    first: int = 1,
    n_frames: int = 160,
    runs: int = 1,
    sessions: int = 0,
    seed: int = 0,
    protocol: RawProtocol | None = None,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda numbers: numbers,
) -> list[RawTruth]:
    """Simulate participants `first`, `first` + 1, ... and write (or add) them; one run in memory at a time.

    Parameters
    ----------
    atlas_labels
        3D label image in the template's space, labels 1 to 450 in the order of `demo_table`.
    template
        Skull-stripped T1w of the head, MNI mm; None = nilearn's, 1 mm.
    sessions
        0 = the files have no session; with more, each has `runs` runs and the first has the T1w.
    progress
        Wraps the list of participant numbers (`tqdm.tqdm`).

    Raises InputError for labels beyond 450 or an unusable template.
    """
    labels = np.unique(np.asarray(atlas_labels.dataobj))
    if labels[0] < 0 or labels[-1] > N_ROIS:
        raise InputError(f"atlas_labels must hold labels 0 to {N_ROIS}, got {labels[0]:g} to {labels[-1]:g}.")
    if n_frames < 10:
        raise InputError(f"n_frames must be 10 or more, got {n_frames}.")
    head = build_head(_bundled_template() if template is None else template)
    population = make_population(seed)
    truths = []
    for number in progress(range(first, first + n_participants)):
        writer = _Writer(folder, head, population, atlas_labels, protocol or RawProtocol(), number)
        truths.append(writer.write(n_frames=n_frames, runs=runs, sessions=sessions))
    _write_about(folder, truths)
    return truths


class _Writer:
    """One participant: draws everything that is the same in all runs, then writes image by image."""

    def __init__(
        self,
        folder: Path,
        head: Head,
        population: Population,
        labels_img: nib.Nifti1Image,
        protocol: RawProtocol,
        number: int,
    ) -> None:
        self.folder, self.head, self.labels_img, self.protocol = folder, head, labels_img, protocol
        self.population, self.number = population, number
        self.participant: Participant = draw_participant(population, number)
        self.name = f"sub-{number:02d}"
        rng = self._generator(0)
        self.shape: Shape = draw_shape(rng)
        self.centre = rng.uniform(-18, 18, 3)  # mm, of the brain in the T1w image
        self.to_template = draw_deformation(rng, self.centre, warp_mm=protocol.warp_mm)

    def write(self, *, n_frames: int, runs: int, sessions: int) -> RawTruth:
        labels = [f"ses-{k}" for k in range(1, sessions + 1)] or [""]
        t1w = self._write_t1w(labels[0])
        n_runs = len(labels) * runs
        signals = self._signals(n_frames * n_runs)
        written = []
        for k in range(n_runs):
            name = f"task-rest_run-{k % runs + 1}_bold" if runs > 1 else "task-rest_bold"
            path = self._path(labels[k // runs], "func", name)
            written.append(self._write_run(path, k, signals[k * n_frames : (k + 1) * n_frames]))
        root = participant_root(self.population, self.participant)
        return RawTruth(
            participant_id=self.name,
            age=self.participant.age,
            sex=self.participant.sex,
            t1w=t1w,
            to_template=self.to_template,
            labels_img=self.labels_img,
            runs=tuple(written),
            fc=root @ root.T,
        )

    def _signals(self, n_frames: int) -> F64:
        """(n_frames, n_groups, 450): the signals at the time of each step of the slices' acquisition."""
        groups = self.protocol.slice_groups
        timed = replace(self.participant, t_r=self.protocol.t_r / groups, n_frames=n_frames * groups)
        return simulate_series(self.population, timed).reshape(n_frames, groups, N_ROIS)

    def _write_t1w(self, session: str) -> Path:
        rng, protocol = self._generator(1), self.protocol
        codes = T1W_CODES[(self.number - 1) % len(T1W_CODES)]
        axes = [{"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}[code] for code in codes]
        zooms = np.array(protocol.t1w_zooms)[axes]
        nx, ny, nz = (int(n) for n in np.ceil(T1W_FIELD_OF_VIEW[axes] / zooms))
        turn = np.deg2rad(rng.uniform(-6, 6, 3))
        middle = self.centre + np.array([0, 0, -12])  # the neck is in the image too
        affine = oblique_grid((nx, ny, nz), zooms, codes, middle, turn)
        image = render_t1w(
            rng, self.head, self.shape, self.to_template, (nx, ny, nz), affine, noise=protocol.t1w_noise
        )
        path = self._path(session, "anat", "T1w")
        _write_nifti(path, image, affine, slope=1.0)
        write_json(_sidecar(path), {"Description": SIMULATED, "MagneticFieldStrength": 3})
        return path

    def _write_run(self, path: Path, k: int, signals: F64) -> RunTruth:
        rng, protocol, groups = self._generator(2 + k), self.protocol, self.protocol.slice_groups
        turn = rotation(np.deg2rad(rng.uniform(-4, 4, 3)))
        middle = self.centre + rng.uniform(-8, 8, 3)  # of the brain in this run
        to_t1w = nib.affines.from_matvec(turn, self.centre - turn @ middle)
        codes = BOLD_CODES[(self.number - 1) % len(BOLD_CODES)]
        tilt = np.deg2rad([rng.uniform(-15, 15), rng.uniform(-3, 3), rng.uniform(-3, 3)])
        zooms = np.array(protocol.bold_zooms)
        affine = oblique_grid(protocol.bold_shape, zooms, codes, middle + rng.uniform(-3, 3, 3), tilt)
        affine = affine.astype(np.float32).astype(np.float64)  # as the header holds it
        matrices, _ = draw_motion(rng, len(signals), middle, largest_mm=protocol.motion_mm)
        scene = make_scene(
            self.head,
            self.shape,
            self.to_template,
            to_t1w,
            self.labels_img,
            protocol.bold_shape,
            affine,
            dropout=protocol.dropout,
            distortion_mm=protocol.distortion_mm,
        )
        # odd groups after the even ones, as scanners interleave slices
        step = np.argsort([*range(0, groups, 2), *range(1, groups, 2)])
        stored = render_bold(
            rng,
            scene,
            signals[:, step],
            matrices,
            protocol.bold_shape,
            affine,
            amplitude=FLUCTUATION * self.participant.gain,
            level=self.participant.level,
            noise=protocol.bold_noise,
            n_non_steady=protocol.n_non_steady,
        )
        _write_nifti(path, stored, affine, slope=0.125, t_r=protocol.t_r)
        times = tuple(
            round(float(step[k % groups]) * protocol.t_r / groups, 6) for k in range(protocol.bold_shape[2])
        )
        about = {"RepetitionTime": protocol.t_r, "TaskName": "rest", "Description": SIMULATED}
        write_json(_sidecar(path), about | ({"SliceTiming": list(times)} if groups > 1 else {}))
        return RunTruth(
            path=path,
            shape=protocol.bold_shape,
            affine=affine,
            t_r=protocol.t_r,
            matrices=matrices,
            to_t1w=to_t1w,
            series=signals[:, groups // 2],
            n_non_steady=protocol.n_non_steady,
            slice_times=times if groups > 1 else None,
            distortion_mm=protocol.distortion_mm,
        )

    def _path(self, session: str, kind: str, suffix: str) -> Path:
        folder = self.folder / self.name / session / kind
        return folder / f"{'_'.join(part for part in (self.name, session, suffix) if part)}.nii.gz"

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.population.seed, self.number, 100 + stream))


def _bundled_template() -> nib.Nifti1Image:
    from nilearn.datasets import load_mni152_template

    return load_mni152_template(resolution=1)


def _write_nifti(
    path: Path, stored: NDArray[np.int16], affine: F64, *, slope: float, t_r: float | None = None
) -> None:
    """`.nii.gz` of int16 voxels, in the scanner's space; true value = slope x stored value."""
    from isal import igzip

    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape(stored.shape)
    header.set_sform(affine, code=1)  # 1: scanner
    header.set_qform(affine, code=1)
    header.set_xyzt_units("mm", "sec")
    if t_r is not None:
        header["pixdim"][4] = t_r
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    payload = header.binaryblock + bytes(4) + stored.tobytes(order="F")
    with write_aside(path) as aside:
        # no file name and no time in the gzip header: the same seed gives the same bytes
        aside.write_bytes(igzip.compress(payload, 1, mtime=0))


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(".nii.gz") + ".json")


def _write_about(folder: Path, truths: Sequence[RawTruth]) -> None:
    name = "Simulated raw fMRI of bjepa"
    write_json(
        folder / "dataset_description.json", {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    )
    write_text(folder / "README", f"{name}. {SIMULATED}\n")
    table, header = folder / "participants.tsv", "participant_id\tage\tsex"
    rows = {}
    if table.is_file():  # of an earlier call, with another `first`
        rows = {line.split("\t")[0]: line for line in table.read_text(encoding="utf-8").splitlines()[1:]}
    rows |= {one.participant_id: f"{one.participant_id}\t{one.age}\t{one.sex}" for one in truths}
    write_text(table, "\n".join([header, *(rows[name] for name in sorted(rows))]) + "\n")
    columns = {
        "age": {"Description": "Simulated age", "Units": "year"},
        "sex": {"Description": "Simulated sex", "Levels": {"F": "female", "M": "male"}},
    }
    write_json(folder / "participants.json", columns)
