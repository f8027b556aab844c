"""One training step: the plain way against ours, at the same masks, batch, threads, weights.

    python benchmarks/train_step.py [--recipe vit_small] [--batch-size 1] [--steps 3] [--compile]

A step is forward, loss, backward, AdamW and the target encoder's average, on random signals of the
recipe's size with masks of the default sampler. Each row runs in a process of its own:

    baseline        attention written out, every block for all tokens, float32, AdamW one tensor at a time
    sdpa            torch's fused attention kernels, float32
    + targets only  the last blocks of target encoder and predictor answer for targets alone, fused AdamW
    + bf16          bfloat16 autocast
    + compile       torch.compile (with --compile; needs a C++ compiler on a CPU)

Prints seconds, memory beyond that of weights and optimizer, TFLOP and the share of the machine's peak (the
largest matrix product found in that precision, or --peak-tflops), then the ratios. The losses of all rows
must agree. With CUDA it also prints the hours that 300 epochs of 32,000 series take.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from _memory import peak_rss_mb
from torch import Tensor

from bjepa.model import JEPA, blocks, encoder, predictor
from bjepa.model.blocks import At
from bjepa.model.config import MaskConfig, ObjectiveConfig, OptimizerConfig, load_recipe
from bjepa.model.ema import ema_update
from bjepa.model.flops import step_flops
from bjepa.model.masking import Masks, collate_masks, sample_mask
from bjepa.model.objective import objective
from bjepa.model.train_step import autocast, make_optimizer

ROWS = ("baseline", "sdpa", "+ targets only", "+ bf16", "+ compile")
LOSS_TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2}  # relative, against the baseline's


def main() -> None:
    """Run each row in its own process, check the losses, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", default="vit_small", help="default: vit_small")
    parser.add_argument("--batch-size", type=int, default=1, help="default: 1")
    parser.add_argument("--steps", type=int, default=3, help="timed; the fastest counts (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--compile", action="store_true", help="add the row with torch.compile")
    parser.add_argument("--skip-baseline", action="store_true", help="where it does not fit in memory")
    parser.add_argument("--peak-tflops", type=float, help="of the device in bf16 (default: measured)")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(_measure(args)))
        return
    rows = [r for r in ROWS if (args.compile or r != "+ compile")]
    rows = rows[1:] if args.skip_baseline else rows
    found = {}
    print(f"{args.recipe}, batch {args.batch_size}, {args.device}, {args.threads} threads")
    print(f"{'':16}{'s/step':>9}{'series/s':>10}{'memory MB':>11}{'TFLOP':>8}{'of peak':>9}{'loss':>11}")
    for row in rows:
        command = [sys.executable, __file__, *sys.argv[1:], "--row", row]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{row}: {done.stderr[-2000:]}")
        r = found[row] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{row:16}{r['seconds']:9.2f}{args.batch_size / r['seconds']:10.3f}{r['memory_mb']:11.0f}"
            f"{r['tflop']:8.2f}{r['of_peak']:9.1%}{r['loss']:11.6f}",
            flush=True,
        )
    _check_losses(found)
    first, best = found[rows[0]], min(found.values(), key=lambda r: float(r["seconds"]))
    print(f"\ncontext_tokens: {first['context']:.0f} tokens\ntarget_tokens: {first['targets']:.0f} tokens")
    print(f"tflop_per_series: {best['tflop'] / args.batch_size:.3f} TFLOP")
    if args.device == "cuda":
        rate = args.batch_size / best["seconds"]
        print(f"hours_300_epochs_32000: {300 * 32000 / rate / 3600:.1f} h")
    print(f"peak: {best['peak_tflops']:.2f} TFLOP/s")
    print(f"series_per_s: {args.batch_size / best['seconds']:.3f} series/s")
    print(f"utilisation: {best['of_peak']:.3f}")
    if not args.skip_baseline:
        print(f"speedup: {first['seconds'] / best['seconds']:.2f} x")
        print(f"memory_ratio: {best['memory_mb'] / first['memory_mb']:.3f}")


def _check_losses(found: dict[str, dict[str, Any]]) -> None:
    reference = next(iter(found.values()))["loss"]
    for row, r in found.items():
        if abs(r["loss"] / reference - 1) > LOSS_TOLERANCE[r["precision"]]:
            sys.exit(f"{row}: loss {r['loss']} is not that of the first row, {reference}")


def _measure(args: argparse.Namespace) -> dict[str, Any]:
    """One row: the fastest of several steps, and the memory they took."""
    torch.set_num_threads(args.threads)
    device, level = torch.device(args.device), ROWS.index(args.row)
    precision = "bf16" if level >= ROWS.index("+ bf16") else "fp32"
    config = load_recipe(args.recipe, settings=_attention(level, device)).model
    if level < ROWS.index("+ targets only"):
        blocks.run_blocks = encoder.run_blocks = predictor.run_blocks = _all_tokens  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(config.n_rois, config.n_gradients, generator=generator)
    jepa = JEPA(config, gradients, generator=generator).to(device)
    if level == ROWS.index("+ compile"):
        jepa.compile_blocks()
    masks, x = _batch(config, args.batch_size, generator)
    masks, x = masks.to(device), x.to(device)
    optimizer = make_optimizer(jepa, OptimizerConfig())
    if level < ROWS.index("+ targets only"):
        optimizer = torch.optim.AdamW(optimizer.param_groups, foreach=False)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            predicted, targets = jepa(x, masks.context_index, masks.target_index)
        loss = objective(predicted, targets, masks, config=ObjectiveConfig()).loss
        loss.backward()
        optimizer.step()
        ema_update(jepa.target_encoder, jepa.context_encoder, 0.996)
        return float(loss.detach())

    # weights, moments and averages are there in every row; what is compared is what a step adds to them
    for parameter in jepa.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    with torch.no_grad():
        optimizer.step()
    resting = _memory_mb(device, reset=True)
    loss = step()
    seconds = min(_timed(step, device) for _ in range(args.steps))
    memory = _memory_mb(device) - resting
    counts = [(masks.context_index >= 0).sum(dim=1).tolist(), (masks.target_index >= 0).sum(dim=1).tolist()]
    flops = step_flops(
        config,
        context_lengths=counts[0],
        target_lengths=counts[1],
        all_tokens=level < ROWS.index("+ targets only"),
    ).total
    peak = args.peak_tflops or _peak_tflops(device, precision)
    return {
        "seconds": seconds,
        "memory_mb": memory,
        "loss": loss,
        "precision": precision,
        "tflop": flops / 1e12,
        "peak_tflops": peak,
        "of_peak": flops / 1e12 / seconds / peak,
        "context": sum(counts[0]) / args.batch_size,
        "targets": sum(counts[1]) / args.batch_size,
    }


def _attention(level: int, device: torch.device) -> list[str]:
    if level == 0:
        return ["model.attention=math"]
    if device.type == "cuda" and level >= ROWS.index("+ bf16"):
        try:
            import flash_attn  # noqa: F401
        except ImportError:
            return []
        return ["model.attention=flash_attn"]
    return []


def _all_tokens(
    stack: Any, x_nD: Tensor, lengths: Sequence[int], *, at: At | None, recompute: bool
) -> Tensor:
    """Every block for every token; what is asked for is taken out at the end."""
    for block in stack:
        x_nD = block(x_nD, lengths)
    return x_nD if at is None else x_nD.index_select(0, at.where_m)


def _batch(config: Any, batch_size: int, generator: torch.Generator) -> tuple[Masks, Tensor]:
    drawn = [
        sample_mask(config.n_rois, config.n_patches, config=MaskConfig(), generator=generator)
        for _ in range(64)
    ]
    # the batch nearest to what masks are like on average: a few draws may be far from it
    drawn.sort(key=lambda mask: len(mask.context_index))
    middle = (len(drawn) - batch_size) // 2
    x = torch.randn(batch_size, config.n_rois, config.n_frames, generator=generator)
    return collate_masks(drawn[middle : middle + batch_size]), x


def _timed(step: Callable[[], float], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _memory_mb(device: torch.device, *, reset: bool = False) -> float:
    if device.type == "cuda":
        if reset:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated() / 1e6
        return torch.cuda.max_memory_allocated() / 1e6
    return float(peak_rss_mb())


def _peak_tflops(device: torch.device, precision: str) -> float:
    """The fastest large matrix product of this device, TFLOP/s."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))

    def product() -> float:
        return float(F.linear(a, b)[0, 0])

    product()
    return 2 * n**3 / 1e12 / min(_timed(product, device) for _ in range(5))


if __name__ == "__main__":
    main()
