"""The simulated cohort as regional series in shards: no volumes, seconds instead of minutes.

    COHORT/participants.tsv          participant_id age sex
    COHORT/shards/shard-00000.h5     one scan each, 160 frames at 2 s, robust scaling

What is in the series is that of `simulate.py` (age and sex in connectivity alone), with white noise of
`noise` times the signal's amplitude, at a level that differs between regions and participants and knows
nothing of either. `every` keeps each n-th of the 450 regions.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bjepa.preproc.demo.atlas import demo_table
from bjepa.preproc.demo.cohort import participant_name
from bjepa.preproc.demo.simulate import (
    Population,
    draw_participant,
    haemodynamic_response,
    make_population,
    participant_root,
)
from bjepa.preproc.files import sha256_of_json, write_text
from bjepa.preproc.scaling import ScalingFit
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

T_R, N_FRAMES = 2.0, 160
LEVEL, REGION_SPREAD, PARTICIPANT_SPREAD = 100.0, 12.0, 8.0  # in units of the fluctuations
STREAM = 7  # of random numbers, beside those of simulate.py


def write_series_cohort(
    folder: Path,
    *,
    n_participants: int,
    seed: int = 0,
    every: int = 1,
    noise: float = 0.5,
    first: int = 1,
    progress: Callable[[Sequence[int]], Sequence[int]] = lambda numbers: numbers,
) -> None:
    """Simulate participants `first`, `first` + 1, … and write the files above; the same seed, the same bytes.

    Parameters
    ----------
    every
        Keeps regions every // 2, every // 2 + every, …: 450 / every of them.
    noise
        Amplitude of white noise in each region, relative to the signal's.
    """
    population = make_population(seed)
    chosen = np.arange(every // 2, len(population.fc), every)
    table = demo_table().iloc[chosen]
    rows, series = [], []
    for number in progress(range(first, first + n_participants)):
        participant = draw_participant(population, number)
        rows.append(f"{participant_name(participant)}\t{participant.age}\t{participant.sex}\n")
        series.append(_series(population, number, chosen, noise))
    write_text(folder / "participants.tsv", "participant_id\tage\tsex\n" + "".join(rows))
    names = table["name"].astype(str).tolist()
    fit = ScalingFit("robust", names)
    while fit.wants_pass:
        for row, one in zip(rows, series, strict=True):
            fit.add(one, row.split("\t")[0])
        fit.end_pass()
    scaling = fit.result()
    write_shard(
        folder / "shards" / "shard-00000.h5",
        [
            ShardScan(
                entities={
                    "scan_id": f"{(name := row.split(chr(9))[0])}_task-rest",
                    "participant_id": name.removeprefix("sub-"),
                    "session": "",
                    "task": "rest",
                    "run": "",
                },
                t_r=T_R,
                t_r_out=T_R,
                valid=np.ones(len(chosen), dtype=bool),
                phases=[scaling.apply(one)],
            )
            for row, one in zip(rows, series, strict=True)
        ],
        atlas=f"demo, 1 region of {every}" if every > 1 else "demo",
        atlas_sha256=sha256_of_json(names),
        rois={column: table[column].astype(str).tolist() for column in ROI_COLUMNS},
        median=scaling.median,
        iqr=scaling.iqr,
        scaling="robust",
        target_t_r=T_R,
    )


def _series(
    population: Population, number: int, chosen: NDArray[np.intp], noise: float
) -> NDArray[np.float32]:
    """(N_FRAMES, n_chosen): signal of variance 1, noise, level."""
    from scipy.signal import fftconvolve

    rng = np.random.default_rng((population.seed, number, STREAM))
    response = haemodynamic_response(T_R)
    response /= np.linalg.norm(response)
    root = participant_root(population, draw_participant(population, number))[chosen]  # (n_chosen, 450)
    white = rng.standard_normal((N_FRAMES + len(response) - 1, root.shape[1]))
    signal = fftconvolve(white, response[:, None], mode="valid", axes=0) @ root.T  # (N_FRAMES, n_chosen)
    signal += noise * rng.standard_normal(signal.shape)
    offset = np.random.default_rng((population.seed, 0, STREAM)).standard_normal(len(population.fc))
    level = LEVEL + REGION_SPREAD * offset[chosen] + PARTICIPANT_SPREAD * rng.standard_normal()
    series: NDArray[np.float32] = (level + signal).astype(np.float32)
    return series
