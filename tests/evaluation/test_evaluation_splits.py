"""Cohort and splits: who is in, laws of the folds, what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bjepa.model.evaluation.cohort import Cohort, load_cohort
from bjepa.model.evaluation.splits import make_splits, read_splits, write_splits
from bjepa.preproc.errors import InputError


def write_table(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """37 participants in 15 families, 13 women; ages all different, one unknown."""
    rng = np.random.default_rng(3)
    rows: list[tuple[str, ...]] = [("participant_id", "age", "sex", "family", "score")]
    for i in range(37):
        age = "n/a" if i == 5 else f"{20 + 50 * rng.random():.4f}"
        sex = "F" if i % 3 == 0 else "M"
        rows.append((f"sub-{i:02d}", age, sex, f"f{i % 15}", str(i % 4)))
    return write_table(tmp_path / "participants.tsv", rows)


def ids(n: int = 37) -> set[str]:
    return {f"{i:02d}" for i in range(n)}


def cohort_of(
    table: Path, target: str = "age", *, task: str = "auto", group: str = "participant_id"
) -> Cohort:
    return load_cohort(table, target=target, with_scan=ids(), task=task, group=group)


def test_cohort_leaves_out_and_says_so(table: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        cohort = load_cohort(table, target="age", with_scan={*ids(30), "stranger"})
    assert len(cohort.participant_id) == 29 and "05" not in cohort.participant_id
    assert cohort.task == "regression" and cohort.target.dtype == np.float64
    assert cohort.written_id[0] == "sub-00" and cohort.participant_id[0] == "00"
    assert "no value of 'age': 05" in caplog.text and "no row in the table: stranger" in caplog.text
    assert "task: regression" in caplog.text and "7 participants" in caplog.text


def test_task_is_chosen_by_the_values(table: Path) -> None:
    sex = cohort_of(table, "sex")
    assert sex.task == "classification" and sex.classes == ["F", "M"]
    assert_array_equal(sex.target, [0 if i % 3 == 0 else 1 for i in range(37)])
    score = cohort_of(table, "score")
    assert score.task == "classification" and score.classes == ["0", "1", "2", "3"]
    assert cohort_of(table, "score", task="regression").target.max() == 3.0


@pytest.mark.parametrize(
    "target, options, says",
    [
        ("Agee", {}, r"no column 'Agee'.*Did you mean 'age'"),
        ("sex", {"task": "regression"}, r"'sex' is no number.*'F', 'M'"),
        ("age", {"task": "regresion"}, r"--task must be one of auto, regression, classification"),
        ("age", {"group": "site"}, r"no column 'site'"),
    ],
)
def test_cohort_refuses(table: Path, target: str, options: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        cohort_of(table, target, **options)


def test_cohort_refuses_tables(table: Path, tmp_path: Path) -> None:
    header = ("participant_id", "age")
    twice = write_table(tmp_path / "twice.tsv", [header, ("sub-01", "3"), ("01", "4"), ("02", "5")])
    with pytest.raises(InputError, match=r"1 participants more than once: 01"):
        cohort_of(twice)
    with pytest.raises(InputError, match=r"None of the 1 participants.*scans are of x"):
        load_cohort(table, target="age", with_scan={"x"})
    same = write_table(tmp_path / "same.tsv", [header, ("01", "3"), ("02", "3")])
    with pytest.raises(InputError, match=r"'age' is '3' in all 2"):
        cohort_of(same)
    empty = write_table(tmp_path / "empty.tsv", [header, ("01", "n/a"), ("02", "")])
    with pytest.raises(InputError, match=r"no participant with a scan has a value"):
        cohort_of(empty)
    with pytest.raises(InputError, match=r"is not a file"):
        cohort_of(tmp_path / "absent.tsv")
    (tmp_path / "none.tsv").write_text("")
    with pytest.raises(InputError, match=r"is not a table"):
        cohort_of(tmp_path / "none.tsv")


def test_law_every_participant_is_tested_once_and_groups_stay_together(table: Path) -> None:
    cohort = cohort_of(table, "sex", group="family")
    splits = make_splits(cohort, n_splits=4, seed=1)
    tested = np.concatenate([s.test for s in splits])
    assert_array_equal(np.sort(tested), np.arange(37))
    groups = np.array(cohort.group)
    for split in splits:
        parts = [split.train, split.val, split.test]
        assert_array_equal(np.sort(np.concatenate(parts)), np.arange(37))
        sets = [set(groups[part]) for part in parts]
        assert not (sets[0] & sets[1] or sets[0] & sets[2] or sets[1] & sets[2])
        assert_array_equal(split.development, np.sort(np.concatenate(parts[:2])))


def test_folds_are_stratified(table: Path) -> None:
    cohort = cohort_of(table, "sex")
    women = [np.sum(cohort.target[s.test] == 0) for s in make_splits(cohort, n_splits=5, seed=2)]
    assert max(women) - min(women) <= 1
    ages = cohort_of(table, "age")
    splits = make_splits(ages, n_splits=5, seed=2)
    oldest = np.argsort(ages.target)[-14:]  # two of the seven quantile bins
    assert max(np.bincount(splits.fold[0, oldest])) <= 4


def test_seed_and_order(table: Path) -> None:
    cohort = cohort_of(table)
    assert make_splits(cohort, seed=7).sha256 == make_splits(cohort, seed=7).sha256
    assert make_splits(cohort, seed=7).sha256 != make_splits(cohort, seed=8).sha256
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows[::-1]]) + "\n")
    assert make_splits(cohort_of(table), seed=7).sha256 == make_splits(cohort, seed=7).sha256


def test_splits_refuse(table: Path) -> None:
    with pytest.raises(InputError, match=r"--n-splits must be from 3.*got 2"):
        make_splits(cohort_of(table), n_splits=2)
    with pytest.raises(InputError, match=r"to 15 \(the number of groups\), got 16"):
        make_splits(cohort_of(table, group="family"), n_splits=16)
    with pytest.raises(InputError, match=r"Class '0' of 'score' has 10 .* 11 folds.*--n-splits 10"):
        make_splits(cohort_of(table, "score"), n_splits=11)


def test_written_splits_are_read_again(table: Path, tmp_path: Path) -> None:
    cohort = cohort_of(table)
    splits = make_splits(cohort, n_splits=4, seed=3)
    path = tmp_path / "splits.tsv"
    write_splits(path, splits, cohort)
    lines = path.read_text().splitlines()
    assert lines[0] == "split\tparticipant_id\tfold\trole" and len(lines) == 1 + 4 * 36
    again = read_splits(path, cohort)
    assert again.sha256 == splits.sha256 and again.n_splits == 4
    fewer = load_cohort(table, target="age", with_scan=ids(33))
    kept = [p in fewer.participant_id for p in cohort.participant_id]
    assert_array_equal(read_splits(path, fewer).fold, splits.fold[:, kept])

    with pytest.raises(InputError, match=r"no fold for 1 participants: 05"):
        read_splits(path, cohort_of(table, "sex"))
    with pytest.raises(InputError, match=r"the group 'f\d+' in more than one fold"):
        read_splits(path, cohort_of(table, group="family"))
    path.write_text("\n".join(lines).replace("\tval", "\ttrain") + "\n")
    with pytest.raises(InputError, match=r"do not fit together"):
        read_splits(path, cohort)
    path.write_text("participant_id\tage\n01\t3\n")
    with pytest.raises(InputError, match=r"is not a table of splits"):
        read_splits(path, cohort)


def test_law_holdout_draws_new_folds_each_time_60_20_20(table: Path) -> None:
    cohort = cohort_of(table, "sex", group="family")
    splits = make_splits(cohort, scheme="holdout", n_splits=6, seed=4)
    ages = make_splits(cohort_of(table), scheme="holdout", n_splits=6, seed=4)
    assert len({tuple(s.test) for s in ages}) == splits.n_splits == 6
    groups = np.array(cohort.group)
    for split in splits:
        shares = [len(part) / 37 for part in (split.train, split.val, split.test)]
        assert np.allclose(shares, [0.6, 0.2, 0.2], atol=0.06)
        assert not set(groups[split.test]) & set(groups[split.development])
    single = make_splits(cohort, scheme="holdout", n_splits=2, seed=5)  # seeds 5 and 6, as the second above
    assert_array_equal(next(iter(single)).test, list(splits)[1].test)
    with pytest.raises(InputError, match=r"2 or more with --scheme holdout, got 1"):
        make_splits(cohort, scheme="holdout", n_splits=1)


def test_law_repeated_folds_test_everyone_once_a_repeat(table: Path) -> None:
    cohort = cohort_of(table)
    splits = make_splits(cohort, n_splits=4, n_repeats=3, seed=1)
    every = list(splits)
    assert len(every) == 12
    for repeat in range(3):
        tested = np.concatenate([s.test for s in every[4 * repeat : 4 * repeat + 4]])
        assert_array_equal(np.sort(tested), np.arange(36))
    once = make_splits(cohort, n_splits=4, seed=2)  # the second repeat
    assert_array_equal(once.fold, splits.fold[4:8])


def test_law_a_site_is_left_out_whole(table: Path, tmp_path: Path) -> None:
    rows = table.read_text().splitlines()
    sites = ["north", "south", "west"]
    lines = [rows[0] + "\tsite", *(f"{row}\t{sites[i % 3]}" for i, row in enumerate(rows[1:]))]
    path = write_table(tmp_path / "sites.tsv", [tuple(line.split("\t")) for line in lines])
    cohort = load_cohort(path, target="age", with_scan=ids(), columns=["site"])
    splits = make_splits(cohort, scheme="leave-out", leave_out=cohort.columns["site"], seed=2)
    assert splits.n_splits == 3 and "3 left out at a time (north, south, west)" in splits.description
    site = np.array(cohort.columns["site"])
    for split, name in zip(splits, sites, strict=True):
        assert set(site[split.test]) == {name} and name not in set(site[split.development])
        assert len(split.val) and len(split.train) > len(split.val)
    write_splits(tmp_path / "splits.tsv", splits, cohort)
    assert read_splits(tmp_path / "splits.tsv", cohort).sha256 == splits.sha256
    families = load_cohort(path, target="age", with_scan=ids(), group="family", columns=["score"])
    with pytest.raises(InputError, match=r"The group 'f\d+' has several values of --leave-out"):
        make_splits(families, scheme="leave-out", leave_out=families.columns["score"])
    with pytest.raises(InputError, match=r"--leave-out needs two values"):
        make_splits(cohort, scheme="leave-out", leave_out=["x"] * 36)


def test_a_site_with_one_class_cannot_be_scored(table: Path) -> None:
    cohort = cohort_of(table, "sex")
    site = ["a" if t == 0 and i < 15 else "bc"[i % 2] for i, t in enumerate(cohort.target)]
    with pytest.raises(InputError, match=r"'a' holds 1 different values of 'sex'"):
        make_splits(cohort, scheme="leave-out", leave_out=site)


def test_columns_must_be_filled_in_and_may_come_from_the_scans(
    table: Path, caplog: pytest.LogCaptureFixture
) -> None:
    motion = {"fd_mean": {f"{i:02d}": "n/a" if i == 9 else f"0.{i}" for i in range(36)}}
    cohort = load_cohort(table, target="sex", with_scan=ids(), columns=["age", "fd_mean"], of_scans=motion)
    assert "05" not in cohort.participant_id and "09" not in cohort.participant_id
    assert cohort.columns["fd_mean"][1] == "0.1" and len(cohort.columns["age"]) == 34
    assert "no value of 'fd_mean': 09, 36" in caplog.text and "no value of 'age': 05" in caplog.text
    with pytest.raises(InputError, match=r"has no column 'fd_mean'"):
        load_cohort(table, target="sex", with_scan=ids(), columns=["fd_mean"])
