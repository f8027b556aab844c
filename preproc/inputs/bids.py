"""BIDS: the files of a folder, the entities in their names, the sidecars that apply to them.

Names are parsed by nilearn. Sidecars are inherited as BIDS says: a JSON file of the same suffix, in the
folder of the file or one above it (up to the root of the dataset), whose entities all occur in the file's
name. The nearer folder wins, within a folder the longer name. A JSON file called exactly like the file always
applies, whether the name is of BIDS or not. Why no library does this part: docs/decisions/0008.
"""

import functools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bjepa.preproc.errors import InputError
from bjepa.preproc.inputs.source import BidsFilter
from bjepa.preproc.number_tables import table_suffix

IMAGE_SUFFIXES = (".dtseries.nii", ".ptseries.nii", ".nii", ".nii.gz")
# in BIDS order
ENTITIES = (
    *("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part", "space", "seg", "atlas", "res"),
    *("den", "stat", "desc"),
)
NATIVE_SPACES = (None, "T1w", "T2w", "anat", "func", "boldref", "orig", "individual")

# how filter files of fMRIPrep and pybids call the entities
_LONG_NAMES = {
    "subject": "sub",
    "session": "ses",
    "acquisition": "acq",
    "ceagent": "ce",
    "reconstruction": "rec",
    "direction": "dir",
    "resolution": "res",
    "density": "den",
    "description": "desc",
    "segmentation": "seg",
}
# sub-*/ses-*/func is three below the root; a folder or two more (a lab's own subfolders) do no harm
_MAX_BELOW_ROOT = 5
# sections of a filter file that are read; what they may say besides entities, true of all that is looked for
_FIXED = {
    "bold": {"datatype": "func", "suffix": "bold"},
    "t1w": {"datatype": "anat", "suffix": "T1w"},
}


@dataclass(frozen=True)
class BidsName:
    """A file name taken apart; without `sub-` it has no entities and no suffix."""

    entities: dict[str, str]
    suffix: str
    extension: str  # ".nii.gz", ".dtseries.nii"


def parse_name(path: Path) -> BidsName:
    """Entities, suffix and extension of a BIDS file name, as they are written (`run-01` stays "01")."""
    name = path.name
    parsed = _parse(name)
    return BidsName(dict(parsed.entities), parsed.suffix, parsed.extension)


@functools.lru_cache(maxsize=4096)
def _parse(name: str) -> BidsName:
    from nilearn.interfaces.bids import parse_bids_filename

    parsed = parse_bids_filename(name)
    entities = {k: v for k, v in parsed["entities"].items() if v is not None}
    known = "sub" in entities
    return BidsName(entities if known else {}, parsed["suffix"] if known else "", f".{parsed['extension']}")


def stem_of(path: Path) -> str:
    """The name without its extension, as far as that is known: `subj1.func` of `subj1.func.nii.gz`."""
    ending = next((e for e in IMAGE_SUFFIXES if path.name.endswith(e)), None) or table_suffix(path) or ""
    return path.name[: len(path.name) - len(ending)]


# --- the files of a folder ----------------------------------------------------------------------------------


@dataclass
class Tree:
    """All files under a root: one walk, links to folders followed, hidden ones and `exclude` left out.

    Sidecars are inherited from above the root too, where it lies within a dataset (`dataset_root`).
    `deep=False`: no walk, and `files` has none; folders are listed when a sidecar is looked for in them.
    """

    root: Path
    exclude: Path | None = None
    deep: bool = True
    folders: dict[Path, list[str]] = field(default_factory=dict)  # folder -> names of its files, sorted
    _name_sets: dict[Path, frozenset[str]] = field(default_factory=dict, init=False, repr=False)
    _sidecar_lists: dict[Path, dict[str, list[tuple[str, frozenset[str]]]]] = field(
        default_factory=dict, init=False, repr=False
    )
    _contents: dict[Path, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)
    _above: list[Path] = field(default_factory=list, init=False, repr=False)  # nearest first

    def __post_init__(self) -> None:
        top, root = dataset_root(self.root), Path(os.path.abspath(self.root))
        self._above = [folder for folder in root.parents if folder.is_relative_to(top)]
        if not self.deep:
            return
        left_out = None if self.exclude is None else os.path.realpath(self.exclude)
        seen: set[str] = set()  # a link to a folder above would not end
        for folder, inner, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real == left_out or real in seen:
                inner.clear()
                continue
            seen.add(real)
            inner[:] = sorted(name for name in inner if not name.startswith("."))
            self.folders[Path(folder)] = sorted(name for name in names if not name.startswith("."))

    def files(self, *endings: str) -> Iterator[Path]:
        """Files whose names end in one of these, folder by folder."""
        for folder, names in self.folders.items():
            yield from (folder / name for name in names if name.endswith(endings))

    def has(self, path: Path) -> bool:
        """Whether a file is there."""
        return path.name in self._names(path.parent)

    def sidecar_facts(self, path: Path) -> dict[str, Any]:
        """JSON facts of a file, by inheritance. Raises InputError where a sidecar cannot be read."""
        stem = stem_of(path)
        facts = self.facts(path.parent, set(stem.split("_")))
        own = path.with_name(f"{stem}.json")
        return facts | self._content(own) if self.has(own) else facts

    def facts(self, folder: Path, words: set[str]) -> dict[str, Any]:
        """JSON facts that apply in `folder` to a name made of these words (entities and suffix)."""
        found: dict[str, Any] = {}
        inside = [level for level in (folder, *folder.parents) if level.is_relative_to(self.root)]
        for level in reversed([*inside, *self._above]):  # the nearest comes last and wins
            for subject in ("", _subject(words)):
                for name, its_words in self._sidecars(level, subject):
                    if its_words <= words:
                        found |= self._content(level / name)
        return found

    def _listed(self, folder: Path) -> list[str]:
        """Names of a folder's files: of the walk, or looked up where none has been there."""
        if folder not in self.folders and (not self.deep or folder in self._above):
            self.folders[folder] = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return self.folders.get(folder, [])

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._name_sets:
            self._name_sets[folder] = frozenset(self._listed(folder))
        return self._name_sets[folder]

    def _sidecars(self, folder: Path, subject: str) -> list[tuple[str, frozenset[str]]]:
        """JSON files of a folder that may apply to a subject ("" = to all), the longest name last."""
        if folder not in self._sidecar_lists:
            by_subject: dict[str, list[tuple[str, frozenset[str]]]] = {}
            for name in sorted((n for n in self._listed(folder) if n.endswith(".json")), key=len):
                words = name.removesuffix(".json").split("_")
                if "-" not in words[-1]:  # else it has no suffix and applies to nothing
                    by_subject.setdefault(_subject(words), []).append((name, frozenset(words)))
            self._sidecar_lists[folder] = by_subject
        return self._sidecar_lists[folder].get(subject, [])

    def _content(self, path: Path) -> dict[str, Any]:
        if path not in self._contents:
            self._contents[path] = read_json(path)
        return self._contents[path]


def dataset_root(folder: Path) -> Path:
    """The nearest folder with a dataset_description.json, a few levels up at most; else the folder itself."""
    folder = Path(os.path.abspath(folder))
    levels = (folder, *folder.parents)[: _MAX_BELOW_ROOT + 1]
    return next((level for level in levels if (level / "dataset_description.json").is_file()), folder)


def facts_of_file(path: Path, trees: dict[Path, Tree]) -> dict[str, Any]:
    """JSON facts of a file that stands by itself, as its dataset has them.

    `trees`: those of datasets that were asked before, by their root; what is new is added.
    """
    path = Path(os.path.abspath(path))
    root = dataset_root(path.parent)
    if root not in trees:
        trees[root] = Tree(root, deep=False)
    return trees[root].sidecar_facts(path)


def _subject(words: Iterable[str]) -> str:
    return next((word for word in words if word.startswith("sub-")), "")


def t_r_of(facts: Mapping[str, Any], path: Path) -> float | None:
    """RepetitionTime of a sidecar in seconds, None where it says none."""
    value = facts.get("RepetitionTime")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{path}: RepetitionTime in its sidecar must be seconds, got {value!r}.")
    return float(value)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


def is_label(text: str) -> bool:
    """Whether a text is a BIDS label: letters and digits only."""
    return bool(text) and clean_label(text) == text


def clean_label(text: str) -> str:
    """Letters and digits only, as BIDS labels are."""
    return re.sub(r"[^A-Za-z0-9]", "", text)


# --- filter files -------------------------------------------------------------------------------------------


def read_bids_filter(path: Path, section: str = "bold", *, needed: bool = True) -> BidsFilter:
    """A section of a BIDS filter file, as fMRIPrep takes it: "bold", or "t1w" of raw data.

    `{"bold": {"task": "rest", "acquisition": null, "run": ["1", "2"]}}`: labels, lists of them, null for
    "without this entity", "*" for "with any". Other sections are about images that are not used here.
    Without the section nothing is filtered, unless it is `needed`.
    """
    content = read_json(path)
    said = content.get(section, None if needed else {})
    if not isinstance(said, dict):
        raise InputError(
            f"{path} has no section {section!r}; it has {sorted(content)}.",
            hint='For example {"bold": {"task": "rest"}, "t1w": {"acquisition": null}}.',
        )
    fixed = _FIXED[section]
    wanted: dict[str, tuple[str | None, ...]] = {}
    for key, value in said.items():
        entity = _LONG_NAMES.get(key, key)
        if key in fixed:
            if value != fixed[key]:
                raise InputError(f"{path}: {key} can only be {fixed[key]!r} here, got {value!r}.")
        elif entity not in ENTITIES:
            allowed = sorted({*ENTITIES, *_LONG_NAMES, *fixed})
            raise InputError(f"{path}: {key!r} is no BIDS entity; known are {allowed}.")
        else:
            wanted[entity] = _allowed(value, f"{path}: {key}")
    return wanted


def _allowed(value: Any, where: str) -> tuple[str | None, ...]:
    if value in ("*", "Query.ANY", "Query.REQUIRED"):
        return ()
    values = value if isinstance(value, list) else [value]
    labels: list[str | None] = []
    for one in values:
        if one is None or one == "Query.NONE":
            labels.append(None)
        elif isinstance(one, str | int) and not isinstance(one, bool):
            labels.append(str(one))
        else:
            raise InputError(f"{where} must be a label, a list of labels, null or '*', got {value!r}.")
    return tuple(labels)


def passes(entities: Mapping[str, str], wanted: BidsFilter) -> bool:
    """Whether a file with these entities is kept by a filter."""
    return all(
        (entity in entities) if not allowed else any(_same(entities.get(entity), a) for a in allowed)
        for entity, allowed in wanted.items()
    )


def _same(label: str | None, allowed: str | None) -> bool:
    if label is None or allowed is None:
        return label is allowed
    return label == allowed or (label.isdigit() and allowed.isdigit() and int(label) == int(allowed))
