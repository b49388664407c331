"""What the battery measures: agreement with the CPU, speed of training and of generation, two
processes on one GPU.

Each of PARTS is called with a record, the device, and whether sizes are those of a test.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from record import Record
from subjects import models, on, packed, sizes_of, with_tokens
from torch import nn
from torch.nn import functional as F

from jetnb import training
from jetnb.inputs import batches
from jetnb.models import _fast, heads, sampling
from jetnb.models._regions import compile_regions
from jetnb.models.encoder import Transformer, pad
from jetnb.models.generator import Generator
from jetnb.strategies.contrastive import JetCLR

COMPILED = ("Transformer", "Particle Transformer", "JetCLR", "next token")


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


@contextlib.contextmanager
def changed(model: nn.Module, **values):
    """Within the block all parts of the model that have an attribute of these names have these
    values.
    """
    before = [
        (part, name, getattr(part, name))
        for part in model.modules()
        for name in values
        if hasattr(part, name)
    ]
    if missing := values.keys() - {name for _, name, _ in before}:
        raise ValueError(f"no part of {type(model).__name__} has {', '.join(sorted(missing))}")
    try:
        for part, name, _ in before:
            setattr(part, name, values[name])
        yield
    finally:
        for part, name, value in before:
            setattr(part, name, value)


# numerics
# -------------------------------------------------------------------------------------------------------


def numerics(record: Record, device: str, tiny: bool) -> None:
    """Relative differences of loss and gradient to float64 on the CPU, where random numbers are the
    same.
    """
    data = packed("jetclass", 64 if tiny else 256)
    for name, (model, kind) in models(data, tiny).items():
        batch = with_tokens(data, model, name)[kind][np.arange(32 if tiny else 128)]
        record.take(name, lambda model=model, batch=batch: compared(model, batch, device))


def compared(model: nn.Module, batch, device: str) -> dict:
    """Loss and gradient in each precision, against the same model in float64 on the CPU."""
    model.eval()
    fixed(model)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    goal = gradient(
        model.double(), [value.double() if value.is_floating_point() else value for value in batch]
    )
    found = {}
    for name, where, exact, dtype in (
        ("float32 on the CPU", "cpu", True, None),
        ("float32", device, True, None),
        ("TF32", device, False, None),
        ("bfloat16", device, True, torch.bfloat16),
    ):
        if name == "TF32" and device != "cuda":
            continue
        model.float().to(where).load_state_dict(start)
        with (
            tf32(not exact),
            torch.autocast(where, dtype or torch.bfloat16, enabled=dtype is not None),
        ):
            loss, slope = gradient(model, on(batch, where))
        model.cpu()
        found[name] = {
            "loss": abs(loss - goal[0]) / abs(goal[0]),
            "gradient": float((slope - goal[1]).norm() / goal[1].norm()),
        }
    return found


def fixed(model: nn.Module) -> None:
    """Leave out what is drawn, which differs between devices: views are the jets themselves, and as
    they are mirrored.
    """
    if isinstance(model, JetCLR):
        model.views = lambda x, offsets, generator=None: (
            (x, offsets),
            (x * x.new_tensor([1, -1, 1]), offsets),
        )


def gradient(model: nn.Module, batch) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    loss = model.loss(batch, generator=torch.Generator().manual_seed(1))
    loss.backward()
    slopes = [p.grad.double().flatten().cpu() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(slopes)


# speed
# ----------------------------------------------------------------------------------------------------------


def speed(record: Record, device: str, tiny: bool) -> None:
    n = 32 if tiny else 512
    data = packed("jetclass", 4 * n)
    lengths = np.diff(data["features"].offsets)
    record.take(
        "jets",
        lambda: {"batch": n, "constituents": float(lengths.mean()), "longest": int(lengths.max())},
    )
    ceilings = {}
    for name, dtype, exact in (
        ("float32", torch.float32, True),
        ("TF32", torch.float32, False),
        ("bfloat16", torch.bfloat16, True),
    ):

        def ceiling(name=name, dtype=dtype, exact=exact):
            ceilings[name] = product(device, dtype, exact, 256 if tiny else 8192)
            return {"TFLOP/s": ceilings[name]}

        record.take(f"matrix product, {name}", ceiling)
    modes = {"float32": (True, None), "TF32": (False, None), "bfloat16": (True, torch.bfloat16)}
    if device == "cpu":
        del modes["TF32"]
    tried, work = models(data, tiny), {}
    for name, (model, _) in tried.items():
        record.take(
            f"{name}: weights",
            lambda model=model: {"weights": sum(w.numel() for w in model.parameters())},
        )

    def rate(name, mode, compiled="", **changes):
        """Speed of a training step, and which share of the chip it uses; compiled: with this
        backend.
        """
        model, kind = tried[name]
        precision = mode.partition(",")[0]
        exact, dtype = modes[precision]
        whole = with_tokens(data, model, name)[kind]
        parts = [whole[indices] for indices in batches.split(np.arange(len(whole)), n)]
        model.to(device)
        if name not in work:
            work[name] = flop(model, parts[0], device)
        with changed(model, **changes):
            found = steps(
                model,
                parts,
                device,
                exact=exact,
                dtype=dtype,
                compiled=compiled,
                n=2 if tiny else 20,
            )
        model.cpu()
        reached = found["jets/s"] * work[name] / 1e12
        top = ceilings.get(precision)
        return found | {
            "MFLOP per jet": work[name] / 1e6,
            "TFLOP/s": reached,
            "share": top and reached / top,
        }

    for name in tried:
        for mode in modes:
            record.take(f"{name}: {mode}", partial(rate, name, mode))
    for kernel in ("buckets", "efficient", "varlen") if device == "cuda" else ("buckets",):
        for mode in ("float32", "bfloat16")[kernel == "varlen" :]:
            record.take(
                f"Transformer: {mode}, attention by {kernel}",
                partial(rate, "Transformer", mode, kernel=kernel),
            )
    for width in (8, 16, 32, 64)[: 1 if tiny else None]:
        record.take(
            f"Particle Transformer: bfloat16, buckets in steps of {width}",
            partial(rate, "Particle Transformer", "bfloat16", step=width),
        )
    sizes = sizes_of(tiny)["Transformer"]
    parts = [data["features"][indices] for indices in batches.split(np.arange(4 * n), n)]
    for width in ("the longest of the batch", "128"):
        for mode, (exact, dtype) in modes.items():

            def padded(width=width, exact=exact, dtype=dtype):
                model = Padded(data["features"].x.shape[1], **sizes, width=width).to(device)
                return steps(
                    model, parts, device, exact=exact, dtype=dtype, compiled="", n=2 if tiny else 20
                )

            record.take(f"nn.TransformerEncoder, padded to {width}: {mode}", padded)
    record.take(
        "training.fit, Transformer, bfloat16",
        lambda: loop(data["features"], device, n, tiny, sizes),
    )
    if device == "cuda":
        for name in tried:
            record.take(
                f"{name}: waits",
                partial(waits, *tried[name], with_tokens(data, tried[name][0], name), n),
            )
    for name in COMPILED:
        for mode in [mode for mode in ("bfloat16", "float32", "TF32") if mode in modes]:
            record.take(
                f"{name}: {mode}, compiled",
                partial(rate, name, mode, compiled="aot_eager" if tiny else "inductor"),
            )  # the former does without a compiler


class Padded(nn.Module):
    """The transformer of PyTorch on jets padded to one width: what is commonly done."""

    def __init__(self, n_features: int, dim: int, n_layers: int, n_heads: int, width: str):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            dim, n_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.embed, self.norm, self.head = (
            nn.Linear(n_features, dim),
            nn.LayerNorm(dim),
            nn.Linear(dim, 10),
        )
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
    return 10 * 2 * n**3 / (time.perf_counter() - started) / 1e12


def flop(model: nn.Module, batch, device: str) -> float:
    """Floating-point operations of a training step per jet, in matrix products and attention."""
    from torch.utils.flop_counter import FlopCounterMode

    model.to(device).train()
    with _fast.plain(), FlopCounterMode(display=False) as counter:
        model.loss(on(batch, device), generator=torch.Generator(device).manual_seed(1)).backward()
    return counter.get_total_flops() / (len(batch[1]) - 1)


def steps(
    model: nn.Module, parts: list, device: str, *, exact: bool, dtype, compiled: str, n: int
) -> dict:
    """Jets per second of n training steps after a warm-up: loss, gradient, clipping and AdamW, as
    in training.fit.
    """
    model.train()
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], 1e-4, fused=True
    )
    generator, ready = torch.Generator(device).manual_seed(1), [on(part, device) for part in parts]
    if compiled:
        compile_regions(model, backend=compiled)
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
    history = training.fit(
        model,
        data,
        steps=count,
        batch_size=n,
        seed=1,
        precision="bf16-mixed",
        accelerator=device,
        log_every=count // 3,
        watch=lambda _: seconds.append(time.perf_counter()) and None,
        progress=False,
    )
    last = history.steps[-1]["step"] - history.steps[0]["step"]
    return {"jets/s": last * n / (seconds[len(history.steps) - 1] - seconds[0])}


# generation
# -----------------------------------------------------------------------------------------------------


def generate(record: Record, device: str, tiny: bool) -> None:
    torch.manual_seed(1)
    sizes = sizes_of(tiny)["generator"]
    model = Generator(**sizes).to(device).eval()
    with torch.no_grad():  # so that jets have about 50 tokens, as real ones
        model.head.bias[-1] += float(np.log(sizes["n_codes"] / 50))
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
                return {
                    "jets/s": (len(offsets) - 1) / spent,
                    "tokens per jet": float(offsets.diff().double().mean()),
                }

            record.take(f"{size} at a time, {'float32' if dtype is None else 'bfloat16'}", rate)


# processes
# ------------------------------------------------------------------------------------------------------


def processes(record: Record, device: str, tiny: bool) -> None:
    record.take("two processes", lambda: two(device))


def two(device: str) -> dict:
    """Largest relative difference of weights after three steps of one process, and of two that
    share one device.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (port, device, Path(folder) / "weights.npy"), nprocs=2)
        shared, alone = np.load(Path(folder) / "weights.npy"), _three_steps(device)
    return {
        "difference": float(np.abs(shared - alone).max() / np.abs(alone).max()),
        "weights": len(alone),
    }


def _rank(rank: int, port: int, device: str, file: Path) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
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


PARTS = {"numerics": numerics, "speed": speed, "generate": generate, "processes": processes}
