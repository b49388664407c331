"""Contrast over several processes: loss, gradient and trained weights are those of one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import distributed, multiprocessing

from jetnb import training
from jetnb.inputs import batches
from jetnb.models.encoder import DeepSets
from jetnb.models.particles import FromParticles
from jetnb.strategies.contrastive import JetCLR, gathered, nt_xent

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not distributed.is_available(), reason="needs fork and gloo"
)
SIZES = (4, 3)  # jets of each process: not of one size
SETTINGS = dict(
    steps=6, batch_size=17, seed=3, lr=1e-2, log_every=1, accelerator="cpu", progress=False
)


def halves(particles, offsets, *, generator):
    """Two views without anything random: the jet as it is, and with all pt squared."""
    other = particles.clone()
    other[:, 0] = other[:, 0].square()
    return (particles, offsets), (other, offsets)


def model():
    torch.manual_seed(0)
    return JetCLR(FromParticles(DeepSets(5, dim=16)), hidden=16, output=8, views=halves)


def data(n=51, seed=1):
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(2, 9, (n,), generator=g)
    x = torch.randn(int(counts.sum()), 3, generator=g)
    x[:, 0] = x[:, 0].abs() + 0.5
    return batches.Packed(x, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))


def embeddings():
    return torch.randn(2, sum(SIZES), 5, generator=torch.Generator().manual_seed(2)).double()


def one_of_two(rank: int, folder: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    mine = [z.split(SIZES)[rank].clone().requires_grad_() for z in embeddings()]
    loss = nt_xent(*map(gathered, mine), chunk=2)
    loss.backward()
    torch.save((loss.detach(), [z.grad for z in mine]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def main(folder: str) -> None:
    multiprocessing.spawn(one_of_two, (folder,), nprocs=2)
    two = model()
    done = training.fit(
        two, data(), validation=data(33, 5), devices=2, strategy="ddp_fork", **SETTINGS
    )
    torch.save((two.state_dict(), done.steps, done.epochs), f"{folder}/two.pt")


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=240)
    return folder


def test_loss_and_gradient_are_those_of_one_process(child):
    whole = [z.requires_grad_() for z in embeddings()]
    loss = nt_xent(*whole)
    loss.backward()
    found = [torch.load(child / f"{rank}.pt") for rank in (0, 1)]
    for value, _ in found:
        torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=0)
    for k, z in enumerate(whole):
        # Each of two processes takes the whole loss: their mean is the gradient of one.
        mine = torch.cat([gradients[k] for _, gradients in found]) / 2
        torch.testing.assert_close(mine, z.grad, rtol=1e-9, atol=1e-12)


def test_two_processes_train_as_one_does(child):
    one = model()
    done = training.fit(one, data(), validation=data(33, 5), **SETTINGS)
    weights, steps, epochs = torch.load(child / "two.pt")
    assert [a["loss"] for a in steps] == pytest.approx([a["loss"] for a in done.steps], rel=1e-4)
    assert [a["validation_loss"] for a in epochs] == pytest.approx(
        [a["validation_loss"] for a in done.epochs], rel=1e-4
    )
    begun = model().state_dict()
    for name, value in one.state_dict().items():
        # AdamW makes much of gradients that are nothing but rounding, so not each weight is the same.
        assert (weights[name] - value).norm() <= 0.1 * (value - begun[name]).norm(), name


def test_alone_nothing_is_gathered():
    z = torch.ones(3, 2)
    assert gathered(z) is z


if __name__ == "__main__":
    main(sys.argv[1])
