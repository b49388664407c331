"""One training step of the encoders of `jetnb.models` and of public ones of the same widths on the
same jets: a table.

    python tests/benchmarks/encoder_speed.py [--batch 128] [--rounds 5] [--threads 1]
    PYTHONPATH=weaver-core python tests/benchmarks/encoder_speed.py --particle-transformer --batch 64

The first compares `Transformer` with nn.TransformerEncoder, the second `ParticleTransformer` with
that of weaver-core. A step is forward, cross-entropy of ten classes, backward and AdamW. All
candidates take their turn in each round, on the same jets; the ratio is the median over rounds of
the process CPU time over that of the first. Padded candidates get their batches padded beforehand,
to 128 or, beyond that, the longest jet; ours packed. bf16 is autocast. CPU times mean little with
more threads than free cores, since waiting threads spin.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import nn

import jetnb
from jetnb import inputs
from jetnb.models import heads, particle_transformer
from jetnb.models.encoder import DeepSets, Transformer, pad

N_CLASSES = 10


class Padded(nn.Module):
    """The transformer of PyTorch, mean over the constituents, and a linear head."""

    def __init__(self, n_features: int, dim: int, n_layers: int, n_heads: int):
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            dim, n_heads, 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.embed, self.norm, self.head = (
            nn.Linear(n_features, dim),
            nn.LayerNorm(dim),
            nn.Linear(dim, N_CLASSES),
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)

    def forward(self, x, mask):
        h = self.norm(self.layers(self.embed(x), src_key_padding_mask=~mask)) * mask[..., None]
        return self.head(h.sum(1) / mask.sum(1, keepdim=True))


class Weaver(nn.Module):
    """The Particle Transformer of weaver-core in its public settings; `trim` is its own, which
    drops constituents.
    """

    def __init__(self, n_features: int, trim: bool):
        super().__init__()
        from weaver.nn.model.ParticleTransformer import ParticleTransformer

        self.n_features = n_features
        self.model = ParticleTransformer(
            n_features, N_CLASSES, use_pre_activation_pair=False, trim=trim
        )

    def forward(self, x, mask):
        x = x.mT  # (B, F + 4, P)
        return self.model(x[:, : self.n_features], v=x[:, self.n_features :], mask=mask[:, None])


def ours(encoder: nn.Module) -> nn.Module:
    return heads.Classifier(encoder, heads.linear(encoder.dim, N_CLASSES))


def transformers(
    n_features: int, args: argparse.Namespace
) -> dict[str, tuple[nn.Module, str, bool]]:
    sizes = dict(dim=args.dim, n_layers=args.layers, n_heads=args.heads)
    tried = {
        "Transformer": (ours(Transformer(n_features, **sizes)), "packed", False),
        "Transformer, bf16": (ours(Transformer(n_features, **sizes)), "packed", True),
        "Transformer, jet token": (
            ours(Transformer(n_features, **sizes, pool="token")),
            "packed",
            False,
        ),
        "Transformer, step 8": (ours(Transformer(n_features, **sizes, step=8)), "packed", False),
        "DeepSets": (ours(DeepSets(n_features, dim=args.dim)), "packed", False),
    }
    for width in ("batch maximum", "128"):
        for bf16 in (False, True):
            name = f"nn.TransformerEncoder{', bf16' * bf16}, padded to {width}"
            tried[name] = Padded(n_features, **sizes), width, bf16
    return tried


def particle_transformers(n_features: int) -> dict[str, tuple[nn.Module, str, bool]]:
    def model(**options):
        return ours(particle_transformer.ParticleTransformer(n_features, **options))

    return {
        "ParticleTransformer": (model(), "packed", False),
        "ParticleTransformer, bf16": (model(), "packed", True),
        "ParticleTransformer, step 4": (model(step=4), "packed", False),
        "weaver, padded to batch maximum": (Weaver(n_features, False), "batch maximum", False),
        "weaver, padded to 128": (Weaver(n_features, False), "128", False),
        "weaver, padded to 128, trimmed by itself": (Weaver(n_features, True), "128", False),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particle-transformer", action="store_true")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--sample", default="jetclass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    jets = jetnb.load(args.sample)
    jets = jets[np.random.default_rng(0).permutation(len(jets))[: args.batch * args.rounds]]
    if args.particle_transformer:
        x, offsets = particle_transformer.inputs(jets)
        tried = particle_transformers(x.shape[1] - 4)
    else:
        features = inputs.available(jets)
        x, offsets = inputs.compute(jets, features)
        x = inputs.Scaler.fit(x, features).transform(x)
        tried = transformers(len(features), args)
    x, offsets = torch.from_numpy(x), torch.from_numpy(offsets)
    label = torch.from_numpy(np.asarray(jets.label, np.int64)).clamp(0, N_CLASSES - 1)
    batches = []
    for i in range(0, len(jets), args.batch):
        bounds = offsets[i : i + args.batch + 1]
        part = x[bounds[0] : bounds[-1]], bounds - bounds[0]
        padded, mask = pad(*part)
        wider = (0, max(128 - mask.shape[1], 0))
        batches.append(
            {
                "packed": part,
                "batch maximum": (padded, mask),
                "128": (nn.functional.pad(padded, (0, 0, *wider)), nn.functional.pad(mask, wider)),
                "label": label[i : i + args.batch],
            }
        )
    optimisers = {
        name: torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
        for name, (model, *_) in tried.items()
    }
    cpu, wall = {name: [] for name in tried}, {name: [] for name in tried}
    for number, batch in enumerate([batches[0], *batches]):
        for name, (model, form, bf16) in tried.items():
            start = time.process_time(), time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(model(*batch[form]).float(), batch["label"])
            optimisers[name].zero_grad()
            loss.backward()
            optimisers[name].step()
            if number:  # the first is to warm up
                cpu[name].append((time.process_time() - start[0]) / args.batch * 1e3)
                wall[name].append((time.perf_counter() - start[1]) / args.batch * 1e3)
    longest = max(batch["batch maximum"][1].shape[1] for batch in batches)
    print(
        f"{len(jets):,} jets of {len(x) / len(jets):.1f} constituents (at most {longest}), {x.shape[1]} columns, "
        f"batch {args.batch}, {args.threads} threads, torch {torch.__version__}\n"
        f"{'':54}{'CPU ms/jet':>12}{'wall ms/jet':>12}{'CPU ratio':>10}"
    )
    for name in tried:
        ratio = np.median(np.array(cpu[name]) / next(iter(cpu.values())))
        print(f"{name:54}{np.median(cpu[name]):12.2f}{np.median(wall[name]):12.2f}{ratio:10.2f}")


if __name__ == "__main__":
    main()
