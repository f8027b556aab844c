"""Confounds of a scan: fMRIPrep's table through nilearn's selection, or a table of one's own as it is.

nilearn (interfaces.fmriprep) decides which columns a strategy takes and which frames it censors. We decide
which file it reads: the one that belongs to the scan. nilearn's own search takes any file whose name holds
some of the scan's entities, so a run without confounds silently gets those of another, and a scan `acq-x`
beside one without `acq-` is refused for having two.
"""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.preproc.errors import InputError
from bjepa.preproc.strategies import arguments_of, parse_strategy

# entities of an fMRIPrep image that its confounds do not have
_OF_THE_IMAGE = ("space-", "cohort-", "res-", "den-", "hemi-", "desc-")
_TABLE_ENDINGS = ("desc-confounds_timeseries.tsv", "desc-confounds_regressors.tsv")  # since 20.2; before
_AROMA_IMAGE = "desc-smoothAROMAnonaggr_bold"
_MOTION = tuple(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz")
_SUFFIXES = {
    "basic": ("",),
    "power2": ("", "_power2"),
    "derivatives": ("", "_derivative1"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Confounds:
    """What is known of a scan's nuisance.

    values: (n_frames, n_confounds) or None, finite; sample_mask: (n_frames,) True = kept, None = all kept;
    n_non_steady: initial non-steady-state frames that fMRIPrep found, None without a table;
    fd: (n_frames,) framewise displacement in mm; dvars: (n_frames,) `std_dvars`, else `dvars`. Both NaN in
    the first frame, None where the table has no such column.
    """

    values: pd.DataFrame | None = None
    sample_mask: NDArray[np.bool_] | None = None
    n_non_steady: int | None = None
    fd: NDArray[np.float64] | None = None
    dvars: NDArray[np.float64] | None = None


def load_confounds(img: Path, table: Path | None, strategy: str | dict[str, Any]) -> Confounds:
    """The confounds of `img` that `strategy` (see strategies.py) asks for.

    `table`: the scan's table, None = the one that fMRIPrep wrote beside `img`. A table that is named as
    fMRIPrep names its own (`*_desc-confounds_timeseries.tsv`) goes through the strategy; any other is used as
    it is, every column, and only with `simple` or `table`: the other strategies mean fMRIPrep's columns.
    Raises InputError where a strategy is asked for and its table, a column or a value is missing.
    """
    strategy = parse_strategy(strategy)
    if strategy == "table" and table is None:
        raise InputError(
            f"confounds 'table' of {img}: no table is given for it.",
            hint="Name it in the column 'confounds' of a manifest.",
        )
    table = table or confounds_beside(img)
    content = None if table is None else _read_table(table)
    known = {} if content is None else _known_columns(content)
    if strategy == "none":
        return Confounds(**known)
    if isinstance(strategy, dict) and "tedana" in strategy.get("strategy", ()):
        return Confounds(values=_tedana(img, strategy), **known)
    if table is None or content is None:
        raise InputError(
            f"confounds {_label(strategy)} of {img}: there is no "
            f"{_stem_of_scan(img)}_{_TABLE_ENDINGS[0]} beside it.",
            hint="Keep fMRIPrep's *_desc-confounds_timeseries.{tsv,json} beside it, or --confounds none.",
        )
    if strategy != "table" and table.name.endswith(_TABLE_ENDINGS):
        values, sample_mask = _select(img, table, content, strategy)
        return Confounds(values=_filled(values, table), sample_mask=sample_mask, **known)
    if strategy not in ("simple", "table"):
        raise InputError(
            f"confounds {_label(strategy)} cannot be chosen from {table}: it is not named as a table of "
            f"fMRIPrep (*_{_TABLE_ENDINGS[0]}), so all its columns would be used.",
            hint="--confounds table uses all of them.",
        )
    return Confounds(values=_filled(content, table), **known)


def confounds_beside(img: Path) -> Path | None:
    """fMRIPrep's confounds of a BOLD file: the same entities without space, resolution, hemi and desc."""
    for ending in _TABLE_ENDINGS:
        if (path := img.with_name(f"{_stem_of_scan(img)}_{ending}")).is_file():
            return path
    return None


def _stem_of_scan(img: Path) -> str:
    parts = [part for part in img.name.split("_")[:-1] if not part.startswith(_OF_THE_IMAGE)]
    return "_".join(parts)


def _label(strategy: str | dict[str, Any]) -> str:
    return repr(strategy if isinstance(strategy, str) else strategy.get("strategy", "of the JSON file"))


def _read_table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, sep="\t", na_values="n/a").astype(np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"confounds {path} cannot be read as a table of numbers ({error}).") from error


def _known_columns(table: pd.DataFrame) -> dict[str, Any]:
    """What is of use whatever the strategy: the fields of Confounds besides values and sample_mask."""
    dvars = table.get("std_dvars", table.get("dvars"))
    fd = table.get("framewise_displacement")
    return {
        "n_non_steady": sum(str(c).startswith("non_steady_state_outlier") for c in table.columns),
        "fd": None if fd is None else fd.to_numpy(),
        "dvars": None if dvars is None else dvars.to_numpy(),
    }


def _filled(values: pd.DataFrame, table: Path) -> pd.DataFrame:
    """`values` with the first row's NaN (derivatives have none there) as in the second row, as nilearn does.

    Any other value that is not finite is refused: a regressor cannot have holes.
    """
    filled = values.copy()
    if len(filled) > 1:
        filled.iloc[0] = filled.iloc[0].fillna(filled.iloc[1])
    bad = ~np.isfinite(filled.to_numpy())
    if bad.any():
        names = [str(c) for c in filled.columns[bad.any(axis=0)]]
        raise InputError(
            f"confounds {table}: {bad.sum()} values are missing or not finite, in columns {names[:5]}"
            f"{' …' if len(names) > 5 else ''}, first in frame {int(np.argmax(bad.any(axis=1))) + 1}.",
            hint="Mend the table, or choose confounds without these columns.",
        )
    return filled


def _select(
    img: Path, table: Path, content: pd.DataFrame, strategy: str | dict[str, Any]
) -> tuple[pd.DataFrame, NDArray[np.bool_] | None]:
    """What nilearn takes of an fMRIPrep table: columns (n_frames, n_confounds), and the frames it keeps."""
    arguments = arguments_of(strategy)
    what = f"confounds {_label(strategy)} of {table}"
    components = arguments["strategy"]
    if "ica_aroma" in components and arguments.get("ica_aroma", "full") == "full":
        if _AROMA_IMAGE not in img.name:
            raise InputError(
                f"{what}: this strategy takes fMRIPrep's image *_{_AROMA_IMAGE}.nii.gz, from which AROMA's "
                f"components are already regressed; got {img.name}.",
                hint='Choose it with --bids-filter-file {"bold": {"desc": "smoothAROMAnonaggr"}}, or take '
                "another strategy (fMRIPrep 23.1 and later no longer make it).",
            )
    elif _AROMA_IMAGE in img.name:
        raise InputError(
            f"{what}: {img.name} is already cleaned by ICA-AROMA.", hint="--confounds ica_aroma fits it."
        )
    if absent := _absent_columns(content, arguments):
        old = any(name.endswith("_derivative1") for name in absent)
        raise InputError(
            f"{what}: the table lacks {', '.join(absent[:6])}{' …' if len(absent) > 6 else ''}.",
            hint="fMRIPrep before 1.4 wrote no derivatives: a JSON file with basic models fits its tables."
            if old
            else "Choose other confounds (--confounds).",
        )
    metadata = table.with_suffix(".json")
    if "compcor" in components:
        _check_metadata(metadata, what)
    try:
        values, kept = _nilearn_selection(table, metadata, arguments)
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"{what} cannot be loaded: {error}") from error
    if kept is None:
        return values, None
    if len(kept) == 0:
        raise InputError(
            f"{what}: all {len(content)} frames are censored (motion above the thresholds, or not steady).",
            hint="Choose higher thresholds or confounds without scrubbing, or leave the scan out.",
        )
    sample_mask = np.zeros(len(content), dtype=bool)
    sample_mask[kept] = True
    return values, sample_mask


def _nilearn_selection(table: Path, metadata: Path, arguments: dict[str, Any]) -> tuple[Any, Any]:
    """Columns, and the numbers of the frames kept (None: all)."""
    import inspect

    from nilearn.interfaces import fmriprep

    # The public function differs only in searching for the table by the image's name (see the top).
    from nilearn.interfaces.fmriprep.load_confounds import _load_single_confounds_file

    parameters = inspect.signature(fmriprep.load_confounds).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not p.empty}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its deprecations; all frames censored is refused when cleaning
        kept, values = _load_single_confounds_file(
            str(table), confounds_json_file=str(metadata), **(defaults | arguments)
        )
    return values, kept


def _tedana(img: Path, strategy: dict[str, Any]) -> pd.DataFrame:
    """Components that tedana rejected, from its two tables beside its *_desc-optcom_bold image."""
    from nilearn.interfaces import fmriprep

    try:
        values, _ = fmriprep.load_confounds(str(img), **strategy)
    except (OSError, ValueError, LookupError) as error:
        raise InputError(f"confounds 'tedana' of {img} cannot be loaded: {error}") from error
    return _filled(values, img)


def _absent_columns(table: pd.DataFrame, arguments: dict[str, Any]) -> list[str]:
    """Columns that the strategy needs and the table lacks; nilearn itself names only some of them."""
    needed: list[str] = []
    for component, names in (
        ("motion", _MOTION),
        ("wm_csf", ("csf", "white_matter")),
        ("global_signal", ("global_signal",)),
    ):
        if component in arguments["strategy"]:
            model = arguments.get(component, "full" if component == "motion" else "basic")
            needed += [name + suffix for name in names for suffix in _SUFFIXES[model]]
    if "scrub" in arguments["strategy"]:
        needed += ["framewise_displacement", "std_dvars"]
    return [name for name in needed if name not in table.columns]


def _check_metadata(path: Path, what: str) -> None:
    """The JSON beside the table says from which mask each CompCor component is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{what}: CompCor needs {path.name} beside the table, it cannot be read ({error}).",
            hint="Keep fMRIPrep's JSON beside the table, or choose other confounds.",
        ) from error
    if not any("comp_cor" in name for name in content):
        raise InputError(f"{what}: {path.name} describes no CompCor component.")
