"""What the masks ask and show: the paper's sampler beside the released one, at several batch sizes.

    python benchmarks/masking.py [--scans 6400] [--rois 450] [--markdown]

The released sampler cuts each list to the shortest of the batch, so its batch size decides what is left;
the paper's draws every scan alone and pads, so it has one column (batches of 16). "Survive" is counted
against B = 1, where nothing is cut, for what the cut reaches first: the left side, then the right. Kinds are
told by what the context, as it is after the cut, shows of a target's region and time (the released names are
swapped). "Seen" and "asked" are means over tokens of the share of scans that have the token in the context,
or among the targets; 40 and 20 % of 450 regions are the first 180 and the last 90.
"""

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from bjepa.model.config import MaskConfig
from bjepa.model.mask_samplers_released import released_masks
from bjepa.model.masking import KINDS, Masks, collate_masks, sample_mask

N_PATCHES = 10  # all that the released sampler knows
RELEASED_BATCHES = (1, 4, 16)
PAPER_BATCH = 16
SIDE_COLUMNS = ((7, 8, 9), (0, 1, 2))  # right and left, of the released sampler
FIRST, LAST = 0.4, 0.2  # of the regions

Row = dict[str, float]
LINES = (
    ("cross_roi_share", "targets: Cross-ROI", "%"),
    ("cross_time_share", "targets: Cross-Time", "%"),
    ("double_cross_share", "targets: Double-Cross", "%"),
    ("right_share", "targets: of the right side", "%"),
    ("left_share", "targets: of the left side", "%"),
    ("right_survives", "targets of the right side that survive", "%"),
    ("left_survives", "targets of the left side that survive", "%"),
    ("seen_first", "seen: first 40 % of the regions", "%"),
    ("seen_last", "seen: last 20 % of the regions", "%"),
    ("asked_first", "asked: first 40 % of the regions", "%"),
    ("asked_last", "asked: last 20 % of the regions", "%"),
    ("seen_last_patch", "seen: last patch", "%"),
    ("asked_last_patch", "asked: last patch", "%"),
    ("context_tokens", "context tokens", ""),
    ("target_tokens", "target tokens", ""),
    ("duplicates", "targets that repeat another", "%"),
    ("batch_ms", "time to draw a batch", "ms"),
)


def main() -> None:
    """Draw, count, print the table and the last lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=6400, help="drawn for each column (default: 6400)")
    parser.add_argument("--rois", type=int, default=450)
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/masks.md")
    args = parser.parse_args()
    columns = {"paper": statistics(paper_batches(args.scans, args.rois), args.rois)}
    whole = sides(released_batches(args.scans, args.rois, 1))
    for batch_size in RELEASED_BATCHES:
        found = statistics(released_batches(args.scans, args.rois, batch_size), args.rois)
        left = sides(released_batches(args.scans, args.rois, batch_size))
        found["right_share"], found["left_share"] = 100 * left / found["target_tokens"]
        found["right_survives"], found["left_survives"] = 100 * left / whole
        columns[f"released, B = {batch_size}"] = found
    print(table(columns, markdown=args.markdown))
    if not args.markdown:
        for name, found in columns.items():
            key = name.replace(", B = ", "_b")
            for line, _, unit in LINES:
                if line in found:
                    print(f"{key}_{line}: {_number(found[line])} {unit or 'tokens'}")


def paper_batches(n_scans: int, n_rois: int) -> Iterator[Masks]:
    """Batches of the default sampler."""
    rng, config = np.random.default_rng(0), MaskConfig()
    for _ in range(n_scans // PAPER_BATCH):
        drawn = [sample_mask(n_rois, N_PATCHES, config=config, generator=rng) for _ in range(PAPER_BATCH)]
        yield collate_masks(drawn)


def released_batches(n_scans: int, n_rois: int, batch_size: int) -> Iterator[Masks]:
    """Batches of the released sampler."""
    generator = torch.Generator().manual_seed(0)
    for counter in range(n_scans // batch_size):
        yield released_masks(batch_size, n_rois, N_PATCHES, counter=counter, generator=generator)


def statistics(batches: Iterator[Masks], n_rois: int) -> Row:
    """LINES of all batches, without those of the sides."""
    n_tokens = n_rois * N_PATCHES
    seen, asked = np.zeros(n_tokens), np.zeros(n_tokens)
    kinds, n_context, n_target, n_repeated, n_scans = np.zeros(3), 0, 0, 0, 0
    n_batches, seconds = 0, 0.0
    began = time.perf_counter()
    for masks in batches:
        seconds += time.perf_counter() - began
        n_batches += 1
        n_scans += len(masks.context_index)
        for row in range(len(masks.context_index)):
            context, target = (
                tokens[tokens >= 0].numpy() for tokens in (masks.context_index[row], masks.target_index[row])
            )
            different = np.unique(target)
            seen[context] += 1
            asked[different] += 1
            kinds += kinds_of(context, target, n_rois)
            n_context += len(context)
            n_target += len(target)
            n_repeated += len(target) - len(different)
        began = time.perf_counter()
    seen_grid, asked_grid = (100 * a.reshape(n_rois, N_PATCHES) / n_scans for a in (seen, asked))
    first, last = round(FIRST * n_rois), n_rois - round(LAST * n_rois)
    row = {f"{name}_share": 100 * float(n) / n_target for name, n in zip(KINDS, kinds, strict=True)}
    for name, grid in (("seen", seen_grid), ("asked", asked_grid)):
        row[f"{name}_first"], row[f"{name}_last"] = float(grid[:first].mean()), float(grid[last:].mean())
        row[f"{name}_last_patch"] = float(grid[:, -1].mean())
    row["context_tokens"], row["target_tokens"] = n_context / n_scans, n_target / n_scans
    row["duplicates"], row["batch_ms"] = 100 * n_repeated / n_target, 1000 * seconds / n_batches
    return row


def kinds_of(context: NDArray[np.int64], target: NDArray[np.int64], n_rois: int) -> NDArray[np.int64]:
    """Targets of each kind, (3,), by what the context shows of their region and time."""
    rois, patches = np.zeros(n_rois, dtype=bool), np.zeros(N_PATCHES, dtype=bool)
    rois[context // N_PATCHES], patches[context % N_PATCHES] = True, True
    time_shown, roi_shown = patches[target % N_PATCHES], rois[target // N_PATCHES]
    kind = np.where(time_shown, 0, np.where(roi_shown, 1, 2))
    return np.bincount(kind, minlength=3)


def sides(batches: Iterator[Masks]) -> NDArray[np.float64]:
    """Targets a scan that belong to the right and to the left side, (2,).

    Each part of a scan's list (Cross-ROI, right, left) is sorted and follows the other, so it begins where a
    number is smaller than the one before.
    """
    counts, n_scans = np.zeros(2), 0
    for masks in batches:
        n_scans += len(masks.target_index)
        for target in masks.target_index.numpy():
            part = np.cumsum(np.diff(target, prepend=target[:1]) < 0)
            for number in range(1, part[-1] + 1):
                columns = set((target[part == number] % N_PATCHES).tolist())
                counts += [columns <= set(side) and int((part == number).sum()) for side in SIDE_COLUMNS]
    return counts / n_scans


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(columns: dict[str, Row], *, markdown: bool) -> str:
    """Lines of text, or the same as a table of Markdown."""
    rows = [["", *columns]]
    for line, label, unit in LINES:
        cells = (
            f"{_number(found[line])} {unit}".strip() if line in found else "–" for found in columns.values()
        )
        rows.append([label, *cells])
    if markdown:
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join(f"{row[0]:42}" + "".join(f"{cell:>17}" for cell in row[1:]) for row in rows)


if __name__ == "__main__":
    main()
