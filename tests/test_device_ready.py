"""What only a GPU would break, looked for without one: waits, tensors in the wrong place, and what
compiled parts do.

A step is run on a device that is pretended: its tensors are on the CPU, but say that they are on a
GPU, and refuse what a GPU would wait for, or would not do at all because an operand is elsewhere.
"""

from __future__ import annotations

import copy
import shutil
import threading
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from jetnb import augment, hardware, masks, training
from jetnb.data import store
from jetnb.inputs import Scaler, batches
from jetnb.models import _attention, heads, sampling
from jetnb.models._regions import compile_regions
from jetnb.models.encoder import DeepSets, Transformer
from jetnb.models.event_head import EventClassifier, JetTagger
from jetnb.models.generator import Causal, Generator
from jetnb.models.particle_transformer import ParticleTransformer
from jetnb.models.particles import FromParticles
from jetnb.models.tokenizer import Tokenizer
from jetnb.strategies.classify_and_generate import ClassifyAndGenerate
from jetnb.strategies.contrastive import JetCLR
from jetnb.strategies.joint_embedding import JointEmbedding
from jetnb.strategies.masked_autoencoder import MaskedAutoencoder, chamfer_loss
from jetnb.strategies.next_token import NextToken
from jetnb.strategies.self_distillation import SelfDistillation
from jetnb.strategies.supervised import Supervised
from jetnb.strategies.supervised_contrast import SupervisedContrast

pytestmark = pytest.mark.usefixtures("one_thread")
GPU = torch.device("cuda", 0)
aten = torch.ops.aten


class Waits(AssertionError):
    """What was asked for has to wait for a GPU, or fails on it."""


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU."""

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            data.shape,
            strides=data.stride(),
            dtype=data.dtype,
            storage_offset=data.storage_offset(),
            requires_grad=data.requires_grad,
        )

    def __init__(self, data):
        self.data_on_cpu = data.detach()

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)

    def __repr__(self):
        return f"OnGPU({tuple(self.shape)})"

    def __deepcopy__(self, memo):
        return OnGPU(self.data_on_cpu.clone().requires_grad_(self.requires_grad))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        _refuse(func, args, kwargs or {})
        inside, outside = {}, {}

        def unwrap(value):
            if isinstance(value, OnGPU):
                inside[id(value.data_on_cpu)] = value
                return value.data_on_cpu
            return value

        def wrap(value):
            if isinstance(value, torch.Tensor) and not isinstance(value, OnGPU):
                return (
                    inside.get(id(value))
                    if id(value) in inside
                    else outside.setdefault(id(value), OnGPU(value))
                )
            return value

        found = func(*pytree.tree_map(unwrap, args), **pytree.tree_map(unwrap, kwargs or {}))
        return pytree.tree_map(wrap, found)


def _refuse(func, args, kwargs):
    """Raise for what a GPU would wait for, or not do."""
    name = func.overloadpacket
    if name in (
        aten._local_scalar_dense,
        aten.nonzero,
        aten.masked_select,
        aten.equal,
        aten._unique2,
        aten.is_nonzero,
        aten.unique_consecutive,
    ) or (func is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        raise Waits(f"{func}: its result, or how long it is, is asked of the device")
    flat = [value for value in pytree.tree_leaves(args) if isinstance(value, torch.Tensor)]
    here = [value for value in flat if not isinstance(value, OnGPU)]
    if name in (
        aten.index,
        aten.index_put,
        aten.index_put_,
        aten._unsafe_index_put,
        aten._index_put_impl_,
    ):
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            raise Waits(f"{func}: a mask as index, and how long it is must be asked of the device")
        if any(not isinstance(value, OnGPU) for value in args[2:3]):
            raise Waits(
                f"{func}: a number is put at an index, and is sent to the device first: use index_fill"
            )
    if any(value.ndim for value in here):
        raise Waits(
            f"{func}: operands {[tuple(value.shape) for value in here]} are not on the device"
        )


class Pretend(TorchFunctionMode):
    """What is asked to be on a GPU is made on the CPU, and says that it is there; nothing comes
    back.
    """

    def __init__(self):
        super().__init__()
        self.sent = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        first = args[0] if args else None
        name = getattr(func, "__name__", "")
        if name == "pin_memory":
            self.sent.add(id(first))
            self.kept = [*getattr(self, "kept", ()), first]  # so that its id stays its own
            return first
        if name in ("cpu", "numpy", "tolist", "__array__", "item") and isinstance(first, OnGPU):
            raise Waits(f"{name}() of a tensor on the device")
        if name == "to" and isinstance(first, torch.Tensor):
            target = next(
                (value for value in (*args[1:], device) if isinstance(value, torch.device | str)),
                None,
            )
            target = target if target is None else torch.device(target)
            rest = [value for value in args[1:] if not isinstance(value, torch.device | str)]
            kwargs.pop("device", None)
            if target is not None and target.type == "cpu" and isinstance(first, OnGPU):
                raise Waits("to the CPU")
            if target is not None and target.type == "cuda" and not isinstance(first, OnGPU):
                if not (kwargs.get("non_blocking") and id(first) in self.sent):
                    raise Waits("to the device, but not from pinned memory, or not at once")
                return OnGPU(first.clone())
            if target is not None:
                return func(first, *rest, **kwargs) if rest else first
        elif device is not None and torch.device(device).type == "cuda":
            if name in ("tensor", "as_tensor", "from_numpy"):
                raise Waits(f"torch.{name} on the device copies from where it was, and waits")
            return OnGPU(func(*args, **{**kwargs, "device": "cpu"}))
        return func(*args, **kwargs)


def on_gpu(model: nn.Module) -> nn.Module:
    """A copy of the model whose weights say that they are on a GPU."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = OnGPU(
                    value.detach().clone().requires_grad_(value.requires_grad)
                )
        for name, value in module._buffers.items():
            if value is not None:
                module._buffers[name] = OnGPU(value.clone())
    return model


def jets(lengths=(5, 1, 9, 5, 17, 2, 30, 9), seed=0):
    """Particles (T, 3) sorted by falling pt, and offsets."""
    rng = np.random.default_rng(seed)
    pt = np.concatenate([np.sort(rng.exponential(20, n))[::-1] + 0.5 for n in lengths])
    x = np.column_stack([pt, rng.normal(0, 0.2, (len(pt), 2))])
    return torch.from_numpy(x.astype(np.float32)), torch.tensor([0, *np.cumsum(lengths)])


def scaler():
    names = ("deta", "dphi", "log_pt", "log_pt_rel", "delta_r")
    return Scaler(names, np.zeros(5, np.float32), np.ones(5, np.float32))


SMALL = {"dim": 32, "n_layers": 2, "n_heads": 4}
PART = {
    "embed_dims": (32, 32),
    "pair_dims": (8, 8),
    "n_layers": 1,
    "n_class_layers": 1,
    "n_heads": 4,
    "dropout": 0.0,
}


def classifier(encoder):
    return heads.Classifier(FromParticles(encoder), heads.mlp(32, 3))


def masked(reads, **options):
    parts = [Transformer(n, **SMALL) for n in (3, 32)]
    return MaskedAutoencoder(*parts, n_features=3, reads=reads, **options)


def joint(**options):
    body = FromParticles(Transformer(5, **SMALL))
    return JointEmbedding(body, predictor={"dim": 32, "n_layers": 1, "n_heads": 4}, **options)


def distilled(**options):
    return SelfDistillation(FromParticles(Transformer(5, **SMALL)), prototypes=16, **options)


LABELLED = {"encoder": SMALL, "n_classes": 3}
STEPS = {
    "transformer": lambda: classifier(Transformer(5, **SMALL)),
    "transformer_token": lambda: classifier(Transformer(5, pool="token", **SMALL)),
    "transformer_dropout": lambda: classifier(Transformer(5, dropout=0.1, **SMALL)),
    "transformer_attention": lambda: classifier(Transformer(5, pool="attention", **SMALL)),
    "deep_sets": lambda: classifier(DeepSets(5, dim=32)),
    "particle_transformer": lambda: heads.Classifier(
        FromParticles(ParticleTransformer(5, **PART), momenta=True), heads.mlp(32, 3)
    ),
    "particle_transformer_dropout": lambda: classifier(
        ParticleTransformer(5, scaler=scaler(), **{**PART, "dropout": 0.1})
    ),
    "particle_transformer_scaler": lambda: classifier(
        ParticleTransformer(5, scaler=scaler(), **PART)
    ),
    "jetclr": lambda: JetCLR(FromParticles(Transformer(5, **SMALL)), chunk=8),
    "jetclr_whole": lambda: JetCLR(FromParticles(DeepSets(5, dim=32)), chunk=None),
    "joint_embedding": lambda: joint(),
    "self_distillation": lambda: distilled(),
    "self_distillation_masked": lambda: distilled(masked=1.0, balance="centre"),
    "masked_tracks": lambda: masked("tracks"),
    "masked_jet": lambda: masked("jet", tokens="one"),
    "masked_chamfer": lambda: masked("jet", loss_of=chamfer_loss),
    "tokenizer": lambda: Tokenizer(n_codes=16, **SMALL),
    "tokenizer_gradient": lambda: Tokenizer(
        n_codes=16, update="gradient", rotate=True, context="causal", **SMALL
    ),
    "next_token": lambda: NextToken(Tokenizer(n_codes=16, **SMALL), sizes=SMALL),
    "next_token_turned": lambda: NextToken(Tokenizer(n_codes=16, **SMALL), sizes=SMALL, turn=True),
    "next_token_cut": lambda: Generator(
        16, max_length=8, positions="learned", n_classes=3, **SMALL
    ),
    "supervised": lambda: Supervised.make(hardest=None, **LABELLED),
    "supervised_contrast": lambda: SupervisedContrast.make(
        **{**SupervisedContrast.SETTINGS, **LABELLED}
    ),
    "classify_and_generate": lambda: ClassifyAndGenerate.make(
        **{**ClassifyAndGenerate.SETTINGS, **LABELLED, "generator": SMALL}
    ),
    "events": lambda: EventClassifier(
        JetTagger(FromParticles(Transformer(5, **SMALL)), dim=8), hlf=2
    ),
}


def batch_for(kind):
    x, offsets = jets()
    if kind in ("next_token", "next_token_cut"):
        x = torch.from_numpy(
            np.random.default_rng(1).integers(0, 16, (len(x), 1)).astype(np.float32)
        )
    targets = [torch.arange(len(offsets) - 1) % 3]
    if kind == "events":
        targets = [torch.tensor([0, 3, 8]), torch.randn(8, 2), torch.tensor([0, 1])]
    return x, offsets, targets


def step(model, x, offsets, targets):
    torch.manual_seed(1)
    loss = model.train().loss((x, offsets, *targets))
    loss.backward()
    return loss


def jet_by_jet(q, k, v, bounds, longest, causal):
    """What kernels of variable length do, with a loop over jets."""
    assert bounds.dtype == torch.int32 and bounds.device == q.device
    bounds = (bounds.data_on_cpu if isinstance(bounds, OnGPU) else bounds).tolist()
    assert (
        bounds[0] == 0
        and bounds[-1] == len(q)
        and max(b - a for a, b in pairwise(bounds)) == longest
    )
    assert all(b > a for a, b in pairwise(bounds))
    parts = [
        values.transpose(0, 1)[None].split([b - a for a, b in pairwise(bounds)], 2)
        for values in (q, k, v)
    ]
    out = [
        F.scaled_dot_product_attention(*jet, is_causal=causal) for jet in zip(*parts, strict=True)
    ]
    return torch.cat(out, 2)[0].transpose(0, 1)


@pytest.fixture
def no_kernels(monkeypatch):
    """Kernels that only GPUs have, by a loop."""
    for name in ("_varlen", "_efficient"):
        monkeypatch.setattr(_attention, name, jet_by_jet)
    _attention._works.cache_clear()
    yield
    _attention._works.cache_clear()


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("kernel", ["buckets", "auto"])
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_waits_for_nothing_and_is_the_same(kind, kernel):
    torch.manual_seed(0)
    model = STEPS[kind]()
    if not _attention.choose(model, kernel) and kernel != "auto":
        pytest.skip("there is no choice of kernels")
    x, offsets, targets = batch_for(kind)
    there = on_gpu(model)
    expected = step(model, x, offsets, targets)
    with Pretend():
        found = step(there, OnGPU(x), offsets, [OnGPU(values) for values in targets])
    assert isinstance(found, OnGPU)
    rel = 0.2 if "dropout" in kind else 2e-4
    assert float(found.data_on_cpu.detach()) == pytest.approx(float(expected.detach()), rel=rel)
    for (name, one), other in zip(model.named_parameters(), there.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name


@pytest.mark.parametrize(
    "fault",
    (
        lambda x: x.sum().item(),
        lambda x: bool(x.any()),
        lambda x: x.cpu(),
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.to("cpu"),
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([0])],
        lambda x: torch.tensor(1.0, device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),
        lambda x: x.repeat_interleave(torch.ones(3, dtype=torch.int64, device=x.device)),
        lambda x: x.index_put((x > 0,), x.new_zeros(())),
        lambda x: x.__setitem__(torch.zeros(1, dtype=torch.int64, device=x.device), 2),
    ),
)
def test_what_waits_is_seen(fault):
    with Pretend(), pytest.raises((Waits, RuntimeError)):
        fault(OnGPU(torch.ones(3)))


def test_views_are_drawn_without_waiting():
    x, offsets = jets()
    with Pretend():
        cut = augment.keep_hardest(OnGPU(x), offsets, n_max=8)
        (one, start), (two, end) = augment.views(*cut, generator=None)
    assert isinstance(one, OnGPU) and isinstance(two, OnGPU)
    assert start[-1] == len(one) and end[-1] == len(two)


LENGTHS = (5, 0, 1, 9, 5, 17, 2, 30, 0)
ENCODERS = {
    "mean": lambda: Transformer(3, **SMALL),
    "token": lambda: Transformer(3, pool="token", **SMALL),
    "attention": lambda: Transformer(3, pool="attention", **SMALL),
    "causal": lambda: Transformer(3, causal=True, **SMALL),
    "generator": lambda: Causal(16, n_features=3, **SMALL),
}


@pytest.mark.usefixtures("no_kernels")
@pytest.mark.parametrize("kernel", ["varlen", "efficient"])
@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("lengths", [LENGTHS, (0, 0), (4,)])
def test_kernels_agree(kind, kernel, lengths):
    torch.manual_seed(0)
    model, x, offsets = (
        ENCODERS[kind](),
        torch.randn(sum(lengths), 3),
        torch.tensor([0, *np.cumsum(lengths)]),
    )
    found = []
    for name in ("buckets", kernel):
        assert _attention.choose(model, name) == 1
        model.zero_grad()
        outputs = model(x, offsets)
        sum(values.square().sum() for values in outputs).backward()
        found.append([*outputs, *(weight.grad for weight in model.parameters())])
    for one, other in zip(*found, strict=True):
        if one is not None and other is not None:  # without constituents some have no say
            assert torch.allclose(one, other, atol=2e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="use one of"):
        _attention.choose(model, "flash")


@pytest.mark.parametrize("age", ["old", "new"])
@pytest.mark.parametrize("causal", [False, True])
def test_what_varlen_attn_of_each_age_is_given(age, causal, monkeypatch):
    def old(q, k, v, first, second, n, m, is_causal=False, return_aux=None):
        return "causal" if is_causal else "all"

    def new(q, k, v, first, second, n, m, *, return_aux=None, scale=None, window_size=(-1, -1)):
        return {(-1, 0): "causal", (-1, -1): "all"}[window_size]

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", {"old": old, "new": new}[age])
    _attention._varlen_takes.cache_clear()
    try:
        assert _attention._varlen(1, 2, 3, 4, 5, causal) == ("causal" if causal else "all")
    finally:
        _attention._varlen_takes.cache_clear()


def test_the_efficient_kernel_is_called_as_it_is_declared():
    """Its shapes are worked out without running it."""
    q = torch.empty(9, 4, 8, device="meta", requires_grad=True)
    bounds = torch.empty(3, dtype=torch.int32, device="meta")
    out = _attention._efficient(q, q, q, bounds, 5, True)
    assert out.shape == (9, 4, 8) and out.requires_grad


def test_sums_over_layers_are_in_float32_under_autocast():
    """A residual in bfloat16 loses what a layer adds as soon as it is 256 times smaller."""
    torch.manual_seed(0)
    x, offsets = jets()
    for model in (Transformer(3, **SMALL), ParticleTransformer(5, scaler=scaler(), **PART)):
        seen = []
        model.blocks[0].register_forward_hook(
            lambda module, given, found, seen=seen: seen.extend((given[0], found))
        )
        with torch.autocast("cpu", torch.bfloat16):
            values = x if model.n_features == 3 else torch.randn(len(x), 5)
            _, pooled = model(values, offsets)
        assert [h.dtype for h in seen] == [torch.float32] * 2 and pooled.dtype == torch.float32


def compile_and_compare(kind, **options):
    """Steps of a model and of its compiled copy on batches of many shapes; how many graphs there
    are after each.
    """
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    torch.manual_seed(0)
    model = STEPS[kind]()
    compiled, graphs = copy.deepcopy(model), []
    assert compile_regions(compiled, **options) >= 1
    for lengths in ((5, 1, 9, 5, 17, 2, 30, 9), (5, 7), (3, 4, 11, 40), (12,) * 9, (5, 8, 2)):
        x, offsets = jets(lengths)
        x = (x[:, :1] % 16).floor() if kind == "next_token" else x
        expected, found = (
            step(one, x, offsets, [torch.arange(len(lengths)) % 3]) for one in (model, compiled)
        )
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    for (name, one), other in zip(model.named_parameters(), compiled.parameters(), strict=True):
        if one.grad is not None:
            assert torch.allclose(
                one.grad, other.grad, atol=1e-3 * float(one.grad.abs().max()) + 1e-6
            ), name
    return graphs


@pytest.mark.parametrize(
    "kind",
    ["transformer", "deep_sets", "particle_transformer", "jetclr", "masked_tracks", "next_token"],
)
def test_compiled_parts_are_one_graph_each_for_all_layers_and_lengths(kind):
    graphs = compile_and_compare(kind, backend="aot_eager")
    parts = {"deep_sets": 1, "particle_transformer": 4}.get(
        kind, 2
    )  # the last has one more, for the class token
    assert graphs[0] == graphs[-1] <= parts


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_it_compiles_for_a_cpu():
    assert compile_and_compare("transformer")[-1] == 2


def test_training_compiles_the_parts(monkeypatch):
    monkeypatch.setattr(
        "jetnb.training.loop.compile_regions",
        lambda model: compile_regions(model, backend="aot_eager"),
    )
    x, offsets = jets((5, 9, 4, 8) * 8)
    data = batches.Packed(x, offsets, np.arange(32) % 3)
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = STEPS["transformer"]()
        options = {
            "epochs": 1,
            "batch_size": 8,
            "seed": 1,
            "progress": False,
            "accelerator": "cpu",
            "log_every": 1,
        }
        found.append(
            [step["loss"] for step in training.fit(model, data, compile=compiled, **options).steps]
        )
        assert all(
            (part.compiled is not None) == compiled
            for part in model.modules()
            if hasattr(part, "compiled")
        )
    assert found[0] == pytest.approx(found[1], rel=1e-3) and len(found[0]) == 4


def test_tf32_is_a_switch_that_goes_back():
    before = torch.get_float32_matmul_precision()
    with pytest.raises(RuntimeError, match="stop"), hardware.tf32(True, GPU):
        assert torch.get_float32_matmul_precision() == "high"
        raise RuntimeError("stop")
    for on, device in ((False, GPU), (True, torch.device("cpu"))):
        with hardware.tf32(on, device):
            assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before


def test_tf32_on_a_cpu_is_float32(monkeypatch):
    asked, plain = [], hardware.tf32
    monkeypatch.setattr(hardware, "tf32", lambda on, device: asked.append(on) or plain(on, device))
    x, offsets = jets((5, 9, 4, 8) * 8)
    data, found = batches.Packed(x, offsets, np.arange(32) % 3), []
    for precision in ("32-true", "tf32"):
        torch.manual_seed(0)
        model = STEPS["deep_sets"]()
        training.fit(
            model,
            data,
            epochs=1,
            batch_size=8,
            seed=1,
            progress=False,
            accelerator="cpu",
            precision=precision,
        )
        found.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(*found) and asked == [False, True]


@pytest.mark.parametrize("kind", ["packed", "stored"])
def test_batches_are_pinned_ahead_in_another_thread(kind, monkeypatch, tmp_path, toy_jets):
    if kind == "stored":
        store.write(tmp_path / "toy", [toy_jets(40)])
        data = batches.Stored(store.open(tmp_path / "toy"), ("deta", "dphi", "log_pt"))
    else:
        x, offsets = jets((5, 9, 4, 8) * 10)
        data = batches.Packed(x, offsets, np.arange(40))
    pinned = []
    monkeypatch.setattr(
        torch.Tensor,
        "pin_memory",
        lambda self: pinned.append((self.data_ptr(), threading.current_thread())) or self,
    )
    whole = batches.schedule(40, 8, seed=1, epoch=0)
    found = batches.prefetch(data, whole, ahead=2, pin=True)
    first = next(found)
    assert {pointer for pointer, _ in pinned} >= {values.data_ptr() for values in first}
    found = [first, *found]
    assert all(thread is not threading.main_thread() for _, thread in pinned)
    assert len(pinned) == sum(map(len, found))
    for one, indices in zip(found, whole, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, data[indices], strict=True))


GENERATORS = {
    "plain": {},
    "learned": {"positions": "learned", "max_length": 20},
    "classes": {"n_classes": 3},
    "features": {"n_features": 2},
}


@pytest.mark.filterwarnings("ignore:.*did not stop")
@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.8, "temperature": 2.0}])
def test_drawing_in_fixed_arrays_draws_the_same(kind, options):
    torch.manual_seed(0)
    model = Generator(7, **{"max_length": 40, **SMALL, **GENERATORS[kind]})
    if kind == "features":
        table = torch.randn(7, 2)
        options = {**options, "features": lambda tokens: table[tokens]}
    if kind == "classes":
        options = {**options, "labels": torch.arange(21) % 4 - 1}
    (tokens, offsets), (others, bounds) = (
        sampling.generate(
            model, 21, seed=3, batch_size=size, fixed=fixed, progress=False, **options
        )
        for fixed, size in ((False, 21), (True, 8))
    )
    assert torch.equal(offsets, bounds) and torch.equal(tokens, others) and len(tokens) > 40


@pytest.mark.parametrize("options", [{}, {"top_k": 3, "top_p": 0.9}])
def test_a_token_is_drawn_without_waiting(options):
    torch.manual_seed(0)
    model = Generator(7, positions="learned", **SMALL)
    there = on_gpu(model)
    share = partial(sampling.probabilities, **options)
    uniform = torch.rand(5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = sampling.Fixed(model, 5, 12, None, share).fill(uniform, torch.full((5,), -1))
        with Pretend(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sampling.Fixed, "_capture", lambda self: self.step)
            patch.setattr(sampling.Fixed, "EVERY", 100)
            found = sampling.Fixed(there, 5, 12, None, share).fill(
                OnGPU(uniform), OnGPU(torch.full((5,), -1))
            )
    assert torch.equal(found.data_on_cpu, expected)


def test_without_cuda_graphs_it_warns_and_draws(monkeypatch):
    """As where the capture fails on a GPU."""

    def fails(*_):
        raise RuntimeError("no graphs here")

    monkeypatch.setattr(torch.cuda, "Stream", fails)
    drawing = sampling.Fixed(Generator(7, **SMALL), 5, 12, None, sampling.probabilities)
    with pytest.warns(RuntimeWarning, match="no graphs here"):
        assert drawing._capture() == drawing.step


def test_what_decides_lengths_is_drawn_on_the_cpu_from_a_generator_of_a_gpu(monkeypatch):
    """The same state gives the same numbers, and the next call others."""

    class Elsewhere:
        device = GPU

        def __init__(self, seed):
            self.own = torch.Generator().manual_seed(seed)

        def get_state(self):
            return self.own.get_state()

    plain = torch.rand
    monkeypatch.setattr(
        torch,
        "rand",
        lambda *shape, generator=None, **options: (
            plain((), generator=generator.own)
            if isinstance(generator, Elsewhere)
            else plain(*shape, generator=generator, **options)
        ),
    )
    offsets = torch.tensor([0, 40, 80])
    one, other, third = Elsewhere(1), Elsewhere(1), Elsewhere(2)
    drawn = [
        masks.random(None, offsets, generator=generator) for generator in (one, other, one, third)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    assert drawn[0].device.type == "cpu"


@pytest.mark.parametrize(
    ("broken", "dtype", "expected"),
    [
        ((), torch.bfloat16, "efficient"),
        (("_efficient",), torch.bfloat16, "varlen"),
        (("_varlen", "_efficient"), torch.float16, "buckets"),
        ((), torch.float32, "efficient"),
        (("_efficient",), torch.float32, "buckets"),
        ((), torch.float64, "buckets"),
    ],
)
@pytest.mark.filterwarnings("ignore:attention goes without")
def test_the_best_kernel_that_works_is_taken(no_kernels, broken, dtype, expected, monkeypatch):
    def fails(*_):
        raise TypeError("takes other arguments")

    for name in broken:
        monkeypatch.setattr(_attention, name, fails)
    with Pretend(), torch.inference_mode():
        assert _attention.best(OnGPU(torch.ones(2, 16, dtype=dtype)), 8) == expected
    assert _attention.best(torch.ones(2, 16, dtype=dtype), 8) == "buckets"


@pytest.mark.parametrize(
    ("biased", "device", "widths"),
    [
        (True, "cuda", [32, 64]),
        (False, "cuda", [8, 16, 40]),
        (True, "cpu", [3, 9, 33]),
        (False, "cpu", [3, 9, 33]),
    ],
)
def test_buckets_are_few_on_a_gpu_where_there_are_biases(biased, device, widths):
    h = torch.ones(45, 8, dtype=torch.float64)
    with Pretend():
        cut = _attention.plan(
            np.array([9, 3, 33]), OnGPU(h) if device == "cuda" else h, n_heads=1, biased=biased
        )
    assert [width for _, width in cut.shapes] == widths
