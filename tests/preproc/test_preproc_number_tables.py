"""preproc/text_tables.py: what in a table of text is header, what is index, what is data."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from bjepa.preproc import InputError
from bjepa.preproc.number_tables import Table, read_table

VALUES = np.round(np.random.default_rng(0).normal(1000, 5, (7, 5)), 3)  # (rows, columns)
NAMES = ["HIP", "AMY", "PUT", "CAU", "PAL", "ACC", "THA"]


def _read(path: Path, table: pd.DataFrame, **how: object) -> Table:
    table.to_csv(path, **how)
    return read_table(path)


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("columns", ["words", "counting", "labels", "none"])
@pytest.mark.parametrize("name", ["roi", "label", ""])
def test_an_index_of_numbers_is_no_frame(tmp_path: Path, start: int, columns: str, name: str) -> None:
    """As pandas writes it: with index_label or none, with names of columns, numbers, or no header at all."""
    headers = {"words": list("abcde"), "counting": range(5), "labels": [101, 205, 7, 300, 12]}
    table = pd.DataFrame(VALUES, index=range(start, start + 7), columns=headers.get(columns))
    read = _read(tmp_path / "x.csv", table, index_label=name or None, header=columns != "none")
    assert_array_equal(read.values, VALUES)
    assert read.rows is None
    assert read.columns == ([str(n) for n in headers[columns]] if columns in ("words", "labels") else None)


def test_an_index_written_with_decimals(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "x.tsv", np.column_stack([np.arange(1, 8), VALUES]), delimiter="\t")
    assert_array_equal(read_table(tmp_path / "x.tsv").values, VALUES)


@pytest.mark.parametrize("order", [["name", "label"], ["label", "name"], ["index", "name", "label"]])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("times", ["t", ""])
def test_names_and_counters_together(tmp_path: Path, order: list[str], header: bool, times: str) -> None:
    columns = [f"{times}{n}" for n in range(5)]
    table = pd.DataFrame(VALUES, columns=columns)
    edge = {"name": NAMES, "label": range(1, 8), "index": range(7)}
    for place, column in enumerate(order):
        table.insert(place, column, edge[column])
    read = _read(tmp_path / "x.csv", table, index=False, header=header)
    assert_array_equal(read.values, VALUES)
    assert read.rows == NAMES
    assert read.columns == (columns if header and times else None)


def test_names_without_a_header_keep_the_first_region(tmp_path: Path) -> None:
    read = _read(tmp_path / "x.tsv", pd.DataFrame(VALUES, index=NAMES), sep="\t", header=False)
    assert_array_equal(read.values, VALUES)
    assert read.rows == NAMES and read.columns is None


def test_names_of_columns_only_as_r_writes_them(tmp_path: Path) -> None:
    lines = [
        "\t".join("abcde"),
        *("\t".join([n, *map(str, row)]) for n, row in zip(NAMES, VALUES, strict=True)),
    ]
    (tmp_path / "x.tsv").write_text("\n".join(lines) + "\n")
    read = read_table(tmp_path / "x.tsv")
    assert_array_equal(read.values, VALUES)
    assert (read.columns, read.rows) == (list("abcde"), NAMES)


@pytest.mark.parametrize("place", [(0, 0), (0, 3), (4, 2)])
def test_an_unknown_word_among_numbers_is_named_and_refused(tmp_path: Path, place: tuple[int, int]) -> None:
    table = pd.DataFrame(VALUES).astype(object)
    table.iloc[place] = "NULL"
    with pytest.raises(
        InputError, match=rf"line {place[0] + 1}, column {place[1] + 1} holds a cell .* not a number: 'NULL'"
    ):
        _read(tmp_path / "x.csv", table, index=False, header=False)


@pytest.mark.parametrize("missing", ["", "n/a"])
@pytest.mark.parametrize("columns", [slice(0, 1), slice(0, 3), slice(0, 5)])
def test_missing_numbers_in_the_first_frame_are_no_header(
    tmp_path: Path, missing: str, columns: slice
) -> None:
    values = VALUES.copy()
    values[0, columns] = np.nan
    read = _read(tmp_path / "x.csv", pd.DataFrame(values), index=False, header=False, na_rep=missing)
    assert_array_equal(read.values, values)


def test_a_first_region_that_nearly_counts_stays(tmp_path: Path) -> None:
    """Up to the last frame, or from 2 on: not an index as a whole."""
    for column in ([0, 1, 2, 3, 4, 5, 7], range(2, 9), [0, 1, 2, 3, 4, 5, np.nan]):
        table = pd.DataFrame(np.column_stack([list(column), VALUES]))
        assert_array_equal(
            _read(tmp_path / "x.csv", table, index=False, header=False).values, table.to_numpy()
        )
    alone = pd.DataFrame({"n": range(7)})  # an index of nothing
    assert_array_equal(_read(tmp_path / "y.csv", alone, index=False).values, alone.to_numpy())
