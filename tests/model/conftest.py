"""Shards for runs that take seconds: seven participants, one short scan each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

N_ROIS = 7


@pytest.fixture(scope="session")
def write_seven_scans() -> Callable[[Path], None]:
    """Writes data/shards/ (sub-0 … sub-6, 19 to 25 frames of 7 regions at 2 s) and gradients.csv."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(3)
        names = dict.fromkeys(("session", "task", "run"), "")
        scans = [
            ShardScan(
                entities={"scan_id": f"sub-{n}", "participant_id": f"sub-{n}"} | names,
                t_r=2.0,
                t_r_out=2.0,
                valid=np.ones(N_ROIS, dtype=bool),
                phases=[rng.normal(size=(19 + n, N_ROIS)).cumsum(axis=0).astype(np.float32) / np.float32(5)],
            )
            for n in range(7)
        ]
        write_shard(
            folder / "data/shards/shard-00000.h5",
            scans,
            atlas="tiny",
            atlas_sha256="f" * 64,
            rois={c: [f"{c}{i}" for i in range(N_ROIS)] for c in ROI_COLUMNS},
            median=np.zeros(N_ROIS),
            iqr=np.ones(N_ROIS),
            scaling="robust",
            target_t_r=2.0,
        )
        np.savetxt(folder / "gradients.csv", rng.normal(size=(N_ROIS, 3)), delimiter=",")

    return write
