"""What `--confounds` may say: a name, or a JSON file of arguments of nilearn's `load_confounds`.

Every name but `none` and `table` stands for such arguments. The first four are nilearn's own presets
(`load_confounds_strategy`, defaults of nilearn 0.13 and later); `24p` and `36p` are the models of that size
in Ciric et al. 2017 (doi:10.1016/j.neuroimage.2017.03.020) with fMRIPrep's slow cosines.
"""

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bjepa.preproc.errors import InputError

STRATEGIES: dict[str, dict[str, Any]] = {
    "simple": {"strategy": ("high_pass", "motion", "wm_csf"), "motion": "full", "wm_csf": "basic"},
    "scrubbing": {
        "strategy": ("high_pass", "motion", "wm_csf", "scrub"),
        "motion": "full",
        "wm_csf": "full",
        "scrub": 5,
        "fd_threshold": 0.5,
        "std_dvars_threshold": 1.5,
    },
    "compcor": {
        "strategy": ("high_pass", "motion", "compcor"),
        "motion": "full",
        "n_compcor": "all",
        "compcor": "anat_combined",
    },
    "ica_aroma": {"strategy": ("high_pass", "wm_csf", "ica_aroma"), "wm_csf": "basic", "ica_aroma": "full"},
    "24p": {"strategy": ("high_pass", "motion"), "motion": "full"},
    "36p": {
        "strategy": ("high_pass", "motion", "wm_csf", "global_signal"),
        "motion": "full",
        "wm_csf": "full",
        "global_signal": "full",
    },
}
NAMES = ("none", *STRATEGIES, "table")

_MODELS = ("basic", "power2", "derivatives", "full")
_COMPCOR = (
    "anat_combined",
    "anat_separated",
    "temporal",
    "temporal_anat_combined",
    "temporal_anat_separated",
)
# component of `strategy` -> its arguments -> what they may be
COMPONENTS: dict[str, dict[str, tuple[str, ...] | str]] = {
    "motion": {"motion": _MODELS},
    "high_pass": {},
    "wm_csf": {"wm_csf": _MODELS},
    "global_signal": {"global_signal": _MODELS},
    "compcor": {"compcor": _COMPCOR, "n_compcor": '"all" or a whole number from 1'},
    "ica_aroma": {"ica_aroma": ("full", "basic")},
    "tedana": {"tedana": ("aggressive", "non-aggressive")},
    "scrub": {
        "scrub": "a whole number of frames from 0",
        "fd_threshold": "a number of mm above 0",
        "std_dvars_threshold": "a number above 0",
    },
}
_DEFAULT_COMPONENTS = ("motion", "high_pass", "wm_csf")  # of load_confounds


def parse_strategy(given: str | dict[str, Any]) -> str | dict[str, Any]:
    """A name of NAMES as it is; the path of a JSON file, or its content, as checked arguments.

    Raises InputError for anything else, naming what comes nearest.
    """
    if isinstance(given, dict):
        return _checked(given, "confounds")
    if given in NAMES:
        return given
    if given.lower().endswith(".json"):
        try:
            content = json.loads(Path(given).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"--confounds {given} cannot be read as JSON ({error}).") from error
        return _checked(content, f"--confounds {given}")
    raise InputError(
        f"--confounds must be one of {', '.join(NAMES)} or a .json file, got {given!r}.",
        hint=_nearest(given, NAMES),
    )


def arguments_of(strategy: str | dict[str, Any]) -> dict[str, Any]:
    """The arguments of nilearn's `load_confounds` that a strategy stands for (not `none` nor `table`)."""
    parsed = parse_strategy(strategy)
    return {"strategy": _DEFAULT_COMPONENTS} | (STRATEGIES[parsed] if isinstance(parsed, str) else parsed)


def _checked(arguments: Any, where: str) -> dict[str, Any]:
    """`arguments` if every one is known to `load_confounds`, has an effect, and an allowed value."""
    if not isinstance(arguments, dict):
        raise InputError(
            f"{where} must hold a JSON object of load_confounds arguments, got {type(arguments).__name__}.",
            hint='For example {"strategy": ["motion", "high_pass"], "motion": "basic"}.',
        )
    owner = {name: component for component, names in COMPONENTS.items() for name in names}
    for name in arguments:
        if name not in ("strategy", "demean", *owner):
            known = ("strategy", *owner, "demean")
            raise InputError(
                f"{where}: load_confounds has no argument {name!r}; it has {', '.join(known)}.",
                hint=_nearest(name, known),
            )
    components = _checked_components(arguments.get("strategy", _DEFAULT_COMPONENTS), where)
    for name, value in arguments.items():
        if name == "demean":
            _require(isinstance(value, bool), where, name, "true or false", value)
        elif name != "strategy":
            if owner[name] not in components:
                raise InputError(
                    f"{where}: {name!r} has no effect: {owner[name]!r} is not in {list(components)}.",
                    hint=f'Add "{owner[name]}" to "strategy", or leave "{name}" out.',
                )
            allowed = COMPONENTS[owner[name]][name]
            _require(_is_allowed(name, value, allowed), where, name, allowed, value)
    return arguments


def _checked_components(components: Any, where: str) -> tuple[str, ...]:
    if not isinstance(components, list | tuple) or not components:
        _require(False, where, "strategy", "a list of components", components)
    for component in components:
        if component == "non_steady_state":
            raise InputError(
                f"{where}: non-steady-state frames are always marked, 'non_steady_state' adds nothing.",
                hint='Leave it out of "strategy".',
            )
        if not isinstance(component, str) or component not in COMPONENTS:
            raise InputError(
                f"{where}: strategy may hold {', '.join(COMPONENTS)}; got {component!r}.",
                hint=_nearest(str(component), COMPONENTS),
            )
    if len(set(components)) < len(components):
        raise InputError(f"{where}: strategy names a component twice: {list(components)}.")
    if "compcor" in components and "high_pass" not in components:
        raise InputError(
            f"{where}: 'compcor' needs 'high_pass' in strategy (fMRIPrep computes it after its high-pass)."
        )
    if "tedana" in components and len(components) > 1:
        raise InputError(
            f"{where}: 'tedana' must be alone in strategy: nilearn would leave out {list(components)}.",
        )
    return tuple(components)


def _is_allowed(name: str, value: Any, allowed: tuple[str, ...] | str) -> bool:
    if isinstance(allowed, tuple):
        return value in allowed
    whole = isinstance(value, int) and not isinstance(value, bool)
    if name == "n_compcor":
        return value == "all" or (whole and value >= 1)
    if name == "scrub":
        return whole and value >= 0
    return (whole or isinstance(value, float)) and 0 < value < float("inf")


def _require(fulfilled: bool, where: str, name: str, allowed: tuple[str, ...] | str, value: Any) -> None:
    if not fulfilled:
        listed = allowed if isinstance(allowed, str) else "one of " + ", ".join(allowed)
        raise InputError(f"{where}: {name!r} must be {listed}, got {value!r}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"Did you mean {found[0]!r}?" if found else ""
