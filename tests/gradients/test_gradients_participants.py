"""gradients/participants_table.py: where groups come from, who belongs to none, what makes no groups."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from bjepa.gradients.participants_table import group_labels, natural_order, safe_names
from bjepa.gradients.scans import ArrayScans
from bjepa.preproc.errors import InputError

PEOPLE = ("a", "b", "c", "d", "e", "a")  # a was scanned twice
SESSIONS = ("1", "1", "1", "2", "2", "2")


def scans_of(people: Sequence[str] = PEOPLE, sessions: Sequence[str] = SESSIONS) -> ArrayScans:
    scans = ArrayScans([np.zeros((4, 3))] * len(people))
    scans.entities |= {"participant_id": list(people), "session": list(sessions)}
    return scans


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text.replace(" ", "\t").split(";")) + "\n", encoding="utf-8")
    return path


DIAGNOSIS = "participant_id sex diagnosis;sub-b F case;a M control;sub-c F n/a;d M case;e M ;zz F case"


def test_a_column_of_the_given_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = table(tmp_path / "people.tsv", DIAGNOSIS)
    labels, where = group_labels(scans_of(), "diagnosis", participants=file, source=tmp_path)
    assert labels == ["control", "case", "", "case", "", "control"]
    assert where == str(file)
    assert "2 of 6 scans have no value" in caplog.text and "scan 3, scan 5" in caplog.text
    short = table(tmp_path / "short.tsv", "participant_id sex diagnosis;b F case;a M;c F case;d M control")
    assert group_labels(scans_of(), "diagnosis", participants=short, source=tmp_path)[0][0] == ""
    caplog.clear()
    csv = table(tmp_path / "people.csv", "group,participant_id;x,a;y,sub-b;x,c;y,d;x,e")
    labels, _ = group_labels(scans_of(), "group", participants=csv, source=tmp_path)
    assert labels == ["x", "y", "x", "y", "x", "x"]
    assert not caplog.records


def test_the_first_place_that_has_the_column_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    source = tmp_path / "derivatives/bjepa"
    ids = table(tmp_path / "ids.txt", "a;b;c;d;e")
    of_raw = table(tmp_path / "participants.tsv", "participant_id site sex;a 1 M;b 2 F;c 1 M;d 2 F;e 1 M")
    source.mkdir(parents=True)

    def find(column: str, participants: Path | None = ids) -> tuple[list[str], str]:
        return group_labels(scans_of(), column, participants=participants, source=source)

    assert find("site") == (["1", "2", "1", "2", "1", "1"], str(of_raw))
    assert find("session") == (list(SESSIONS), "the scans' names")
    beside = table(source.parent / "participants.tsv", "participant_id site;a 1;b 1;c 1;d 1;e 2")
    assert find("site") == (["1", "1", "1", "1", "2", "1"], str(beside))
    within = table(source / "participants.tsv", "participant_id site session;a 5 x;b 6 y;c 6 y;d 6 y;e 6 y")
    assert find("site") == (["5", "6", "6", "6", "6", "5"], str(within))
    assert find("session")[0] == ["x", "y", "y", "y", "y", "x"]
    assert f"taken from {within}, not from the scans' names" in caplog.text
    given = table(tmp_path / "given.tsv", "participant_id site;a 8;b 9;c 8;d 8;e 8")
    assert find("site", given)[1] == str(given)
    assert find("sex", None)[1] == str(of_raw)


def test_a_shard_is_looked_beside_too(tmp_path: Path) -> None:
    shard = table(tmp_path / "study/shards/shard-00000.h5", "x")
    beside = table(tmp_path / "study/participants.tsv", "participant_id sex;a M;b F;c M;d M;e M")
    for source in (shard, shard.parent):
        assert group_labels(scans_of(), "sex", participants=None, source=source)[1] == str(beside)


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("diagnosis", r"no such column;.*has \['age', 'one', 'own', 'none', 'slash'\]; the scans' names have "
         r"\['session'\].*--participants FILE"),
        ("one", "one value, 'x', for all scans"),
        ("age", r"5 values for 5 participants \(20, 31, 42\.5, .*--per-participant"),
        ("own", "5 values for 5 participants"),
        ("none", "none of the 6 scans has a value"),
        ("slash", "'A/B' and 'a b' would share the folder slash-"),
        ("participant_id", "5 values for 5 participants"),
    ],
)  # fmt: skip
def test_columns_that_make_no_groups(tmp_path: Path, column: str, says: str) -> None:
    table(
        tmp_path / "participants.tsv",
        "participant_id age one own none slash;a 20 x 1 n/a A/B;b 31 x 2 NaN a_b;c 42.5 x 3  A/B;"
        "d 53 x 4 n/a A/B;e 64 n/a 5 n/a A/B",
    )
    text = (tmp_path / "participants.tsv").read_text().replace("a_b", "a b")
    (tmp_path / "participants.tsv").write_text(text)
    with pytest.raises(InputError, match=says):
        group_labels(scans_of(), column, participants=None, source=tmp_path)


def test_age_in_years_is_no_group_even_of_many_participants(tmp_path: Path) -> None:
    people = [f"p{n}" for n in range(400)]
    ages = [str(20 + n % 40) for n in range(400)]
    sites = [f"site{n % 40}" for n in range(400)]  # words: as many groups as one likes
    rows = [f"{p} {a} {s}" for p, a, s in zip(people, ages, sites, strict=True)]
    table(tmp_path / "participants.tsv", ";".join(["participant_id age site", *rows]))
    scans = scans_of(people, ["1"] * 400)
    with pytest.raises(InputError, match="40 different numbers, from 20 to 59: a measurement"):
        group_labels(scans, "age", participants=None, source=tmp_path)
    assert group_labels(scans, "site", participants=None, source=tmp_path)[0] == sites


def test_sessions_of_one_participant_are_groups(tmp_path: Path) -> None:
    scans = scans_of(["a"] * 6, list("123456"))
    assert group_labels(scans, "session", participants=None, source=tmp_path)[0] == list("123456")
    two = scans_of(["a", "b"], ["1", "2"])  # each session is another participant
    with pytest.raises(InputError, match="2 values for 2 participants"):
        group_labels(two, "session", participants=None, source=tmp_path)


def test_a_participant_named_twice_is_refused(tmp_path: Path) -> None:
    table(tmp_path / "participants.tsv", "participant_id sex;a M;sub-a F;b F")
    with pytest.raises(InputError, match=r"names \['a'\] more than once"):
        group_labels(scans_of(), "sex", participants=None, source=tmp_path)


def test_folder_names_are_safe_and_differ() -> None:
    names = safe_names("dx / group", ["älter", "../..", "60+"])
    assert names == {"60+": "dx-group-60+", "../..": "dx-group-..-..", "älter": "dx-group-älter"}
    with pytest.raises(InputError, match="'M' and 'm' would share"):
        safe_names("sex", ["M", "m"])
    with pytest.raises(InputError, match="would share"):
        safe_names("x", ["y" * 80, "y" * 81])


def test_groups_are_in_natural_order() -> None:
    assert natural_order(["10", "b", "9", "-1.5", "A"]) == ["-1.5", "9", "10", "A", "b"]
