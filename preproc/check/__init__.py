"""Does an output folder hold what it promises? Every file against the others and against its hashes.

    folder.py   dataset_description.json, atlas, tables, report, what killed processes left
    shards.py   each shard against the format, the atlas and scaling.tsv; every number in it
    options.py  each shard against the options it was made with
    facts.py    each scan's JSON file: its kinds of facts, its place, what scans.tsv and shards repeat of it
    scans.py    scans.tsv, shards and each scan's own files against each other; contents; sources

Nothing is changed. A fault is a `Problem` and the check goes on, so that one call names all of them. Names
and types that the format promises are written out here once more, not taken from the code that writes them:
a slip there is found here.
"""

from collections.abc import Callable
from pathlib import Path

from bjepa.preproc.check.folder import check_folder
from bjepa.preproc.check.problem import Problem
from bjepa.preproc.check.scans import check_scans
from bjepa.preproc.check.shards import check_shards
from bjepa.preproc.errors import InputError

__all__ = ["Problem", "check_output"]

SAMPLE = 20


def check_output(
    output: Path,
    *,
    sources: bool,
    all_scans: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Problem]:
    """All that is wrong with an output folder of bjepa-preprocess; empty where nothing is.

    Parameters
    ----------
    output : the folder; both stages have run
    sources
        Whether to hash the scans' input files, where they are still there, and compare: reads all of them.
    all_scans
        Whether to compare the stored series of every scan with the scan's own file, not only those of 20
        scans spread over the folder. Everything else is checked for every scan and every stored number.
    progress : called with the name of each shard and scan

    Raises
    ------
    InputError
        `output` is no output folder of bjepa-preprocess at all.
    """
    if not output.is_dir():
        raise InputError(f"OUTPUT {output} is not a folder.", hint="Give the output folder to be checked.")
    if not any((output / name).exists() for name in ("atlas", "shards", "scans.tsv")):
        raise InputError(
            f"OUTPUT {output} holds neither atlas/, shards/ nor scans.tsv.",
            hint="Give the output folder of bjepa-preprocess.",
        )
    problems, folder = check_folder(output)
    shards = check_shards(output, folder, progress=progress)
    of_scans = check_scans(
        output,
        folder,
        shards,
        n_compared=None if all_scans else SAMPLE,
        sources=sources,
        progress=progress,
    )
    return [*problems, *shards.problems, *of_scans]
