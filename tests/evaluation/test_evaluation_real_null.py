"""Real patients whose clinical change connectivity does not predict: the intervals must cover chance.

First-episode psychosis, STAGES trial; the published result is that connectivity does not predict change of
functioning or symptoms (Pope et al. 2025, doi:10.1016/j.bpsgos.2025.100589).
"""

import csv
from pathlib import Path

import numpy as np
import pytest

from bjepa.cli.evaluate import main

N_CORTEX = 400


@pytest.fixture(scope="module")
def connectomes(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fisher z of the baseline sessions, and the change scores as participants.tsv."""
    folder = tmp_path_factory.mktemp("stages")
    source = shared / "data" / "timeseries" / "stages_fep_schaefer400"
    upper = np.triu_indices(N_CORTEX, 1)
    ids, edges = [], []
    for path in sorted(source.glob("sub-*_ses-1_*.npz")):
        with np.load(path) as arrays:
            r = np.corrcoef(arrays["timeseries"][:N_CORTEX])
        ids.append(path.name.split("_")[0])
        edges.append(np.arctanh(r[upper]).astype(np.float32))
    np.savez(folder / "fc.npz", features=np.stack(edges), participant_id=np.array(ids))
    scores: dict[str, dict[str, str]] = {one: {} for one in ids}
    names = []
    for scale in ("sofas", "bprs"):
        for month, timepoint in (("6", "4"), ("12", "5")):
            names.append(f"{scale}_{month}_months")
            with open(source / f"{scale}_change_scores.tsv", newline="") as file:
                for row in csv.DictReader(file, delimiter="\t"):
                    if row["BIDS_ID"] in scores and row["timepoint"] == timepoint:
                        scores[row["BIDS_ID"]][names[-1]] = row["outcome"]
    lines = ["\t".join(["participant_id", *names])]
    lines += ["\t".join([one, *(scores[one].get(n, "n/a") for n in names)]) for one in ids]
    (folder / "participants.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("target", ["sofas_6_months", "sofas_12_months", "bprs_6_months", "bprs_12_months"])
def test_clinical_change_is_not_predicted(connectomes: Path, tmp_path: Path, target: str) -> None:
    words = ["baselines", connectomes / "fc.npz", connectomes / "participants.tsv", "--target", target]
    words += ["--methods", "fc-ridge,fc-krr", "--n-permutations", "19", "--output", tmp_path]
    assert main([str(word) for word in words]) == 0
    with open(tmp_path / "summary.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for method in ("fc-ridge", "fc-krr"):
        (r2,) = [r for r in rows if r["method"] == method and r["metric"] == "r2"]
        assert float(r2["ci_low"]) <= 0 <= float(r2["ci_high"])
        assert float(r2["mean"]) < 0.05 and float(r2["p_permutation"]) > 0.05
