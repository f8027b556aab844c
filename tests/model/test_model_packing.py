"""Packed tokens: every way to compute attention is one result, and what is left out changes no number."""

import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bjepa.model import JEPA, ModelConfig
from bjepa.model import attention as attention_module
from bjepa.model.attention import attend, attention_math, check_attention, flash_attn_varlen
from bjepa.model.blocks import At, Block
from bjepa.model.config import Attention
from bjepa.model.tokens import TokenList, find_tokens, pad
from bjepa.preproc.errors import InputError

CONFIG = ModelConfig(
    n_rois=7,
    n_frames=15,
    patch_size=3,
    n_gradients=4,
    embed_dim=24,
    depth=3,
    num_heads=3,
    predictor_embed_dim=16,
    predictor_depth=2,
    predictor_num_heads=2,
)
KEYS, QUERIES = (5, 11, 2), (4, 1, 2)  # three scans


def make(config: ModelConfig = CONFIG) -> JEPA:
    generator = torch.Generator().manual_seed(3)
    jepa = JEPA(config, torch.randn(7, config.n_gradients, generator=generator), generator=generator)
    with torch.no_grad():
        for p in jepa.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
        for ours, theirs in zip(
            jepa.target_encoder.parameters(), jepa.context_encoder.parameters(), strict=True
        ):
            ours.copy_(theirs)
    return jepa


def lists() -> tuple[Tensor, Tensor, Tensor]:
    """x, context, target: lists of different lengths, targets with a duplicate."""
    x = torch.randn(3, 7, 15, generator=torch.Generator().manual_seed(0))
    context = pad([torch.tensor([0, 4, 5, 9, 21]), torch.tensor([2, 3]), torch.arange(20, 33)])
    target = pad([torch.tensor([1, 30]), torch.tensor([34, 7, 7, 8]), torch.tensor([4])])
    return x, context, target


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(sum(QUERIES), 3, 8, generator=generator),
        torch.randn(sum(KEYS), 3, 8, generator=generator),
        torch.randn(sum(KEYS), 3, 8, generator=generator),
    )


def varlen_by_hand(q: Tensor, k: Tensor, v: Tensor, begin_q: Tensor, begin_k: Tensor, *most: int) -> Tensor:
    """What varlen kernels promise, one query at a time."""
    assert most == (int(begin_q.diff().max()), int(begin_k.diff().max()))
    out = torch.empty_like(q)
    for scan in range(len(begin_q) - 1):
        keys = slice(int(begin_k[scan]), int(begin_k[scan + 1]))
        for row in range(int(begin_q[scan]), int(begin_q[scan + 1])):
            score = torch.einsum("hd,nhd->hn", q[row], k[keys]) / q.shape[-1] ** 0.5
            out[row] = torch.einsum("hn,nhd->hd", score.softmax(dim=1), v[keys])
    return out


@pytest.fixture
def _fresh_imports() -> Iterator[None]:
    yield
    flash_attn_varlen.cache_clear()


def test_all_ways_are_one_attention() -> None:
    q, k, v = qkv()
    begin_q, begin_k = (torch.tensor([0, *lengths]).cumsum(0) for lengths in (QUERIES, KEYS))
    expected = varlen_by_hand(q, k, v, begin_q, begin_k, max(QUERIES), max(KEYS))
    ways = {
        "sdpa": attend(q, k, v, query_lengths=QUERIES, key_lengths=KEYS, attention="sdpa"),
        "math": attend(q, k, v, query_lengths=QUERIES, key_lengths=KEYS, attention="math"),
        "padded": attention_module._padded(q, k, v, QUERIES, KEYS),
        "varlen": attention_module._varlen(varlen_by_hand, q, k, v, QUERIES, KEYS),
    }
    for name, found in ways.items():
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=name)
    even = attend(q[:6], k[:12], v[:12], query_lengths=(3, 3), key_lengths=(6, 6), attention="sdpa")
    begin_q, begin_k = torch.tensor([0, 3, 6]), torch.tensor([0, 6, 12])
    expected = varlen_by_hand(q[:6], k[:12], v[:12], begin_q, begin_k, 3, 6)
    torch.testing.assert_close(even, expected, atol=1e-6, rtol=0)
    assert attention_math(q[None], k[None, :7], v[None, :7]).shape == (1, 7, 3, 8)


@pytest.mark.parametrize("name, as_tuple", [("flash_attn", False), ("flash_attn_interface", True)])
def test_flash_attn_is_called_as_it_wants(
    monkeypatch: pytest.MonkeyPatch, _fresh_imports: None, name: str, as_tuple: bool
) -> None:
    def kernel(*args: Any) -> Any:
        assert all(t.dtype == torch.int32 for t in args[3:5])
        mixed = varlen_by_hand(*args)
        return (mixed, None) if as_tuple else mixed

    fake = types.ModuleType(name)
    fake.flash_attn_varlen_func = kernel  # type: ignore[attr-defined]
    for module in ("flash_attn", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, name, fake)
    flash_attn_varlen.cache_clear()
    found = attention_module._varlen(flash_attn_varlen(), *qkv(), QUERIES, KEYS)
    expected = attend(*qkv(), query_lengths=QUERIES, key_lengths=KEYS, attention="math")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    cpu = torch.device("cpu")
    with pytest.raises(InputError, match="here: cpu, bf16"):
        check_attention("flash_attn", device=cpu, precision="bf16")
    check_attention("sdpa", device=cpu, precision="fp32")


def test_chunks_of_queries_in_bfloat16_are_near() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(n, 3, 8, generator=generator) for n in (600, 700, 700))
    lengths: dict[str, Any] = {"query_lengths": (590, 10), "key_lengths": (300, 400)}
    expected = attend(q, k, v, **lengths, attention="math")
    found = attend(*(t.bfloat16() for t in (q, k, v)), **lengths, attention="sdpa")
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=0)
    gradients = []
    for way in (attention_module._in_chunks, attention_math):  # in float32: the same, and its gradient
        leaves = [t.transpose(0, 1)[None].clone().requires_grad_() for t in (q, k, v)]
        torch.autograd.backward(way(*leaves).square().sum())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_flash_attn_missing_is_told(monkeypatch: pytest.MonkeyPatch, _fresh_imports: None) -> None:
    for module in ("flash_attn", "flash_attn_interface"):
        monkeypatch.setitem(sys.modules, module, None)
    flash_attn_varlen.cache_clear()
    with pytest.raises(InputError, match="not installed"):
        check_attention("flash_attn", device=torch.device("cuda"), precision="bf16")


@pytest.mark.parametrize("attention", ["sdpa", "math", "flash_attn"])
def test_attention_does_not_change_loss_or_gradient(attention: Attention) -> None:
    """flash_attn on a CPU is sdpa: a model made with it is read anywhere."""
    x, context, target = lists()
    reference, jepa = make(replace(CONFIG, attention="math")), make(replace(CONFIG, attention=attention))
    for model in (reference, jepa):
        predicted, targets = model(x, context, target)
        (predicted - targets).square().mean().backward()
    for (name, ours), theirs in zip(jepa.named_parameters(), reference.parameters(), strict=True):
        if ours.requires_grad:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_targets_equal_the_whole_target_encoder() -> None:
    """Queries of the last block only at the targets: the same numbers as all of them."""
    x, _, target = lists()
    jepa = make()
    whole = F.layer_norm(jepa.target_encoder(x), (24,), eps=1e-5)
    found = jepa.targets(x, target)
    for scan, wanted in enumerate(target):
        wanted = wanted[wanted >= 0]
        torch.testing.assert_close(found[scan, : len(wanted)], whole[scan, wanted], atol=2e-6, rtol=0)
        assert (found[scan, len(wanted) :] == 0).all()
    assert not found.requires_grad


def test_law_tokens_that_do_not_exist_have_no_influence() -> None:
    x, context, _ = lists()
    gone = 3  # the region that is missing in scan 1
    everything = torch.arange(35)
    visible = pad([everything, everything[everything // 5 != gone], everything])
    target = pad([torch.tensor([1, 30]), torch.tensor([34, 7, 8]), torch.tensor([4])])
    jepa = make()
    found = jepa.targets(x, target, visible_index=visible)
    spoilt = x.clone()
    spoilt[1, gone] = 1e3
    torch.testing.assert_close(jepa.targets(spoilt, target, visible_index=visible), found, atol=0, rtol=0)
    alone = jepa.target_encoder(x[1:2], visible[1:2, :30])  # only those go through
    places = [int((visible[1] == t).nonzero()) for t in (34, 7, 8)]
    expected = F.layer_norm(alone[0, places], (24,), eps=1e-5)
    torch.testing.assert_close(found[1], expected, atol=2e-6, rtol=0)
    without = jepa.targets(x, target)
    assert (without[1] - found[1]).abs().max() > 1e-3
    torch.testing.assert_close(without[0], found[0], atol=2e-6, rtol=0)  # nothing missing there
    predicted, targets = jepa(x, context, target, visible_index=visible)
    torch.testing.assert_close(targets, found, atol=2e-6, rtol=0)
    assert predicted.shape == targets.shape


def test_activation_checkpointing_changes_no_gradient() -> None:
    x, context, target = lists()
    plain, saving = make(), make()
    saving.set_activation_checkpointing(True)
    calls: list[bool] = []
    for block in saving.context_encoder.blocks:
        block.register_forward_pre_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    for model in (plain, saving):
        predicted, targets = model(x, context, target)
        (predicted - targets).square().mean().backward()
    assert len(calls) == 2 * 3  # each block again for the gradient
    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        if ours.requires_grad:
            assert ours.grad is not None and theirs.grad is not None
            assert torch.equal(ours.grad, theirs.grad)


def test_compiled_once_for_all_lengths_with_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by the compiler, run by plain torch: code for the CPU would take a minute to build."""
    compiled = 0

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> Any:
        nonlocal compiled
        compiled += 1
        return graph.forward

    compile_with = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_with(f, backend=backend, **how))
    x, context, target = lists()
    plain, jepa = make(), make()
    jepa.compile_blocks()
    torch.testing.assert_close(jepa(x, context, target), plain(x, context, target), atol=1e-6, rtol=0)
    after_one = compiled
    for n in (2, 3):
        torch.testing.assert_close(
            jepa(x[:n], context[:n, : n + 1], target[:n, :n]),
            plain(x[:n], context[:n, : n + 1], target[:n, :n]),
            atol=1e-6,
            rtol=0,
        )
    assert after_one > 0 and compiled == after_one
    torch.compiler.reset()


def test_token_lists() -> None:
    index = torch.tensor([[4, 2, -1], [0, 0, 3]])
    tokens = TokenList.of(index)
    assert tokens.token_n.tolist() == [4, 2, 0, 0, 3] and tokens.scan_n.tolist() == [0, 0, 1, 1, 1]
    assert tokens.lengths == (2, 3) and tokens.number(10).tolist() == [4, 2, 10, 10, 13]
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    packed = tokens.pack(x)
    assert torch.equal(packed, x.flatten(0, 1)[[0, 1, 3, 4, 5]])
    back = tokens.unpack(packed)
    assert (back[0, 2] == 0).all() and torch.equal(tokens.pack(back), packed)
    assert TokenList.of(tokens) is tokens
    whole = TokenList.all_of(2, 6, device=torch.device("cpu"))
    assert find_tokens(tokens, whole, n_tokens=6).tolist() == [4, 2, 6, 6, 9]
    some = TokenList.of(torch.tensor([[1, 2, 4], [0, 3, -1]]))
    assert find_tokens(tokens, some, n_tokens=6).tolist() == [2, 1, 3, 3, 4]
    gap = TokenList.of(torch.tensor([[7, -1, 1]]))  # padding may lie anywhere
    assert gap.token_n.tolist() == [7, 1] and gap.unpack(torch.ones(2, 1))[0, :, 0].tolist() == [1, 0, 1]


def test_a_block_gives_only_what_is_asked() -> None:
    block = Block(24, num_heads=3, mlp_ratio=2.0, attention="sdpa")
    x = torch.randn(9, 24, generator=torch.Generator().manual_seed(2))
    where = torch.tensor([3, 0, 8])
    found = block(x, (4, 5), At(where, (2, 1)))
    torch.testing.assert_close(found, block(x, (4, 5))[where], atol=2e-6, rtol=0)
