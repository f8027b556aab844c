"""examples/raw_bids.sh: from a raw BIDS folder of two simulated participants to two epochs of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[2] / "examples/raw_bids.sh"


@pytest.mark.slow
def test_the_whole_way_from_the_scanner_s_files(tmp_path: Path) -> None:
    environment = os.environ | {"SLOPPY": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", str(SCRIPT), str(tmp_path)], check=True, env=environment, timeout=1200)
    scans = pd.read_csv(tmp_path / "shards" / "scans.tsv", sep="\t")
    assert list(scans["participant_id"]) == ["sub-01", "sub-02"]
    assert (tmp_path / "gradients" / "gradients.csv").read_text().count("\n") == 450
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert max(json.loads(line)["epoch"] for line in lines) == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
