"""All that is to be known of a machine with a GPU, in one command of a few minutes.

    python tests/gpu/battery.py --out FOLDER [--minutes 8] [--parts numerics speed ...] [--device cpu --tiny]

numerics  every model and loss against the CPU: float32, with TF32, and bfloat16
speed     jets per second of a training step, and how much of the chip it uses: eager, compiled, bfloat16, and padded
generate  jets per second drawn by a token generator
processes two processes on one GPU make the gradient of one
simulate  jets of the named samples on all cores, while the GPU does the other parts
train     trainings worth keeping, on all the jets that there are: checkpoints with cards

Every part runs in a process of its own, so that one that fails takes no other with it, and writes FOLDER/<part>.json
after each measurement: what is cut off is kept. `--tiny --device cpu` is what the tests run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import jetnb
from jetnb import atomic, batches, checkpoints, inputs, jets, pretraining, training
from jetnb.models import _fast, heads, particle_transformer, sampling, tokenizer
from jetnb.models._regions import compile_regions
from jetnb.models.encoder import DeepSets, Transformer, pad
from jetnb.models.generator import Generator
from jetnb.models.particles import FromParticles
from jetnb.readers import parquet
from jetnb.strategies.contrastive import JetCLR
from jetnb.strategies.masked_autoencoder import MaskedAutoencoder
from jetnb.strategies.next_token import NextToken

PARTS = ("numerics", "speed", "generate", "processes", "train")
SIMULATED = (("jetclass", 16_000), ("aoj", 20_000))  # jets, in the order in which they are made
SHARES = {"numerics": 0.1, "speed": 0.25, "generate": 0.05, "processes": 0.05}  # of the time, at most
COMPILED = ("Transformer", "Particle Transformer", "JetCLR", "next token")
SAMPLE_OF = {"omnijet-aoj-vqvae": "aoj", "omnijet-aoj-kmeans": "aoj"}  # others train on jetclass
SEED = 20_000  # of simulated jets and of trainings: that of no shipped sample


class Record:
    """Numbers of one part, on disk as soon as they are known."""

    def __init__(self, out: Path, part: str, device: str, tiny: bool, ends: float | None = None):
        self.file, self.ends = out / f"{part}.json", ends or float("inf")
        self.values = {"part": part, "tiny": tiny, "machine": machine(device), "results": {}}

    def take(self, name: str, measure: Callable[[], object]) -> None:
        """Keep what `measure` returns, or how it failed; nothing once the time of the part is over."""
        if time.time() > self.ends:
            return
        started = time.perf_counter()
        try:
            found = measure()
        except Exception as error:  # whatever it is, the next measurement shall have its turn
            found = {"error": f"{type(error).__name__}: {error}"[:500], "where": traceback.format_exc()[-1500:]}
        self.values["results"][name] = found
        with atomic.new_file(self.file, replace=True) as file:
            file.write_text(json.dumps(self.values, indent=1, default=float))
        print(f"[{time.perf_counter() - started:6.1f} s] {self.values['part']}: {name}: "
              f"{json.dumps(found, default=float)[:400]}", flush=True)


def machine(device: str) -> dict:
    about = {"device": "CPU", "cores": os.cpu_count(), "torch": torch.__version__, "python": platform.python_version(),
             "jetnb": jetnb.__version__, "date": time.strftime("%Y-%m-%d")}
    if device == "cuda":
        chip = torch.cuda.get_device_properties(0)
        about |= {"device": chip.name, "memory_GB": round(chip.total_memory / 1e9), "cuda": torch.version.cuda}
    return about


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextlib.contextmanager
def tf32(on: bool):
    """Matrix products of float32 in TF32, with 10 bits of mantissa, on chips that have it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if on else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def sample(name: str, n_jets: int, seed: int = 0):
    every = jetnb.load(name)
    return every[np.random.default_rng(seed).permutation(len(every))[:n_jets]]


def packed(name: str, n_jets: int) -> dict[str, batches.Packed]:
    """The same jets as each model wants them: scaled features, features with momenta, particles."""
    some = sample(name, n_jets)
    label = np.clip(np.asarray(some.label, np.int64), 0, 9)
    features = inputs.available(some)
    x, offsets = inputs.compute(some, features)
    found = {"features": batches.Packed(inputs.Scaler.fit(x, features).transform(x), offsets, label),
             "momenta": batches.Packed(*particle_transformer.inputs(some), label)}
    return found | {"particles": batches.Packed(*inputs.to_relative(some), label)}


def models(data: dict[str, batches.Packed], tiny: bool) -> dict[str, tuple[nn.Module, str]]:
    """Each model with a loss, and which of the data it takes. Sizes of the literature, about two million weights."""
    width = data["features"].x.shape[1]
    sizes = dict(dim=32, n_layers=2, n_heads=4) if tiny else dict(dim=128, n_layers=10, n_heads=8)
    small = dict(dim=32, n_layers=1, n_heads=4) if tiny else dict(dim=128, n_layers=3, n_heads=4)
    pairs = dict(embed_dims=(32,), pair_dims=(8,), n_layers=1, n_heads=4, n_class_layers=1) if tiny else {}
    torch.manual_seed(1)

    def ten(body):
        return heads.Classifier(body, heads.linear(body.dim, 10))

    particles = FromParticles(Transformer(5, **sizes)).fit(data["particles"].x, data["particles"].offsets)
    codes = tokenizer.Tokenizer(n_codes=64 if tiny else 2048, context="causal")
    codes.fit(data["particles"], seed=1)
    return {"Transformer": (ten(Transformer(width, **sizes)), "features"),
            "DeepSets": (ten(DeepSets(width, dim=sizes["dim"])), "features"),
            "Particle Transformer": (ten(particle_transformer.ParticleTransformer(
                data["momenta"].x.shape[1] - 4, **pairs)), "momenta"),
            "JetCLR": (JetCLR(particles), "particles"),
            "masked autoencoder": (MaskedAutoencoder(Transformer(width, **small), Transformer(
                small["dim"], **small), n_features=width), "features"),
            "tokenizer": (codes, "particles"),
            "next token": (NextToken(copy.deepcopy(codes), sizes=small), "tokens"),
            "next token, turned": (NextToken(copy.deepcopy(codes), sizes=small, turn=True), "particles")}


def with_tokens(data: dict, model: nn.Module, name: str) -> dict:
    """The data, and its tokens as the model `name` makes them."""
    if name == "next token" and "tokens" not in data:
        x, offsets, label = (data["particles"].x, data["particles"].offsets, *data["particles"].targets)
        parts = [model.tokenizer.encode(*batch) for batch in model.tokenizer._split(x, offsets, 512)]
        data["tokens"] = batches.Packed(torch.cat(parts).float()[:, None].cpu().numpy(), offsets, label)
    return data


def on(batch, device: str):
    x, offsets, *rest = batch
    return x.to(device), offsets, *(values.to(device) for values in rest)


# numerics -------------------------------------------------------------------------------------------------------

def numerics(record: Record, device: str, tiny: bool) -> None:
    """Relative differences of loss and gradient to float64 on the CPU, where random numbers are the same."""
    data = packed("jetclass", 64 if tiny else 256)
    for name, (model, kind) in models(data, tiny).items():
        batch = with_tokens(data, model, name)[kind][np.arange(32 if tiny else 128)]
        record.take(name, lambda model=model, batch=batch: compared(model, batch, device))


def compared(model: nn.Module, batch, device: str) -> dict:
    """Loss and gradient in each precision, against the same model in float64 on the CPU."""
    model.eval()
    fixed(model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    goal = gradient(model.double(), [value.double() if value.is_floating_point() else value for value in batch])
    found = {}
    for name, where, exact, dtype in (("float32 on the CPU", "cpu", True, None), ("float32", device, True, None),
                                      ("TF32", device, False, None), ("bfloat16", device, True, torch.bfloat16)):
        if name == "TF32" and device != "cuda":
            continue
        model.float().to(where).load_state_dict(start)
        with tf32(not exact), torch.autocast(where, dtype or torch.bfloat16, enabled=dtype is not None):
            loss, slope = gradient(model, on(batch, where))
        model.cpu()
        found[name] = {"loss": abs(loss - goal[0]) / abs(goal[0]),
                       "gradient": float((slope - goal[1]).norm() / goal[1].norm())}
    return found


def fixed(model: nn.Module) -> None:
    """Leave out what is drawn, which differs between devices: views are the jets themselves, and as they are mirrored."""
    if isinstance(model, JetCLR):
        model.views = lambda x, offsets, generator=None: ((x, offsets), (x * x.new_tensor([1, -1, 1]), offsets))


def gradient(model: nn.Module, batch) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = model.loss(batch, generator=torch.Generator().manual_seed(1))
    loss.backward()
    slopes = [p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(slopes)


# speed ----------------------------------------------------------------------------------------------------------

def speed(record: Record, device: str, tiny: bool) -> None:
    n = 32 if tiny else 512
    data = packed("jetclass", 4 * n)
    lengths = np.diff(data["features"].offsets)
    record.take("jets", lambda: {"batch": n, "constituents": float(lengths.mean()), "longest": int(lengths.max())})
    ceilings = {}
    for name, dtype, exact in (("float32", torch.float32, True), ("TF32", torch.float32, False),
                               ("bfloat16", torch.bfloat16, True)):
        def ceiling(name=name, dtype=dtype, exact=exact):
            ceilings[name] = product(device, dtype, exact, 256 if tiny else 8192)
            return {"TFLOP/s": ceilings[name]}
        record.take(f"matrix product, {name}", ceiling)
    modes = {"float32": (True, None), "TF32": (False, None), "bfloat16": (True, torch.bfloat16)}
    if device == "cpu":
        del modes["TF32"]
    tried, work = models(data, tiny), {}

    def rate(name, mode, compiled=False, **changes):
        """Speed of a training step, and which share of the chip it uses."""
        model, kind = tried[name]
        precision = mode.partition(",")[0]
        exact, dtype = modes[precision]
        whole = with_tokens(data, model, name)[kind]
        parts = [whole[indices] for indices in batches.split(np.arange(len(whole)), n)]
        for key, value in changes.items():
            setattr(model.encoder, key, value)
        model.to(device)
        if "jet" not in work.setdefault(name, {}):
            work[name]["jet"] = flop(model, parts[0], device)
        found = steps(model, parts, device, exact=exact, dtype=dtype, compiled=compiled, n=2 if tiny else 20)
        model.cpu()
        reached = found["jets/s"] * work[name]["jet"] / 1e12
        top = ceilings.get(precision)
        return found | {"MFLOP per jet": work[name]["jet"] / 1e6, "TFLOP/s": reached, "share": top and reached / top}

    for name in tried:
        for mode in modes:
            record.take(f"{name}: {mode}", partial(rate, name, mode))
    for kernel in ("rectangles", "efficient", "varlen") if device == "cuda" else ("rectangles",):
        for mode in ("float32", "bfloat16")[kernel == "varlen":]:
            record.take(f"Transformer: {mode}, attention by {kernel}", partial(rate, "Transformer", mode, kernel=kernel))
    for width in () if tiny else (16, 32):
        record.take(f"Particle Transformer: bfloat16, rectangles in steps of {width}",
                    partial(rate, "Particle Transformer", "bfloat16", step=width))
    sizes = dict(dim=32, n_layers=2, n_heads=4) if tiny else dict(dim=128, n_layers=10, n_heads=8)
    parts = [data["features"][indices] for indices in batches.split(np.arange(4 * n), n)]
    for width in ("the longest of the batch", "128"):
        for mode, (exact, dtype) in modes.items():
            def padded(width=width, exact=exact, dtype=dtype):
                model = Padded(data["features"].x.shape[1], **sizes, width=width).to(device)
                return steps(model, parts, device, exact=exact, dtype=dtype, compiled=False, n=2 if tiny else 20)
            record.take(f"nn.TransformerEncoder, padded to {width}: {mode}", padded)
    record.take("training.fit, Transformer, bfloat16", lambda: loop(data["features"], device, n, tiny, sizes))
    if device == "cuda":
        for name in tried:
            record.take(f"{name}: waits", partial(waits, *tried[name], with_tokens(data, tried[name][0], name), n))
        for name in COMPILED:
            tried[name][0].encoder.__dict__.update(kernel="auto", step=None)
            for mode in ("bfloat16", "float32", "TF32")[:2 if name == "Particle Transformer" else 3]:
                record.take(f"{name}: {mode}, compiled", partial(rate, name, mode, compiled=True))


class Padded(nn.Module):
    """The transformer of PyTorch on jets padded to one width: what is commonly done."""

    def __init__(self, n_features: int, dim: int, n_layers: int, n_heads: int, width: str):
        super().__init__()
        layer = nn.TransformerEncoderLayer(dim, n_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.embed, self.norm, self.head = nn.Linear(n_features, dim), nn.LayerNorm(dim), nn.Linear(dim, 10)
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.width = int(width) if width.isdigit() else 0

    def loss(self, batch, *, generator=None):
        x, offsets, label = batch
        x, mask = pad(x, offsets)
        wider = max(self.width - mask.shape[1], 0)
        x, mask = F.pad(x, (0, 0, 0, wider)), F.pad(mask, (0, wider))
        h = self.norm(self.layers(self.embed(x), src_key_padding_mask=~mask)) * mask[..., None]
        return F.cross_entropy(self.head(h.sum(1) / mask.sum(1, keepdim=True)).float(), label)


def product(device: str, dtype: torch.dtype, exact: bool, n: int) -> float:
    """TFLOP/s of a matrix product of n x n random numbers: what the chip can do at most."""
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    with tf32(not exact):
        for _ in range(3):
            a @ b
        wait(device)
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        wait(device)
    return 10 * 2 * n ** 3 / (time.perf_counter() - started) / 1e12


def flop(model: nn.Module, batch, device: str) -> float:
    """Floating-point operations of a training step per jet, in matrix products and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    model.to(device).train()
    with mock.patch.object(_fast, "_ONEDNN", None), FlopCounterMode(display=False) as counter:
        model.loss(on(batch, device), generator=torch.Generator(device).manual_seed(1)).backward()
    return counter.get_total_flops() / (len(batch[1]) - 1)


def steps(model: nn.Module, parts: list, device: str, *, exact: bool, dtype, compiled: bool, n: int) -> dict:
    """Jets per second of n training steps after a warm-up: loss, gradient, clipping and AdamW, as in training.fit."""
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4, fused=True)
    generator, ready = torch.Generator(device).manual_seed(1), [on(part, device) for part in parts]
    if compiled:
        compile_regions(model)
    seen, losses = 0, []

    def step(batch):
        with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = model.loss(batch, generator=generator)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())

    with tf32(not exact):
        begun = time.perf_counter()
        for i in range(max(2, len(ready))):
            step(ready[i % len(ready)])
        wait(device)
        warm = time.perf_counter() - begun
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        for i in range(n):
            step(ready[i % len(ready)])
            seen += len(ready[i % len(ready)][1]) - 1
        wait(device)
        spent = time.perf_counter() - begun
    if not all(torch.isfinite(torch.stack(losses))):
        raise FloatingPointError(f"losses {torch.stack(losses).tolist()}")
    memory = {"memory_GB": torch.cuda.max_memory_allocated() / 1e9} if device == "cuda" else {}
    return {"jets/s": seen / spent, "ms/step": 1e3 * spent / n, "warm-up_s": warm, **memory}


def waits(model: nn.Module, kind: str, data: dict, n: int) -> dict:
    """How often the CPU waited for the GPU in a training step."""
    batch = on(data[kind][np.arange(n)], "cuda")
    model.to("cuda").train()
    generator = torch.Generator("cuda").manual_seed(1)
    for _ in range(3):
        model.loss(batch, generator=generator).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model.loss(batch, generator=generator).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        model.cpu()
    lines = [f"{Path(w.filename).name}:{w.lineno}" for w in said if "synchroniz" in str(w.message)]
    return {"waits": len(lines), "where": lines[:5]}


def loop(data: batches.Packed, device: str, n: int, tiny: bool, sizes: dict) -> dict:
    """Jets per second of the whole loop, with batches made by its thread while the device works."""
    body = Transformer(data.x.shape[1], **sizes)
    model, count = heads.Classifier(body, heads.linear(body.dim, 10)), 3 if tiny else 120
    seconds = []
    history = training.fit(model, data, steps=count, batch_size=n, seed=1, precision="bf16-mixed", accelerator=device,
                           log_every=count // 3, watch=lambda _: seconds.append(time.perf_counter()) and None,
                           progress=False)
    last = history.steps[-1]["step"] - history.steps[0]["step"]
    return {"jets/s": last * n / (seconds[len(history.steps) - 1] - seconds[0])}


# generation -----------------------------------------------------------------------------------------------------

def generate(record: Record, device: str, tiny: bool) -> None:
    torch.manual_seed(1)
    sizes = dict(dim=32, n_layers=1, n_heads=4) if tiny else dict(dim=256, n_layers=3, n_heads=8)
    model = Generator(64 if tiny else 8192, **sizes).to(device).eval()
    with torch.no_grad():  # so that jets have about 50 tokens, as real ones
        model.head.bias[-1] += float(np.log((64 if tiny else 8192) / 50))
    for size in (32,) if tiny else (128, 1024, 4096):
        for dtype in (None, torch.bfloat16):
            def rate(size=size, dtype=dtype):
                options = dict(batch_size=size, dtype=dtype, progress=False)
                sampling.generate(model, size, seed=1, **options)
                wait(device)
                started = time.perf_counter()
                _, offsets = sampling.generate(model, size if tiny else 2 * size, seed=2, **options)
                wait(device)
                spent = time.perf_counter() - started
                return {"jets/s": (len(offsets) - 1) / spent, "tokens per jet": float(offsets.diff().double().mean())}
            record.take(f"{size} at a time, {'float32' if dtype is None else 'bfloat16'}", rate)


# processes ------------------------------------------------------------------------------------------------------

def processes(record: Record, device: str, tiny: bool) -> None:
    record.take("two processes", lambda: two(device))


def two(device: str) -> dict:
    """Largest relative difference of weights after three steps of one process, and of two that share one device."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (port, device, Path(folder) / "weights.npy"), nprocs=2)
        shared, alone = np.load(Path(folder) / "weights.npy"), _three_steps(device)
    return {"difference": float(np.abs(shared - alone).max() / np.abs(alone).max()), "weights": len(alone)}


def _rank(rank: int, port: int, device: str, file: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights = _three_steps(device, rank=rank)
    if rank == 0:
        np.save(file, weights)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _three_steps(device: str, rank: int | None = None) -> np.ndarray:
    data = packed("jetclass", 64)["features"]
    torch.manual_seed(3)
    body = Transformer(data.x.shape[1], dim=32, n_layers=2, n_heads=4)
    model = heads.Classifier(body, heads.linear(body.dim, 10)).to(device)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    wrapped = model if rank is None else nn.parallel.DistributedDataParallel(model)
    for step in range(3):
        indices = np.arange(16 * step, 16 * step + 16)
        x, offsets, label = on(data[indices if rank is None else indices[rank::2]], device)
        F.cross_entropy(wrapped(x, offsets), label).backward()
        optimiser.step()
        optimiser.zero_grad()
    return np.concatenate([p.detach().double().cpu().numpy().ravel() for p in model.parameters()])


# simulation and training ----------------------------------------------------------------------------------------

def simulate(record: Record, folder: Path, cores: int, tiny: bool) -> None:
    """Stores of the samples of SIMULATED in `folder`, and how fast they were made."""
    from jetnb.simulation import production

    for name, n_jets in SIMULATED:
        def make(name=name, n_jets=40 if tiny else n_jets):
            started = time.perf_counter()
            made = production.simulate(name, n_jets=n_jets, seed=SEED, path=folder / name, processes=cores,
                                       progress=False)
            spent = time.perf_counter() - started
            parquet.write(record.file.parent / f"{name}.parquet", made.jets)
            return {"jets": len(made), "jets/s": len(made) / spent, "cores": cores}
        record.take(name, make)


def made(folder: Path, name: str):
    """The jets that were simulated here, or the shipped ones: training and validation."""
    every = jetnb.open_store(folder / name).jets if (folder / name).exists() else jetnb.load(name)
    train, validation, _ = jets.split(every, (0.95, 0.05, 0.0), seed=SEED)
    return train, validation


def trainings(folder: Path, out: Path, tiny: bool) -> dict[str, Callable[[dict], object]]:
    """What to train, by name. Each takes the options of training.fit that the machine decides."""
    views = dict(steps=50_000, batch_size=64 if tiny else 256, seed=1)

    def contrast(n_jets=None):
        def train(options):
            some, _ = made(folder, "jetclass")
            some = some[np.random.default_rng(SEED).permutation(len(some))[:n_jets]]
            name = "jetclr" + (f"-{n_jets}-jets" if n_jets else "")
            return pretraining.jetclr(some, out / name, **{**views, **options})
        return train

    def generator(codes):
        def train(options):
            train, validation = made(folder, "aoj")
            path = out / f"tokens-{codes}"
            if not path.exists():
                codebook(path, codes)
            return pretraining.omnijet(train, out / f"omnijet-aoj-{codes}", validation=validation, codes=path, turn=True,
                                       **{**views, "lr": 1e-3, **options})
        return train

    def codebook(path, codes):
        train, validation = made(folder, "jetclass")
        settings = {**tokenizer.LAPTOP, "n_codes": 64 if tiny else 2048}
        if codes == "kmeans":
            settings = {"n_codes": 64 if tiny else 8192, "context": "features"}
            some = batches.Packed(*tokenizer.particles(train), train.label)
            model = tokenizer.build(settings, seed=1).fit(some, seed=1, n_jets=len(some))
            about = {"strategy": "k-means of constituents", "tokenizer": settings, "jets": len(some), "trained": {},
                     "data": {"sample": "jetclass", "source": "simulation"}}
            checkpoints.save(path, model, about)
        else:
            pretraining.tokens(train, path, seed=1, validation=validation, settings=settings, batch_size=128,
                               steps=20 if tiny else 4_000, lr=1e-3, progress=False)

    def labels(options):
        train, validation = (pretraining.particles(part) for part in made(folder, "jetclass"))
        body = pretraining.build(seed=1).fit(train.x, train.offsets)
        card = {"strategy": "supervised, ten classes", "encoder": dict(pretraining.ENCODER),
                "data": {"sample": "jetclass", "source": "simulation"}, "jets": len(train)}
        return training.fit(heads.Classifier(body, heads.linear(body.dim, 10)), train, validation=validation,
                            path=out / "supervised", card=card, **{**views, **options})

    sizes = () if tiny else (512, 1500, 8000)
    return {"jetclr": contrast(), **{f"jetclr-{n}-jets": contrast(n) for n in sizes}, "supervised": labels,
            "omnijet-aoj-vqvae": generator("vqvae"), "omnijet-aoj-kmeans": generator("kmeans")}


def train(out: Path, folder: Path, device: str, ends: float, tiny: bool, maker: subprocess.Popen | None) -> None:
    """All trainings, a process each, since small networks leave most of a GPU idle; each when its jets are there.

    maker: the process that simulates, if one does.
    """
    words = [sys.executable, __file__, "--out", str(out), "--folder", str(folder), "--device", device, "--ends",
             str(ends), *["--tiny"] * tiny]
    waiting, running = list(trainings(folder, out, tiny)), []
    while waiting and time.time() < ends:
        over = maker is None or maker.poll() is not None
        for name in [name for name in waiting if over or (folder / SAMPLE_OF.get(name, "jetclass")).exists()]:
            running.append(subprocess.Popen([*words, "--train", name]))
            waiting.remove(name)
        time.sleep(0.5)
    for process in running:
        process.wait()


def train_one(record: Record, name: str, out: Path, folder: Path, device: str, ends: float, tiny: bool) -> None:
    """One training, with as many steps as the time is long enough for, so that its learning rate falls to zero."""
    work = trainings(folder, out, tiny)[name]
    options = dict(accelerator=device, progress=False)

    def run():
        times = []
        with contextlib.suppress(_Enough):
            work({**options, "log_every": 20, "watch": lambda record: _clock(times, 2 if tiny else 6)})
        shutil.rmtree(out / name, ignore_errors=True)
        (out / f"{name}.history.jsonl").unlink(missing_ok=True)
        each = (times[-1] - times[1]) / (20 * (len(times) - 2)) if len(times) > 2 else 1.0
        steps = 40 if tiny else max(200, int(0.85 * (ends - time.time()) / each))
        history = work({**options, "steps": steps, "watch": lambda _: time.time() > ends})
        last = history.epochs[-1] if history.epochs else history.steps[-1]
        return {"steps": history.steps[-1]["step"], "of": steps, "ended": history.reason, "ms/step": 1e3 * each, **last}

    record.take(name, run)


class _Enough(Exception):
    """The rate is known."""


def _clock(times: list[float], n: int) -> None:
    times.append(time.perf_counter())
    if len(times) > n:
        raise _Enough


# ----------------------------------------------------------------------------------------------------------------

def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what was measured and trained")
    parser.add_argument("--folder", type=Path, help="folder of simulated stores; default: OUT/../simulated")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=(*PARTS, "simulate"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cores", type=int, default=max((os.cpu_count() or 1) - 4, 1), help="that simulate")
    parser.add_argument("--tiny", action="store_true", help="sizes for a test")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--ends", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    folder = args.folder or args.out.parent / "simulated"
    if args.train:
        record = Record(args.out, f"train-{args.train}", args.device, args.tiny)
        train_one(record, args.train, args.out, folder, args.device, args.ends, args.tiny)
        return 0
    if args.one:
        record = Record(args.out, args.one, args.device, args.tiny, args.ends)
        if args.one == "simulate":
            simulate(record, folder, args.cores, args.tiny)
        else:
            globals()[args.one](record, args.device, args.tiny)
        return 0
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here: --device cpu --tiny is what works without")
    ends = time.time() + 60 * args.minutes
    words = [sys.executable, __file__, "--out", str(args.out), "--folder", str(folder), "--device", args.device,
             "--cores", str(args.cores), *["--tiny"] * args.tiny]
    maker = subprocess.Popen([*words, "--one", "simulate"]) if "simulate" in args.parts else None
    failed = 0
    for part in args.parts:
        if part == "train":
            train(args.out, folder, args.device, ends - 20, args.tiny, maker)
        elif part != "simulate":
            until = time.time() + SHARES[part] * 60 * args.minutes
            try:
                failed += subprocess.run([*words, "--one", part, "--ends", str(until)],
                                         timeout=max(until - time.time(), 1) + 30).returncode != 0
            except subprocess.TimeoutExpired:
                print(f"{part}: cut off, its share of {args.minutes} minutes is over", flush=True)
    if maker:
        with contextlib.suppress(subprocess.TimeoutExpired):
            maker.wait(max(ends - time.time(), 1))
        maker.terminate()
    return failed


if __name__ == "__main__":
    sys.exit(main())
