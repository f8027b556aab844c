"""model/inputs.py: gradients that are not of the shards' regions, in their order, are refused."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bjepa.cli.train import main
from bjepa.model.inputs import read_inputs
from bjepa.preproc.atlas.published import schaefer_table
from bjepa.preproc.errors import InputError
from bjepa.preproc.shards import ROI_COLUMNS, ShardScan, write_shard

R, SHA256 = 5, "ab" * 32
NAMES = ["Vis-1", "Vis-2", "Cont-1", "Cont-2", "HIP-lh"]
VALUES = np.random.default_rng(0).normal(size=(R, 2))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return shards_of(tmp_path / "data", NAMES)


def shards_of(folder: Path, names: list[str]) -> Path:
    n_rois = len(names)
    write_shard(
        folder / "shards/shard-00000.h5",
        [
            ShardScan(
                entities=dict(scan_id="s", participant_id="sub-1", session="", task="rest", run=""),
                t_r=2.0,
                t_r_out=2.0,
                valid=np.ones(n_rois, dtype=bool),
                phases=[np.random.default_rng(1).normal(size=(24, n_rois)).astype(np.float32)],
            )
        ],
        atlas="five",
        atlas_sha256=SHA256,
        rois={column: names if column == "name" else ["-"] * n_rois for column in ROI_COLUMNS},
        median=np.zeros(n_rois),
        iqr=np.ones(n_rois),
        scaling="none",
        target_t_r=2.0,
    )
    return folder


def gradients(path: Path, values: Any = VALUES, names: list[str] | None = None, sha256: str = "") -> Path:
    with h5py.File(path, "w") as file:
        file["gradients"] = values
        file.attrs["atlas_sha256"] = sha256
        if names is not None:
            file.create_dataset("rois/name", data=names, dtype=h5py.string_dtype("utf-8"))
    return path


def test_rows_that_are_named_alike_are_taken(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    by_name = gradients(tmp_path / "names.h5", names=NAMES)
    assert_array_equal(read_inputs(data, by_name).gradients, VALUES)
    # the hash is the stronger proof: names may be of another release
    by_hash = gradients(tmp_path / "hash.h5", names=NAMES[::-1], sha256=SHA256)
    assert_array_equal(read_inputs(data, by_hash).gradients, VALUES)
    assert "does not say" not in caplog.text
    strangers = gradients(tmp_path / "strangers.h5", names=[f"region-{n}" for n in range(1, R + 1)])
    assert_array_equal(read_inputs(data, strangers).gradients, VALUES)
    assert "does not say which atlas" in caplog.text


@pytest.mark.parametrize("suffix", [".h5", ".tsv"])
def test_names_in_another_order_are_refused(data: Path, tmp_path: Path, suffix: str) -> None:
    names = [NAMES[n] for n in (0, 3, 1, 2, 4)]
    file = tmp_path / f"other{suffix}"
    if suffix == ".h5":
        gradients(file, names=names)
    else:
        rows = [f"{name}\t{a}\t{b}\n" for name, (a, b) in zip(names, VALUES, strict=True)]
        file.write_text("".join(["name\tgradient_1\tgradient_2\n", *rows]))
    with pytest.raises(InputError, match=r"3 of 5 rows differ, first row 2: 'Cont-2' there, 'Vis-2' here"):
        read_inputs(data, file)


def table_of(path: Path, names: list[str]) -> Path:
    values = np.random.default_rng(2).normal(size=(len(names), 2))
    rows = [f"{name}\t{a}\t{b}\n" for name, (a, b) in zip(names, values, strict=True)]
    path.write_text("".join(["name\tgradient_1\tgradient_2\n", *rows]))
    return path


def test_real_parcels_are_known_by_any_of_their_names(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The two Schaefer orders hold the same parcels by other names: the order is told by parcel."""
    in_17, in_7 = schaefer_table("17networks", 100), schaefer_table("7networks", 100)
    data = shards_of(tmp_path / "data", in_17["name"].tolist())
    # the same parcels in the same order, named as of 7 networks
    names = in_7.set_index("label_17networks")["name"].sort_index().tolist()
    assert len(read_inputs(data, table_of(tmp_path / "renamed.tsv", names)).gradients) == 100
    assert "does not say" not in caplog.text
    wrong = int((in_7["label_17networks"] != np.arange(1, 101)).sum())
    assert wrong > 50
    with pytest.raises(InputError, match=rf"another order than .* {wrong} of 100 rows differ") as refused:
        read_inputs(data, table_of(tmp_path / "sorted.tsv", in_7["name"].tolist()))
    assert "7Networks_LH_Vis_" in str(refused.value) and "17Networks_LH_" in str(refused.value)
    with pytest.raises(InputError, match=r"named as other regions .* those of schaefer-200"):
        other = schaefer_table("17networks", 200)["name"].tolist()[::2]
        read_inputs(data, table_of(tmp_path / "other.tsv", other))


def test_the_command_exits_2(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left_out = VALUES.copy()
    left_out[3] = np.nan
    refused = [
        (gradients(tmp_path / "rows.h5", VALUES[1:]), "has 4 rows, the shards in"),
        (gradients(tmp_path / "hash.h5", sha256="cd" * 32), "as many regions, but not the same"),
        (gradients(tmp_path / "order.h5", names=NAMES[::-1]), "4 of 5 rows differ, first row 1: 'HIP-lh'"),
        (
            gradients(tmp_path / "nan.h5", left_out, NAMES),
            "rows 4 (Cont-2) (counted from 1): regions left out",
        ),
    ]
    for file, says in refused:
        output = tmp_path / "run"
        command = ["demo", "--data", str(data), "--gradients", str(file), "--output", str(output)]
        assert main(command) == 2, file
        message = capsys.readouterr().err
        assert says in message and "Traceback" not in message
        assert not output.exists() or not any(output.iterdir())
