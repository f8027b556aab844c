"""A small cohort as shards: participants whose connectivity and level carry what a test plants."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

N_ROIS, ATLAS = 6, "a" * 64
Cohort = Callable[..., Path]


def series(rng: np.random.Generator, n_frames: int, coupling: float, level: float) -> NDArray[np.float32]:
    """(n_frames, N_ROIS): regions 0 and 1 share `coupling` of their signal, region 2 has the mean `level`."""
    x = rng.normal(size=(n_frames, N_ROIS))
    x[:, 1] = coupling * x[:, 0] + np.sqrt(1 - coupling**2) * x[:, 1]
    x[:, 2] += level
    return x.astype(np.float32)


@pytest.fixture
def write_cohort(tmp_path: Path) -> Cohort:
    """Write shards of participants sub-00, sub-01, …: `phases[i]` are the series of scan i."""

    def write(
        phases: Sequence[Sequence[NDArray[np.float32]]],
        *,
        participants: Sequence[str] | None = None,
        valid: NDArray[np.bool_] | None = None,
        scaling: str = "robust",
        name: str = "out",
    ) -> Path:
        ids = [f"{i:02d}" for i in range(len(phases))] if participants is None else participants
        region = np.arange(N_ROIS, dtype=np.float64)
        median, iqr = np.add(10 * region, 100.0), np.add(region, 2.0)
        present = np.ones((len(phases), N_ROIS), bool) if valid is None else valid
        scans = [
            ShardScan(
                entities={
                    "scan_id": f"sub-{p}_run-{i}",
                    "participant_id": p,
                    "session": "",
                    "task": "rest",
                    "run": str(i),
                },
                t_r=0.8,
                t_r_out=1.6,
                valid=present[i],
                phases=phases[i],
            )
            for i, p in enumerate(ids)
        ]
        write_shard(
            tmp_path / name / "shards" / "shard-00000.h5",
            scans,
            atlas="six",
            atlas_sha256=ATLAS,
            rois={column: [f"{column}{r}" for r in range(N_ROIS)] for column in ROI_COLUMNS},
            median=median,
            iqr=iqr,
            scaling=scaling,
            target_t_r=2.0,
        )
        return tmp_path / name

    return write
