"""The encoders: what a jet gets depends on its own constituents alone, and is what plain attention
gives.
"""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetnb.models.encoder import DeepSets, Transformer, pack, pad, select

N_FEATURES = 5
LENGTHS = [7, 0, 1, 12, 7, 3, 0, 20]
SMALL = {"dim": 32, "n_layers": 2, "n_heads": 4}
KINDS = {
    "mean": lambda **kw: Transformer(N_FEATURES, **SMALL, pool="mean", **kw),
    "token": lambda **kw: Transformer(N_FEATURES, **SMALL, pool="token", **kw),
    "attention": lambda **kw: Transformer(N_FEATURES, **SMALL, pool="attention", **kw),
    "padded": lambda **kw: Transformer(N_FEATURES, **SMALL, pool="token", **{"step": 8, **kw}),
    "deepsets": lambda **kw: DeepSets(N_FEATURES, dim=32),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def offsets_of(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)


@pytest.fixture(params=KINDS)
def encoder(request):
    torch.manual_seed(3)
    encoder = KINDS[request.param]().double()
    with (
        torch.no_grad()
    ):  # biases and pooling queries start near zero, where mistakes would not show
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder


@pytest.fixture
def batch():
    offsets = offsets_of(LENGTHS)
    return torch.randn(
        offsets[-1], N_FEATURES, generator=torch.Generator().manual_seed(1)
    ).double(), offsets


def same(first, second):
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def differs(a, b):
    return (a - b).abs().max() > 1e-3


def test_shapes_and_empty_jets(encoder, batch):
    constituents, jets = encoder(*batch)
    assert constituents.shape == (50, 32) and jets.shape == (len(LENGTHS), 32)
    assert torch.isfinite(constituents).all() and torch.isfinite(jets).all()
    assert torch.equal(jets[1], jets[6]) and differs(jets[0], jets[4])
    x, none = batch[0][:0], torch.zeros(1, dtype=torch.int64)
    assert [tuple(out.shape) for out in encoder(x, none)] == [(0, 32), (0, 32)]
    constituents, jets = encoder(x, torch.zeros(3, dtype=torch.int64))
    assert constituents.shape == (0, 32) and jets.shape == (2, 32) and torch.isfinite(jets).all()


def test_one_jet_is_nothing_to_another(encoder, batch):
    x, offsets = batch
    whole = encoder(x, offsets)
    for jet, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        alone = encoder(x[start:end], offsets_of([end - start]))
        same(alone, (whole[0][start:end], whole[1][jet : jet + 1]))
    spoilt = x.clone()
    spoilt[offsets[3] : offsets[4]] = math.nan
    constituents, jets = encoder(spoilt, offsets)
    others = torch.arange(len(LENGTHS)) != 3
    same((jets[others],), (whole[1][others],))
    same(
        (constituents[: offsets[3]], constituents[offsets[4] :]),
        (whole[0][: offsets[3]], whole[0][offsets[4] :]),
    )
    assert jets[3].isnan().all()


def test_constituents_are_a_set(encoder, batch):
    x, offsets = batch
    constituents, jets = encoder(x, offsets)
    turn = torch.cat(
        [start + torch.randperm(n) for start, n in zip(offsets, LENGTHS, strict=False)]
    )
    assert not torch.equal(turn, torch.arange(len(x)))
    same(encoder(x[turn], offsets), (constituents[turn], jets))


def test_the_order_of_jets_is_irrelevant(encoder, batch):
    x, offsets = batch
    constituents, jets = encoder(x, offsets)
    order = [3, 1, 7, 0, 6, 2, 5, 4]
    rows = torch.cat([torch.arange(offsets[i], offsets[i + 1]) for i in order])
    same(
        encoder(x[rows], offsets_of([LENGTHS[i] for i in order])), (constituents[rows], jets[order])
    )


def test_padding_and_masked_constituents_change_nothing(encoder, batch):
    x, offsets = batch
    padded, mask = pad(x, offsets, value=math.nan)
    assert padded.shape == (8, 20, N_FEATURES) and mask.sum(1).tolist() == LENGTHS
    again, bounds = pack(padded, mask)
    assert torch.equal(again, x) and torch.equal(bounds, offsets)
    keep = torch.rand(len(x), generator=torch.Generator().manual_seed(2)) > 0.4
    hidden = torch.where(keep[:, None], x, math.nan)
    few = select(hidden, offsets, keep)
    mask[mask.clone()] = keep
    same(encoder(*few), encoder(*pack(padded, mask)))
    assert torch.isfinite(encoder(*few)[1]).all() and few[1].diff().tolist() == mask.sum(1).tolist()
    assert differs(encoder(*few)[1], encoder(x, offsets)[1])


def test_gradients_are_finite_and_reach_everything(encoder, batch):
    x = batch[0].clone().requires_grad_()
    constituents, jets = encoder(x, batch[1])
    (constituents.square().mean() + jets.square().sum()).backward()
    for name, parameter in [*encoder.named_parameters(), ("x", x)]:
        assert parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name
    x.grad = None
    encoder(x, batch[1])[1][3].square().sum().backward()
    reached = x.grad.abs().sum(1) > 0
    assert reached.nonzero().flatten().tolist() == list(range(batch[1][3], batch[1][4]))


@pytest.mark.parametrize("pool", ["mean", "token", "attention"])
@given(
    lengths=st.lists(st.integers(0, 11), min_size=1, max_size=6),
    step=st.sampled_from([1, 2, 3, 8]),
    seed=st.integers(0, 99),
)
@settings(max_examples=15, deadline=None)
def test_equals_plain_dense_attention_jet_by_jet(pool, lengths, step, seed):
    torch.manual_seed(seed)
    model = KINDS[pool](step=step).double()
    x, offsets = torch.randn(sum(lengths), N_FEATURES).double(), offsets_of(lengths)
    constituents, jets = model(x, offsets)
    for jet, (start, end) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        expected = dense(model, x[start:end])
        same((constituents[start:end], jets[jet]), expected)


def dense(model, x):
    """The transformer for one jet, in matrices: no packing, no fused kernels."""
    h = model.embed(x)
    if model.pool == "token":
        h = torch.cat([model.token[None], h])
    for block in model.blocks:
        q, k, v = block.qkv(block.attention_norm(h)).chunk(3, dim=1)
        heads = []
        for i in range(block.n_heads):
            part = slice(i * 8, i * 8 + 8)
            heads.append(
                torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(8), dim=1) @ v[:, part]
            )
        h = h + block.project(torch.cat(heads, dim=1))
        h = h + block.contract(torch.nn.functional.gelu(block.expand(block.mlp_norm(h))))
    h = model.norm(h)
    if model.pool == "token":
        return h[1:], h[0]
    if len(h) == 0:
        return h, torch.zeros(32).double()
    if model.pool == "mean":
        return h, h.mean(0)
    key, value = model.key_value(h).chunk(2, dim=1)
    heads = [
        torch.softmax(key[:, i * 8 : i * 8 + 8] @ model.query[i] / math.sqrt(8), dim=0)
        @ value[:, i * 8 : i * 8 + 8]
        for i in range(4)
    ]
    return h, torch.cat(heads)


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_keeps_attention_in_fp32(kind, batch, monkeypatch):
    seen, plain = set(), torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, **options):
        out = plain(q, k, v, **options)
        seen.update(t.dtype for t in (q, k, v, out))
        return out

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    torch.manual_seed(0)
    encoder = KINDS[kind]()
    x, offsets = batch[0].float(), batch[1]
    with torch.autocast("cpu", torch.bfloat16):
        constituents, jets = encoder(x, offsets)
        (constituents.float().square().mean() + jets.float().square().mean()).backward()
    assert seen == (set() if kind == "deepsets" else {torch.float32})
    exact = encoder(x, offsets)
    assert 0 < (constituents - exact[0]).abs().max() < 0.1 and (jets - exact[1]).abs().max() < 0.1
    assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


def test_it_learns():
    """Both encoders tell jets of two widths apart, which no single constituent gives away."""
    rng = torch.Generator().manual_seed(5)
    lengths = torch.randint(10, 30, (64,), generator=rng).tolist()
    label = torch.randint(0, 2, (64,), generator=rng)
    wide = (0.6 + 0.8 * label).repeat_interleave(torch.tensor(lengths))
    x = torch.randn(sum(lengths), N_FEATURES, generator=rng) * wide[:, None]
    for kind in ("attention", "deepsets"):
        torch.manual_seed(1)
        encoder, head = KINDS[kind](), torch.nn.Linear(32, 2)
        optimiser = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], 5e-3)
        for _ in range(40):
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                head(encoder(x, offsets_of(lengths))[1]), label
            )
            loss.backward()
            optimiser.step()
        assert loss < 0.2, (kind, loss)


def test_a_sharp_query_picks_one_constituent(batch):
    encoder = KINDS["attention"]().double()
    with torch.no_grad():
        encoder.query.mul_(1e6)
    constituents, jets = encoder(*batch)
    value = encoder.key_value(constituents)[: batch[1][1], 32:]
    assert ((jets[0] - value).abs().min(dim=0).values < 1e-9).all()


def test_state_dict_names_are_stable():
    names = set(KINDS["attention"]().state_dict())
    assert {"embed.weight", "norm.bias", "query", "key_value.weight"} < names
    assert {name for name in names if name.startswith("blocks.1.")} == {
        f"blocks.1.{part}.{kind}"
        for part in ("attention_norm", "qkv", "project", "mlp_norm", "expand", "contract")
        for kind in ("weight", "bias")
    }
    assert set(KINDS["token"]().state_dict()) - names == {"token"}
    assert set(DeepSets(N_FEATURES).state_dict()) == {
        f"{part}.{i}.{kind}"
        for part in ("constituent", "jet")
        for i in (0, 2, 4)
        for kind in ("weight", "bias")
    }


def test_dropout_only_in_training(batch):
    encoder = KINDS["mean"](dropout=0.5).double()
    assert differs(encoder(*batch)[1], encoder(*batch)[1])
    encoder.eval()
    same(encoder(*batch), encoder(*batch))


def test_what_does_not_fit_is_refused(batch):
    x, offsets = batch
    for build in (
        lambda: Transformer(5, dim=36, n_heads=4),
        lambda: Transformer(5, dim=96, n_heads=8),
        lambda: DeepSets(5, dim=20),
    ):
        with pytest.raises(ValueError, match="dim must be a multiple of 8.*got"):
            build()
    with pytest.raises(
        ValueError, match="pool 'max' is unknown: use one of mean, pt, token, attention"
    ):
        Transformer(5, pool="max")
    for pool, weight in (("pt", None), ("mean", torch.ones(50))):
        with pytest.raises(
            ValueError, match=f"pool is '{pool}' and weight is .*pool 'pt' needs the pt"
        ):
            Transformer(5, **SMALL, pool=pool).double()(x, offsets, weight=weight)
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        Transformer(5, n_layers=0)
    for encoder in (Transformer(5, **SMALL).double(), DeepSets(5).double()):
        with pytest.raises(
            ValueError, match=r"shape \(50, 4\), but must be floats of shape \(T, 5\)"
        ):
            encoder(x[:, :4], offsets)
        for wrong in (offsets[:-1], offsets + 1, offsets.double(), offsets[:0]):
            with pytest.raises(ValueError, match="offsets must be integers .* from 0 to 50"):
                encoder(x, wrong)
        with pytest.raises(ValueError, match="offsets fall after position 1"):
            encoder(x, torch.tensor([0, 9, 5, 50]))


def test_import_of_the_package_brings_no_torch():
    code = "import sys, jetnb, jetnb.models, jetnb.inputs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
