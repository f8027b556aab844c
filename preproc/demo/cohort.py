"""The simulated cohort on disk: an fMRIPrep-like derivative folder of 4D NIfTI scans, and its truth.

    COHORT/dataset_description.json  participants.tsv  participants.json
    COHORT/sub-001/func/sub-001_task-rest_space-MNI152NLin6Asym_desc-preproc_bold.{nii.gz,json}
    TRUTH.h5    /fc (450, 450), /age_effect and /sex_effect (K, K), /networks (K), attrs seed and strengths

A voxel of region r holds level × base_r × (1 + 0.02 × gain × (x_r(t) + noise)): 2 % fluctuations around a
level that differs between regions (12 %) and participants (8 %), half of their variance voxel noise. Stored
as uint8 with a slope, so that a reader that ignores the header's scaling is caught; zero outside the regions.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import bjepa
from bjepa.preproc.demo.atlas import N_ROIS, SPACE, DemoAtlas
from bjepa.preproc.demo.simulate import (
    AGE_EFFECT,
    SEX_EFFECT,
    Participant,
    Population,
    draw_participant,
    make_population,
    simulate_series,
    voxel_generator,
)
from bjepa.preproc.files import write_aside, write_json, write_text

BASE_INTENSITY = 10_000.0  # as fMRIPrep and FSL scale a run
FLUCTUATION = 0.02  # of the level, at gain 1
VOXEL_NOISE = 1.0  # standard deviation, in units of the region's fluctuation


def write_cohort(
    folder: Path,
    truth_file: Path,
    atlas: DemoAtlas,
    *,
    n_participants: int,
    seed: int = 0,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda numbers: numbers,
) -> list[Participant]:
    """Simulate and write one scan each of `n_participants` participants; one scan in memory at a time.

    The same seed gives the same bytes. `progress` wraps the list of participant numbers (`tqdm.tqdm`).
    """
    population = make_population(seed)
    write_truth(truth_file, population)
    write_json(folder / "dataset_description.json", _description())
    participants = []
    for number in progress(range(1, n_participants + 1)):
        participant = draw_participant(population, number)
        write_scan(folder, atlas, population, participant)
        participants.append(participant)
    _write_participants(folder, participants)
    return participants


def write_scan(folder: Path, atlas: DemoAtlas, population: Population, participant: Participant) -> Path:
    """Write one participant's scan with its sidecar; return the path of the NIfTI file."""
    name = participant_name(participant)
    stem = f"{name}_task-rest_space-{SPACE}_desc-preproc_bold"
    path = folder / name / "func" / f"{stem}.nii.gz"
    volumes, slope = voxel_volumes(atlas, population, participant)
    _write_nifti(path, volumes, slope, atlas.affine, atlas.labels.shape, participant.t_r)
    sidecar = {
        "RepetitionTime": participant.t_r,
        "TaskName": "rest",
        "SkullStripped": True,
        "Description": "Simulated; no person was scanned.",
    }
    write_json(path.with_name(f"{stem}.json"), sidecar)
    return path


def voxel_volumes(
    atlas: DemoAtlas, population: Population, participant: Participant
) -> tuple[NDArray[np.uint8], float]:
    """Stored volumes, (n_frames, n_voxels) uint8 with voxels in NIfTI (Fortran) order, and their slope."""
    labels = atlas.labels.ravel(order="F")  # (n_voxels,)
    inside = np.flatnonzero(labels)
    region = labels[inside] - 1  # (n_inside,), from 0
    series = simulate_series(population, participant).astype(np.float32)  # (n_frames, 450)
    rng = voxel_generator(population, participant)

    values = series[:, region]  # (n_frames, n_inside)
    values += VOXEL_NOISE * rng.standard_normal(values.shape, dtype=np.float32)
    values *= FLUCTUATION * participant.gain
    values += 1.0
    values *= np.float32(BASE_INTENSITY * participant.level) * regional_base()[region]
    slope = float(np.float32(values.max() / 255))  # the header holds float32

    volumes = np.zeros((len(values), len(labels)), np.uint8)
    volumes[:, inside] = np.rint(values / np.float32(slope))
    return volumes, slope


def regional_base() -> NDArray[np.float32]:
    """Relative intensity of each region, (450,), the same for every participant: spread 12 %."""
    rng = np.random.default_rng(450)
    return np.clip(1 + 0.12 * rng.standard_normal(N_ROIS), 0.7, 1.3).astype(np.float32)


def _write_nifti(
    path: Path,
    volumes: NDArray[np.uint8],
    slope: float,
    affine: NDArray[np.float64],
    shape: tuple[int, ...],
    t_r: float,
) -> None:
    """Write stored `volumes`, (n_frames, n_voxels), as 4D `.nii.gz`; true value = slope × stored value."""
    import nibabel as nib
    from isal import igzip

    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((*shape, len(volumes)))
    header.set_sform(affine, code=4)  # 4: MNI152
    header.set_qform(affine, code=4)
    header.set_xyzt_units("mm", "sec")
    header["pixdim"][4] = t_r
    header["scl_slope"], header["scl_inter"] = slope, 0
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    payload = header.binaryblock + bytes(4) + volumes.tobytes()  # 348 bytes, 4 zeros: no extension, data
    with write_aside(path) as aside:
        # no file name and no time in the gzip header: the same seed gives the same bytes
        aside.write_bytes(igzip.compress(payload, 1, mtime=0))


def write_truth(path: Path, population: Population) -> None:
    """Write what the generator knows and an analysis should find."""
    import h5py

    with write_aside(path) as aside, h5py.File(aside, "w") as truth:
        truth["fc"] = population.fc
        truth["age_effect"] = population.age_effect
        truth["sex_effect"] = population.sex_effect
        truth["networks"] = np.array(population.networks, dtype=h5py.string_dtype())
        truth.attrs.update(seed=population.seed, age_strength=AGE_EFFECT, sex_strength=SEX_EFFECT)


def participant_name(participant: Participant) -> str:
    """`sub-001`, the label of BIDS."""
    return f"sub-{participant.number:03d}"


def _description() -> dict[str, object]:
    return {
        "Name": "Simulated cohort of bjepa-demo",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "bjepa-demo", "Version": bjepa.__version__}],
    }


def _write_participants(folder: Path, participants: Sequence[Participant]) -> None:
    rows = [f"{participant_name(one)}\t{one.age}\t{one.sex}\n" for one in participants]
    write_text(folder / "participants.tsv", "participant_id\tage\tsex\n" + "".join(rows))
    columns = {
        "age": {"Description": "Simulated age", "Units": "year"},
        "sex": {"Description": "Simulated sex", "Levels": {"F": "female", "M": "male"}},
    }
    write_json(folder / "participants.json", columns)
