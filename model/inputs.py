"""What a run learns from: shards, and the gradients of the same regions."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bjepa.gradients import load_gradients
from bjepa.gradients.alignment.row_order import row_order
from bjepa.model.config import DataConfig
from bjepa.preproc.errors import InputError
from bjepa.preproc.files import sha256_of_file, sha256_of_json
from bjepa.preproc.participants import bare_id, read_participant_list, read_participants_table
from bjepa.preproc.shards import ShardReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainingInputs:
    """Data that fit together, and what names them."""

    reader: ShardReader
    gradients: NDArray[np.float64]  # (R, C)
    participants: list[str] | None  # None: all
    files: dict[str, str]  # path -> SHA-256 of its bytes
    sha256: str  # of the contents of all of it, wherever they lie

    @property
    def atlas_table(self) -> str:
        """The text of atlas.tsv beside the shards, or what the shards themselves tell of their regions."""
        table = self.reader.paths[0].parent.parent / "atlas" / "atlas.tsv"
        if table.is_file():
            return table.read_text(encoding="utf-8")
        columns = {"index": [str(i + 1) for i in range(self.reader.n_rois)], **self.reader.rois}
        lines = ["\t".join(columns), *("\t".join(row) for row in zip(*columns.values(), strict=True))]
        return "\n".join(lines) + "\n"

    def origin(self) -> dict[str, Any]:
        """What a user of the model must know to feed it."""
        return {
            "atlas": self.reader.atlas,
            "scaling": self.reader.scaling,
            "target_t_r": self.reader.target_t_r,
            "t_r_out": sorted({round(t, 6) for t in self.reader.scans["t_r_out"]}),
        }


def read_inputs(data: Path, gradients: Path, *, participants: Path | None = None) -> TrainingInputs:
    """Open the shards, read the gradients and the participants' list; refuse what does not fit together.

    Raises
    ------
    InputError
        Unreadable files; gradients with another number of regions, of another atlas than the shards, or with
        the regions in another order; regions without gradients.
    """
    reader = ShardReader(data)
    table = load_gradients(gradients)
    if len(table.values) != reader.n_rois:
        raise InputError(
            f"{gradients} has {len(table.values)} rows, the shards in {data} have {reader.n_rois} regions "
            f"({reader.atlas}).",
            hint="Give the gradients of the same atlas, one row a region, without header.",
        )
    if table.atlas_sha256 is None:
        if not _rows_are_proven(table.names, reader, gradients, data):
            log.warning(
                "%s does not say which atlas it is of: its rows are taken to be the %d regions of %s",
                gradients,
                reader.n_rois,
                reader.atlas,
            )
    elif table.atlas_sha256 != reader.atlas_sha256:
        raise InputError(
            f"{gradients} is of the atlas {table.atlas_sha256[:12]}…, the shards in {data} of "
            f"{reader.atlas_sha256[:12]}… ({reader.atlas}): as many regions, but not the same.",
            hint="Run bjepa-gradients on these data, or preprocess with the atlas of these gradients.",
        )
    missing = ~reader.valid
    if missing.any():
        log.warning(
            "%d of %d scans miss regions (%d in all): these have no tokens, but with mask.sampler = "
            "'released' their series are 0, the median of the region.",
            int(missing.any(axis=1).sum()),
            len(missing),
            int(missing.sum()),
        )
    names = None if participants is None else read_participant_list(participants)
    files = {str(path): sha256_of_file(path) for path in (*reader.paths, gradients)}
    content = {"files": list(files.values()), "participants": sorted(names) if names else None}
    return TrainingInputs(
        reader=reader,
        gradients=table.values,
        participants=names,
        files=files,
        sha256=sha256_of_json(content),
    )


def learn_from_split(inputs: TrainingInputs, config: DataConfig) -> TrainingInputs:
    """Keep the participants of `data.participants_split` that are in `data.split`, so no other is seen.

    The file has the columns `participant_id` and `split` (names of parts, such as train, val, test), or is a
    splits.tsv of bjepa-evaluate, where `data.split_number` says which of its splits and `role` is the part.

    Raises
    ------
    InputError
        A file without these columns; a part that it does not have; a participant in two parts; another list
        of participants as well.
    """
    if not config.participants_split:
        return inputs
    if inputs.participants is not None:
        raise InputError(
            "Both --participants and data.participants_split say whom to learn from.",
            hint="Give one of them.",
        )
    path = Path(config.participants_split)
    columns = read_participants_table(path)
    if "split" not in columns:
        raise InputError(
            f"{path} has no column split; it has {list(columns)}.",
            hint="Name the part of every participant there, for instance train or test.",
        )
    of_evaluation = "role" in columns
    rows = list(zip(columns["participant_id"], columns["role" if of_evaluation else "split"], strict=True))
    if of_evaluation:
        number = str(config.split_number)
        rows = [row for row, split in zip(rows, columns["split"], strict=True) if split == number]
        if not rows:
            raise InputError(
                f"{path} has no split {number}; it has {', '.join(sorted(set(columns['split'])))}.",
                hint="Give one of them as data.split_number.",
            )
    elif config.split_number:
        raise InputError(
            f"data.split_number = {config.split_number} is for a splits.tsv of bjepa-evaluate; {path} has no "
            "column role.",
            hint="Leave data.split_number out.",
        )
    part_of: dict[str, str] = {}
    for participant, part in rows:
        if part_of.setdefault(bare_id(participant), part) != part:
            raise InputError(
                f"{path} has {participant} in two parts, {part_of[bare_id(participant)]!r} and {part!r}."
            )
    wanted, parts = config.split.split("+"), set(part_of.values())
    if absent := [part for part in wanted if part not in parts]:
        raise InputError(
            f"{path} has nobody in {absent[0]!r}; its parts are {', '.join(sorted(parts))}.",
            hint="Give one of them, or several joined by +, as data.split.",
        )
    chosen = ["sub-" + name for name, part in part_of.items() if part in wanted]
    return replace(
        inputs,
        participants=chosen,
        files=inputs.files | {str(path): sha256_of_file(path)},
        sha256=sha256_of_json({"inputs": inputs.sha256, "participants": sorted(chosen)}),
    )


def _rows_are_proven(names: list[str] | None, reader: ShardReader, gradients: Path, data: Path) -> bool:
    """Whether the rows are named as the regions of the shards, in any naming; names of others are refused.

    Names that are of no atlas we know, as those of a table without any, tell nothing.
    """
    own = reader.rois["name"]
    order = row_order(names, pd.DataFrame(reader.rois))
    if names is None or order is None:
        return False
    if order.moved.any():
        row = int(np.argmax(order.moved))
        raise InputError(
            f"{gradients} has its regions in another order than the shards in {data}: "
            f"{int(order.moved.sum())} of {len(own)} rows differ, first row {row + 1}: {names[row]!r} there, "
            f"{own[row]!r} here.",
            hint="Give gradients made from these data, or put the rows into the order of atlas.tsv.",
        )
    if order.problem:
        raise InputError(
            f"The rows of {gradients} are named as other regions than those of the shards in {data} "
            f"({reader.atlas}): {order.problem}.",
            hint="Give gradients made from these data. A table without names is taken row by row.",
        )
    return order.complete
