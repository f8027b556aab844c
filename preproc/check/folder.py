"""The files that describe an output folder: description, atlas, tables, report; and leftovers."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.check.problem import RUN_ALL, RUN_GROUP, Problem
from bjepa.preproc.files import find_leftovers

SCANS_COLUMNS = (
    "scan_id participant_id session task run source space t_r stride t_r_out n_frames_in n_frames n_phases "
    "shard fd_mean tsnr_median coverage_min n_missing_rois"
).split()
TABLES = {
    "scans.tsv": SCANS_COLUMNS,
    "failures.tsv": "source stage error message hint".split(),
    "scaling.tsv": "index name median iqr".split(),
}
ATLAS_COLUMNS = "index name structure hemisphere network7 network17 x y z n_voxels".split()
ATLAS_FACTS = "name order space sha256 sources licences citations".split()
DESCRIPTION = "Name BIDSVersion DatasetType GeneratedBy SourceDatasets".split()
END_OF_PAGE = 1024  # bytes
SAME_PLACE = 0.02  # mm: atlas.tsv has two decimals, the affine in an image's header seven digits
LABEL_FILES = {"volume": "atlas.nii.gz", "cifti": "atlas.dlabel.nii", "table": None}


@dataclass(frozen=True)
class Folder:
    """What the other checks hold their files against; None where it cannot be read."""

    scans: pd.DataFrame | None  # scans.tsv, all columns as text
    scaling: pd.DataFrame | None  # scaling.tsv, numbers as float64
    atlas: pd.DataFrame | None  # atlas.tsv, all columns as text
    atlas_name: str | None
    atlas_sha256: str | None
    failed: frozenset[str] = frozenset()  # sources in failures.tsv


def check_folder(output: Path) -> tuple[list[Problem], Folder]:
    """Problems of the describing files, and their content."""
    problems = [*_description(output / "dataset_description.json"), *_report(output / "report.html")]
    tables = {}
    for name, columns in TABLES.items():
        tables[name], found = _table(output / name, columns, RUN_GROUP)
        problems += found
    atlas, facts, found = _atlas(output / "atlas")
    problems += found
    scans, scaling = tables["scans.tsv"], tables["scaling.tsv"]
    if scaling is not None and atlas is not None:
        problems += _same_regions(output / "scaling.tsv", scaling, atlas)
    if scans is not None:
        problems += _unique_scans(output / "scans.tsv", scans)
    problems += [
        Problem(path, "was left by a process that was killed.", "Delete it, or run the same command again.")
        for path in find_leftovers(output)
    ]
    failures = tables["failures.tsv"]
    failed = frozenset() if failures is None else frozenset(failures["source"])
    return problems, Folder(scans, scaling, atlas, facts.get("name"), facts.get("sha256"), failed)


def _description(path: Path) -> Iterator[Problem]:
    facts, problem = read_json(path, RUN_ALL)
    if problem is not None:
        yield problem
        return
    if absent := [key for key in DESCRIPTION if key not in facts]:
        yield Problem(path, f"lacks {absent}.", RUN_ALL)
    if (kind := facts.get("DatasetType", "derivative")) != "derivative":
        yield Problem(path, f"DatasetType is {kind!r}, not 'derivative'.", RUN_ALL)


def _report(path: Path) -> Iterator[Problem]:
    if not path.is_file():
        yield Problem(path, "is absent.", RUN_GROUP)
        return
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - END_OF_PAGE))
        end = stream.read()
    if not end.rstrip().endswith(b"</html>"):
        yield Problem(path, "is cut short: it does not end with </html>.", RUN_GROUP)


# --- tables -------------------------------------------------------------------------------------------------


def _table(path: Path, columns: list[str], fix: str) -> tuple[pd.DataFrame | None, list[Problem]]:
    """A table as text, and whether it has its columns in their order (others may be among them)."""
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError:
        return None, [Problem(path, "is absent.", fix)]
    except (OSError, ValueError) as error:
        return None, [Problem(path, f"is not a readable table ({error}).", fix)]
    known = [column for column in table.columns if column in columns]
    if known != columns:
        return None, [Problem(path, f"has columns {list(table.columns)}; needed are {columns}.", fix)]
    return table, []


def _unique_scans(path: Path, scans: pd.DataFrame) -> Iterator[Problem]:
    if not len(scans):
        yield Problem(path, "has no row.", RUN_GROUP)
    if twice := scans.loc[scans["scan_id"].duplicated(), "scan_id"].tolist():
        yield Problem(path, f"{len(twice)} scans have several rows, e.g. {twice[0]}.", RUN_GROUP)


def _same_regions(path: Path, scaling: pd.DataFrame, atlas: pd.DataFrame) -> Iterator[Problem]:
    for column in ("index", "name"):
        if scaling[column].tolist() != atlas[column].tolist():
            yield Problem(path, f"column {column} differs from that of atlas/atlas.tsv.", RUN_GROUP)


def numbers(column: "pd.Series[str]") -> NDArray[np.float64]:
    """A column of text as float64, NaN where it holds none; every digit counts."""
    return np.array([_number(text) for text in column], dtype=np.float64)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


# --- atlas --------------------------------------------------------------------------------------------------


def _atlas(folder: Path) -> tuple[pd.DataFrame | None, dict[str, Any], list[Problem]]:
    table, problems = _table(folder / "atlas.tsv", ATLAS_COLUMNS, RUN_ALL)
    facts, problem = read_json(folder / "atlas.json", RUN_ALL)
    if problem is not None:
        return table, {}, [*problems, problem]
    if absent := [key for key in ATLAS_FACTS if key not in facts]:
        problems.append(Problem(folder / "atlas.json", f"lacks {absent}.", RUN_ALL))
    if table is not None:
        problems += _regions(folder / "atlas.tsv", table)
        problems += _labels(folder, facts, table)
    return table, facts, problems


def _regions(path: Path, table: pd.DataFrame) -> Iterator[Problem]:
    if table["index"].tolist() != [str(number) for number in range(1, len(table) + 1)]:
        yield Problem(path, "column index is not 1, 2, 3, ... in the order of the columns.", RUN_ALL)
    if twice := table.loc[table["name"].duplicated(), "name"].tolist():
        yield Problem(path, f"names {twice[:5]} occur more than once.", RUN_ALL)


def _labels(folder: Path, facts: dict[str, Any], table: pd.DataFrame) -> Iterator[Problem]:
    """The labels have the hash that atlas.json tells, and all regions of atlas.tsv."""
    kind = facts.get("kind", "volume")
    if kind not in LABEL_FILES:
        yield Problem(folder / "atlas.json", f"kind is {kind!r}, not one of {sorted(LABEL_FILES)}.", RUN_ALL)
        return
    if (name := LABEL_FILES[kind]) is None:
        content = "\n".join(table["name"]).encode()  # regions known by name only
    else:
        try:
            image = nib.load(folder / name)
            values = np.asarray(image.dataobj)
        except FileNotFoundError:
            yield Problem(folder / name, "is absent.", RUN_ALL)
            return
        except (OSError, EOFError, ValueError, nib.filebasedimages.ImageFileError) as error:
            yield Problem(folder / name, f"is not a readable label image ({error}).", RUN_ALL)
            return
        # of a dlabel the first map
        labels = np.ascontiguousarray(values[0] if kind == "cifti" else values, dtype=np.int16)
        content = labels.tobytes()
        wanted = set(table.loc[table["n_voxels"] != "0", "index"])  # some parcels have no vertex
        if wrong := sorted({str(label) for label in np.unique(labels).tolist() if label} ^ wanted):
            yield Problem(folder / name, f"labels {wrong[:10]} are not those of atlas.tsv.", RUN_ALL)
        elif kind == "volume":
            yield from _places(folder / name, labels, image.affine, table)
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        where = "region names of atlas.tsv" if name is None else f"labels of {name}"
        yield Problem(
            folder / "atlas.json",
            f"its sha256 is not that of the {where}.",
            "Take the folder atlas/ as it was.",
        )


def _places(
    path: Path, labels: NDArray[np.int16], affine: NDArray[np.float64], table: pd.DataFrame
) -> Iterator[Problem]:
    """The labels, which are those of the table, lie where it says and have so many voxels."""
    from scipy.ndimage import center_of_mass

    numbered = np.arange(1, len(table) + 1)
    present = np.isin(numbered, labels)
    counts = np.bincount(labels.ravel(), minlength=len(table) + 1)[1:]
    if (wrong := counts != numbers(table["n_voxels"])).any():
        column = int(np.argmax(wrong))
        what = f"label {column + 1} has {counts[column]} voxels, atlas.tsv {table['n_voxels'][column]}."
        yield Problem(path, what, RUN_ALL)
    centres = np.array(center_of_mass(labels > 0, labels, numbered[present]))  # (n_present, 3) voxels
    found = nib.affines.apply_affine(affine, centres)
    told = np.stack([numbers(table[axis]) for axis in "xyz"], axis=1)[present]
    apart = np.abs(found - told).max(axis=1)  # (n_present,) mm
    if not (apart <= SAME_PLACE).all():
        worst = int(np.argmax(np.nan_to_num(apart, nan=np.inf)))
        what = f"label {numbered[present][worst]} lies at {found[worst].round(2).tolist()} mm, atlas.tsv "
        yield Problem(path, f"{what}has {told[worst].tolist()}.", "Take the folder atlas/ as it was.")


def read_json(path: Path, fix: str) -> tuple[dict[str, Any], Problem | None]:
    """The object in a JSON file, or what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, Problem(path, "is absent.", fix)
    except (OSError, ValueError) as error:
        return {}, Problem(path, f"is not readable JSON ({error}).", fix)
    if not isinstance(content, dict):
        return {}, Problem(path, "is not a JSON object.", fix)
    return content, None
