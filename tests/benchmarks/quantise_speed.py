"""The vector quantiser against the libraries: a training step, and the search of many vectors;
process CPU seconds.

    python tests/benchmarks/quantise_speed.py [--vectors 4096] [--rounds 3] [--codes 512 8192] [--dims 4 16]
    python tests/benchmarks/quantise_speed.py --million        # 1 M vectors, 8192 codes, and the memory it takes

One thread; all take their turns within each round, the first round is not counted. Latents are
normal, codes are drawn from them, as after k-means. A training step is search, loss, running means
and backward. vector-quantize-pytorch, scikit-learn and faiss take part if they are installed; faiss
and scikit-learn search only.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from jetnb.models.quantise import VectorQuantiser, nearest


def have(name):
    return importlib.util.find_spec(name) is not None


def brute(z, codes, rows=256):
    return torch.cat([torch.cdist(part, codes).argmin(1) for part in z.split(rows)])


def searches(codes):
    ways = {"jetnb": lambda z: nearest(z, codes), "cdist + argmin": lambda z: brute(z, codes)}
    if have("sklearn"):
        from sklearn.metrics import pairwise_distances_argmin

        ways["scikit-learn"] = lambda z: torch.from_numpy(
            pairwise_distances_argmin(z.numpy(), codes.numpy())
        )
    if have("faiss"):
        import faiss

        faiss.omp_set_num_threads(1)

        def flat(z):  # codes change from step to step, so making the index counts
            index = faiss.IndexFlatL2(codes.shape[1])
            index.add(codes.numpy())
            return torch.from_numpy(index.search(z.numpy(), 1)[1][:, 0])

        ways["faiss flat"] = flat
    if have("vector_quantize_pytorch"):
        from vector_quantize_pytorch import VectorQuantize

        model = VectorQuantize(dim=codes.shape[1], codebook_size=len(codes)).eval()
        model.codebook = codes
        ways["vector-quantize-pytorch"] = lambda z: torch.cat(
            [model(part[None])[1][0] for part in z.split(4096)]
        )
    return ways


def trainings(codes):
    ours = {
        update: VectorQuantiser(codes.shape[1], len(codes), update=update)
        for update in ("ema", "gradient")
    }
    for model in ours.values():
        model._put(torch.ones(len(codes), dtype=torch.bool), codes)
    ways = {
        f"jetnb, {update}": lambda z, model=model: (
            lambda q, _, loss: (q.square().sum() + loss).backward()
        )(*model(z))
        for update, model in ours.items()
    }
    if have("vector_quantize_pytorch"):
        from vector_quantize_pytorch import VectorQuantize

        for name, options in (
            ("ema", {}),
            ("learnable", {"learnable_codebook": True, "ema_update": False}),
        ):
            model = VectorQuantize(
                dim=codes.shape[1], codebook_size=len(codes), threshold_ema_dead_code=2, **options
            )
            ways[f"vector-quantize-pytorch, {name}"] = lambda z, model=model: (
                lambda q, _, loss: (q.square().sum() + loss.sum()).backward()
            )(*model(z[None]))
    return ways


def measure(ways, z, rounds):
    seconds = {name: [] for name in ways}
    for r in range(rounds + 1):
        for name, way in ways.items():
            given = z.clone().requires_grad_(z.requires_grad)
            start = time.process_time()
            way(given)
            if r:
                seconds[name].append(time.process_time() - start)
    best = np.array(next(iter(seconds.values())))
    return {
        name: (np.median(own) / len(z) * 1e6, np.median(own / best))
        for name, own in seconds.items()
    }


def table(title, found):
    print(title)
    for name, (each, ratio) in found.items():
        print(f"    {name:36s} {each:8.2f} us per vector   {ratio:6.2f} x")


def million():
    for dim in (4, 16):
        z, codes = torch.randn(1_000_000, dim), torch.randn(8192, dim)
        nearest(z[:1000], codes)
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time(), time.perf_counter()
        nearest(z, codes)
        cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held
        print(
            f"1 M vectors, D={dim}, K=8192: CPU {cpu:.1f} s, wall {wall:.1f} s, peak memory {more / 1024:.0f} MB "
            f"above the {held / 1024:.0f} MB before (tokens take 8 MB, all distances would take 32768 MB)"
        )


def main():
    parser = argparse.ArgumentParser()
    for name, value in (("vectors", 4096), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--codes", type=int, nargs="+", default=[512, 8192])
    parser.add_argument("--dims", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--million", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with threadpool_limits(1):
        if a.million:
            return million()
        for dim in a.dims:
            for n_codes in a.codes:
                z, codes = torch.randn(a.vectors, dim), torch.randn(n_codes, dim)
                ways = searches(codes)
                expected = next(iter(ways.values()))(z)
                for name, way in ways.items():
                    assert (way(z) == expected).double().mean() > 0.999, name
                table(f"search, D={dim}, K={n_codes}", measure(ways, z, a.rounds))
                z = z.clone().requires_grad_()
                table(
                    f"training step, D={dim}, K={n_codes}", measure(trainings(codes), z, a.rounds)
                )


if __name__ == "__main__":
    main()
