"""Lists of participants: plain text or a BIDS participants.tsv, with or without their `sub-`."""

from pathlib import Path

import pandas as pd

from bjepa.preproc.errors import InputError


def read_participant_list(path: Path) -> list[str]:
    """Participant ids (with `sub-`) of a file: one a line, or the column participant_id of a .tsv.

    Raises InputError for a file that cannot be read, is empty, or names somebody twice.
    """
    try:
        if path.suffix == ".tsv":
            table = pd.read_csv(path, sep="\t", dtype=str)
            if "participant_id" not in table:
                raise InputError(f"{path} has no column participant_id; it has {list(table.columns)}.")
            names = table["participant_id"].dropna().tolist()
        else:
            names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path} cannot be read as a list of participants ({error}).") from error
    ids = ["sub-" + name.removeprefix("sub-") for name in names]
    if not ids:
        raise InputError(f"{path} names no participant.", hint="One id a line, e.g. sub-01.")
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise InputError(f"{path} names {twice[:5]} more than once.")
    return ids
