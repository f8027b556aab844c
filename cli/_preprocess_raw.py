"""bjepa-preprocess on raw fMRI: its options, which template, and what of the other options it cannot have."""

import argparse
import importlib.util
import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bjepa.cli._preprocess_options import PROG, RAW_OPTIONS
from bjepa.preproc.errors import InputError

if TYPE_CHECKING:
    from bjepa.preproc.inputs import Dataset
    from bjepa.preproc.inputs.source import RawWanted
    from bjepa.preproc.raw.options import RawOptions
    from bjepa.preproc.raw.participant import RawSetup
    from bjepa.preproc.raw.template import Template

log = logging.getLogger(PROG)

# of load_confounds: what is not in the table that is written for a raw run
_NO_CONFOUNDS = {"ica_aroma": "ICA-AROMA", "tedana": "tedana"}


# options that decide the numbers of a raw run -> their names in `flat_setup` and `flat_facts`
OF_A_SCAN = {
    "template": "raw.template",
    "allow_no_t1w": "raw.allow_no_t1w",
    "slice_timing": "raw.slice_timing",
    "omp_threads": "raw.omp_threads",
    "sloppy": "raw.sloppy",
}


def flat_setup(setup: "RawSetup | None") -> dict[str, Any]:
    """Template and options of this call."""
    if setup is None:
        return {}
    options = {f"raw.{name}": value for name, value in asdict(setup.options).items()}
    return options | {"raw.template": setup.template.sha256}


def flat_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The same, as a scan was done with it; nothing of a scan that was not raw."""
    if "raw" not in facts:
        return {}
    options = {f"raw.{name}": value for name, value in facts["raw"].get("options", {}).items()}
    return options | {"raw.template": facts["raw"]["template_sha256"]}


def raw_wanted(args: argparse.Namespace) -> "RawWanted":
    """What finding the scans of a raw folder needs to know."""
    from bjepa.preproc.inputs.bids import read_bids_filter
    from bjepa.preproc.inputs.raw_t1w import check_mask_pattern
    from bjepa.preproc.inputs.source import RawWanted

    if args.t1_mask is not None:
        check_mask_pattern(args.t1_mask)
    file = args.bids_filter_file
    return RawWanted(
        t1w_filter=read_bids_filter(file, "t1w", needed=False) if file else {},
        t1_mask=args.t1_mask,
        allow_no_t1w=args.allow_no_t1w,
        slice_timing=args.slice_timing,
    )


def raw_setup(args: argparse.Namespace, dataset: "Dataset") -> "RawSetup | None":
    """Template and options of raw runs; None for other scans, for which such options are refused."""
    if dataset.scans[0].kind != "raw":
        _refuse_for_others(args, dataset)
        return None
    from bjepa.preproc.raw.participant import RawSetup
    from bjepa.preproc.raw.verdict import Thresholds

    _refuse_for_raw(args)
    return RawSetup(template=_template(args), options=raw_options(args), thresholds=Thresholds())


def raw_options(args: argparse.Namespace) -> "RawOptions":
    """The options of every stage of a raw run."""
    from bjepa.preproc.raw.options import RawOptions

    return RawOptions(
        allow_no_t1w=args.allow_no_t1w,
        slice_timing=args.slice_timing,
        omp_threads=args.omp_threads,
        sloppy=args.sloppy,
    )


def in_template_space(dataset: "Dataset", setup: "RawSetup | None") -> "Dataset":
    """Raw scans with the space that their regions are told in: the template's."""
    if setup is None:
        return dataset
    return replace(dataset, scans=[replace(scan, space=setup.template.space) for scan in dataset.scans])


def check_can_register(args: argparse.Namespace) -> None:
    """Refuse before the work begins where antspyx is not installed; warn of more threads than cores.

    A dry run is told, and goes on: it may be made on another machine than the run.
    """
    if importlib.util.find_spec("ants") is None:
        error = InputError(
            "raw fMRI needs antspyx, which is not installed.",
            hint="pip install 'bjepa[raw]' (Python 3.11 to 3.13), or give preprocessed scans.",
        )
        if not args.dry_run:
            raise error
        log.warning("%s", error)
    cores = os.cpu_count() or 1
    n_jobs = cores if args.n_jobs == -1 else args.n_jobs
    if args.dask is None and n_jobs * args.omp_threads > max(cores, n_jobs):
        log.warning(
            "--n-jobs %d x --omp-threads %d are %d threads on %d cores.",
            *(n_jobs, args.omp_threads, n_jobs * args.omp_threads, cores),
        )


# --- what does not go together ------------------------------------------------------------------------------


def _refuse_for_others(args: argparse.Namespace, dataset: "Dataset") -> None:
    given = [name for name, default in RAW_OPTIONS.items() if getattr(args, name) != default]
    if given:
        what = dataset.made_by or f"{dataset.scans[0].kind} files"
        raise InputError(
            f"{', '.join('--' + name.replace('_', '-') for name in given)}: for raw BIDS folders only; "
            f"INPUT {args.input} holds {what}.",
            hint="Leave it out. (A raw folder has a dataset_description.json with DatasetType raw, or none.)",
        )
    if args.bids_filter_file:
        from bjepa.preproc.inputs.bids import read_bids_filter

        read_bids_filter(args.bids_filter_file)  # refused where it filters T1w images only


def _refuse_for_raw(args: argparse.Namespace) -> None:
    from bjepa.preproc.atlas.files import space_in_name
    from bjepa.preproc.atlas.spaces import SURFACE_SPACE
    from bjepa.preproc.strategies import arguments_of, parse_strategy

    if args.space == SURFACE_SPACE or args.atlas.endswith(".dlabel.nii"):
        raise InputError(
            f"raw runs are volumes; --space {args.space} --atlas {args.atlas} is of surfaces.",
            hint="Give an atlas volume, or the surface files of fMRIPrep.",
        )
    own_atlas = args.atlas.endswith((".nii", ".nii.gz"))
    if own_atlas and args.space is None and space_in_name(Path(args.atlas)) is None:
        raise InputError(
            f"--atlas {args.atlas}: the space of this label volume is unknown.",
            hint="Give --space: the template that it was drawn on.",
        )
    if args.confounds is None or (strategy := parse_strategy(args.confounds)) == "none":
        return
    if strategy == "table":
        raise InputError(
            "--confounds table is for tables of a manifest; that of a raw run has far too many columns.",
            hint="Give simple, scrubbing, compcor, 24p, 36p or a .json.",
        )
    arguments = arguments_of(strategy)
    lacking = [_NO_CONFOUNDS[name] for name in arguments["strategy"] if name in _NO_CONFOUNDS]
    if str(arguments.get("compcor", "")).startswith("temporal"):
        lacking.append("temporal CompCor")
    if lacking:
        raise InputError(
            f"--confounds {args.confounds} needs {lacking[0]}, which is not run on raw data.",
            hint="Give simple, scrubbing, compcor, 24p or 36p, or use fMRIPrep.",
        )


# --- the template -------------------------------------------------------------------------------------------


def _template(args: argparse.Namespace) -> "Template":
    """As asked for; without a word the one that OUTPUT was begun with, for all its scans must have one."""
    from bjepa.preproc.atlas.files import space_in_name
    from bjepa.preproc.raw.template import choose_template

    space = args.space
    if space is None and args.atlas.endswith((".nii", ".nii.gz")):
        space = space_in_name(Path(args.atlas))
    begun = _begun_with(args.output)
    if args.template is not None or begun is None or space not in (None, begun["space"]):
        given = None if args.template is None else args.template.absolute()  # workers stand elsewhere
        return choose_template(given, space)
    log.info("%s goes on with the template that it was begun with.", args.output)
    template = choose_template(None, begun["space"], name=begun["name"])
    if template.sha256 != begun["sha256"]:
        raise InputError(
            f"OUTPUT {args.output} was begun with {begun['choice']}; now there is {template.choice}.",
            hint="Give --template with the file of then, or another OUTPUT.",
        )
    return template


def _begun_with(output: Path) -> "dict[str, Any] | None":
    path = output / "atlas" / "template.json"
    if not path.is_file():
        return None
    begun = json.loads(path.read_text(encoding="utf-8"))
    return begun if isinstance(begun, dict) else None


def write_template(output: Path, template: "Template") -> None:
    """Keep in OUTPUT which template its scans have."""
    from bjepa.preproc.files import write_json

    write_json(output / "atlas" / "template.json", template.facts())
