"""Drawing jets, and one training step, of `jetnb.models.generator` and the way of the public
OmniJet-alpha: two tables.

    python tests/benchmarks/generation_speed.py [--batch 32] [--rounds 1] [--mean 50] [--codes 8192]

The public way to draw reruns the whole prefix for each token, takes logits at every place, draws
with multinomial and always makes as many steps as the longest jet may have; what follows the first
stop is cut off afterwards. It is written here from that description, on nn.TransformerEncoder, with
the weights of our model (logits are compared first). The weights are random; the bias of stop is
set so that jets of both have the mean length asked for, with a tail up to 128 tokens. The public
step pads to 128, with a causal mask, and its loss counts padding too. Its bf16 is left out. All
candidates take their turn in each round; ratios are of process CPU time over ours, medians over
rounds. CPU times mean little with more threads than free cores.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from jetnb.models.encoder import pad
from jetnb.models.generator import Generator
from jetnb.models.sampling import generate

LENGTH = 128


class Public(nn.Module):
    """The same network from PyTorch's own layers, on padded tokens: start is K + 1, and padding is
    start again.
    """

    def __init__(self, model: Generator):
        super().__init__()
        encoder, n_codes = model.encoder, model.encoder.n_codes
        dim, block = encoder.dim, encoder.blocks[0]
        layer = nn.TransformerEncoderLayer(
            dim,
            block.n_heads,
            block.expand.out_features,
            0.0,
            "gelu",
            norm_first=True,
            batch_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, len(encoder.blocks), nn.LayerNorm(dim), enable_nested_tensor=False
        )
        self.embed, self.head = nn.Embedding(n_codes + 2, dim), nn.Linear(dim, n_codes + 1)
        with torch.no_grad():
            self.embed.weight.copy_(torch.cat([encoder.embed.weight, encoder.start.weight[:1]]))
        self.head.load_state_dict(model.head.state_dict())
        self.layers.norm.load_state_dict(encoder.norm.state_dict())
        for ours, theirs in zip(encoder.blocks, self.layers.layers, strict=True):
            theirs.self_attn.in_proj_weight.data.copy_(ours.qkv.weight)
            theirs.self_attn.in_proj_bias.data.copy_(ours.qkv.bias)
            for to, of in (
                (theirs.self_attn.out_proj, ours.project),
                (theirs.linear1, ours.expand),
                (theirs.linear2, ours.contract),
                (theirs.norm1, ours.attention_norm),
                (theirs.norm2, ours.mlp_norm),
            ):
                to.load_state_dict(of.state_dict())

    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embed(tokens), mask=mask, is_causal=True))

    @torch.no_grad()
    def generate(self, n_jets: int) -> torch.Tensor:
        stop = self.head.out_features - 1
        tokens = torch.full((n_jets, 1), stop + 1)
        for _ in range(LENGTH):
            logits = self(tokens)[:, -1]
            tokens = torch.cat([tokens, torch.multinomial(logits.softmax(-1), 1)], 1)
        return (tokens[:, 1:] != stop).cumprod(1).sum(1)  # lengths


def timed(work):
    start = time.process_time()
    out = work()
    return time.process_time() - start, out


def table(title: str, unit: str, spent: dict[str, list[float]], notes: dict[str, str]) -> None:
    first = np.array(next(iter(spent.values())))
    print(f"\n{title}\n{'':52}{unit:>14}{'ratio':>8}")
    for name, seconds in spent.items():
        print(
            f"{name:52}{1e3 * np.median(seconds):14.2f}{np.median(seconds / first):8.2f}  {notes.get(name, '')}"
        )


def compare_generation(model: Generator, args: argparse.Namespace) -> None:
    public = Public(model).eval()
    tokens = torch.randint(0, args.codes, (40,))
    theirs = public(torch.cat([torch.tensor([args.codes + 1]), tokens])[None])[0, 1:]
    ours, _ = model(tokens, torch.tensor([0, 40]))
    print(
        f"largest difference of logits to the public network: {float((ours - theirs).detach().abs().max()):.1e}"
    )

    def draw(n_jets, seed, **options):
        return generate(model, n_jets, seed=seed, batch_size=n_jets, progress=False, **options)[
            1
        ].diff()

    tried = {
        f"ours, {args.batch} jets at a time": lambda seed: draw(args.batch, seed),
        f"ours, {args.batch} jets at a time, bf16": lambda seed: draw(
            args.batch, seed, dtype=torch.bfloat16
        ),
        f"ours, {4 * args.batch} jets at a time": lambda seed: draw(4 * args.batch, seed),
        "public: whole prefix, all logits, all steps": lambda seed: public.generate(args.batch),
    }
    draw(args.batch, 0)
    spent, lengths = {name: [] for name in tried}, {name: [] for name in tried}
    for seed in range(1, args.rounds + 1):
        for name, work in tried.items():
            seconds, found = timed(lambda: work(seed))  # noqa: B023
            spent[name].append(seconds / len(found))
            lengths[name].append(found)
    table(
        f"generation, {args.codes} codes, at most {LENGTH} tokens",
        "CPU ms/jet",
        spent,
        {
            name: f"mean length {torch.cat(found).double().mean():.1f}"
            for name, found in lengths.items()
        },
    )


def compare_training(model: Generator, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(1)
    public = Public(model)
    optimisers = [torch.optim.AdamW(net.parameters(), 1e-3, fused=True) for net in (model, public)]
    stop = args.codes

    def ours(tokens, offsets, bf16):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.loss((tokens, offsets))
        optimisers[0].zero_grad()
        loss.backward()
        optimisers[0].step()

    def theirs(tokens, offsets):
        padded = pad(tokens[:, None], offsets, value=-1)[0][..., 0]
        padded = F.pad(padded, (0, LENGTH - padded.shape[1]), value=-1)
        seen = F.pad(torch.where(padded < 0, stop + 1, padded), (1, 0), value=stop + 1)[:, :-1]
        following = padded.scatter(1, offsets.diff().clamp(max=LENGTH - 1)[:, None], stop)
        logits = public(seen)
        # padding has a class in the public code; here stop stands for it, at the same cost
        loss = F.cross_entropy(
            logits.flatten(0, 1), torch.where(following < 0, stop, following).flatten()
        )
        optimisers[1].zero_grad()
        loss.backward()
        optimisers[1].step()

    tried = {
        "ours": lambda *batch: ours(*batch, False),
        "ours, bf16 autocast": lambda *batch: ours(*batch, True),
        "public: padded to 128, loss on padding": theirs,
    }
    spent = {name: [] for name in tried}
    for number in range(2 * args.rounds + 1):
        lengths = np.clip(rng.gamma(6, args.mean / 6, args.batch), 2, LENGTH - 1).astype(int)
        offsets = F.pad(torch.from_numpy(lengths).cumsum(0), (1, 0))
        tokens = torch.from_numpy(rng.integers(0, args.codes, lengths.sum()))
        for name, work in tried.items():
            seconds, _ = timed(lambda: work(tokens, offsets))  # noqa: B023
            if number:  # the first is to warm up
                spent[name].append(seconds / args.batch)
    table(
        f"training step, {args.batch} jets of {args.mean:.0f} tokens, {args.codes} codes",
        "CPU ms/jet",
        spent,
        {},
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--mean", type=float, default=50)
    parser.add_argument("--codes", type=int, default=8192)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--only", choices=("generation", "training"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", message=".*did not stop")
    torch.manual_seed(0)
    model = Generator(args.codes, n_layers=args.layers)
    # lengths follow a geometric distribution, whose mean the cut at 128 lowers by about a tenth
    with torch.no_grad():
        model.head.bias[-1] += np.log(args.codes / (1.1 * args.mean))
    print(f"dim 256, {args.layers} layers, {args.threads} threads, torch {torch.__version__}")
    if args.only != "training":
        compare_generation(model, args)
    if args.only != "generation":
        compare_training(model, args)


if __name__ == "__main__":
    main()
