"""Two processes that share a training learn what one would, read each its share, and go on when one
of them was killed.

All of it is done by one child of these tests, which forks the processes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import test_strategies as audits
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from jetnb import pretraining, training
from jetnb.data import store
from jetnb.inputs import batches
from jetnb.models import across
from jetnb.training import launched
from jetnb.training.loop import _Loss

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or not distributed.is_available(), reason="needs fork and gloo"
)
JETS = 15  # eight for one process, seven for the other


def more(name, **settings):
    case = audits.CASES[name]
    return case._replace(settings={**case.settings, **settings}, strategy=name)


MORE = {  # settings in which a batch as a whole is part of the loss, besides those of the audits
    "joint_embedding, normalised over the batch": more("joint_embedding", normalise="batch"),
    "self_distillation, hidden": more("self_distillation", masked=1.0),
    "self_distillation, centre": more("self_distillation", masked=1.0, balance="centre"),
    "tokens, by gradient": more("tokens", update="gradient"),
}
EVERY = pytest.mark.parametrize("name", [*audits.CASES, *MORE])
OWN = '''
import os, signal
from torch import nn
from jetnb.models import heads
from jetnb.models.particles import FromParticles
from jetnb.models.encoder import DeepSets

class Killed(nn.Module):
    """One of two processes is killed in step 10 of the first start."""
    SETTINGS = {"start": 0}
    hardest = 5
    def __init__(self, start):
        super().__init__()
        self.encoder = FromParticles(DeepSets(5, dim=8))
        self.head = nn.Linear(8, 1)
        self.step = 0
    def loss(self, batch, *, generator=None):
        self.step += 1
        if self.step == 10 and os.environ.get("KILL") == os.environ["RANK"]:
            os.kill(os.getpid(), signal.SIGKILL)
        x, offsets, label = batch
        return (self.head(self.encoder(x, offsets)[1])[:, 0] - label).square().mean()
'''


@contextlib.contextmanager
def nothing_random():
    """Every draw is the same number, or the next one, so that it does not matter who draws it."""
    rand, randn, randint = torch.rand, torch.randn, torch.randint

    def next_ones(high, shape, **options):
        drawn = randint(high, shape, **options)
        return drawn.copy_(torch.arange(drawn.numel()).reshape(drawn.shape) % high)

    with (
        mock.patch.object(torch, "rand", lambda *a, **more: rand(*a, **more).fill_(0.3)),
        mock.patch.object(torch, "randn", lambda *a, **more: randn(*a, **more).fill_(0.6)),
        mock.patch.object(torch, "randint", next_ones),
    ):
        yield


def everything(model, loss):
    gradients = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


def of_one(name):
    """Loss, gradients and buffers after a batch in one process."""
    model, data = audits.batch_of(name)[0], audits.ready(name)[1]
    batch = _double(data[np.arange(JETS)])
    model.train().zero_grad(set_to_none=True)
    with nothing_random():
        loss = model.loss(batch, generator=audits.generator())
    if loss.requires_grad:
        loss.backward()
    return everything(model, loss)


def of_two(name, rank):
    """The same in each of two processes, which average gradients as in a training."""
    model, data = audits.batch_of(name)[0], audits.ready(name)[1]
    model.train().zero_grad(set_to_none=True)
    mine = np.arange(JETS)[rank::2]
    share = 2 * len(mine) / JETS
    learns = any(p.requires_grad for p in model.parameters())
    wrapped = DistributedDataParallel(_Loss(model)) if learns else _Loss(model)
    given = mock.Mock(batch=_double(data[mine]), generator=audits.generator())
    with nothing_random():
        loss = share * wrapped(given)
    if loss.requires_grad:
        loss.backward()
    return everything(model, across.total(loss.detach()) / 2)


def _double(batch):
    x, *others = batch
    return (x.double() if x.is_floating_point() else x, *others)


def one_of_two(rank: int, folder: Path) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    found = {}
    for name in audits.CASES:
        try:
            found[name] = of_two(name, rank)
        except Exception as error:  # noqa: BLE001  the test of this strategy says it
            found[name] = f"{type(error).__name__}: {error}"
            break  # the other process would wait
    torch.save(found, folder / f"{rank}.pt")
    os._exit(0)


def as_torchrun(rank: int, port: int) -> None:
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def started(rank: int, folder: Path, out: str, port: int, kill: str) -> None:
    """What `torchrun` starts, by the command line."""
    from jetnb.__main__ import main

    as_torchrun(rank, port)
    os.environ["KILL"] = kill
    notes, real = folder / f"{out}-read-{rank}", batches.Stored.__getitem__

    def noted(self, indices):
        with notes.open("a") as stream:
            stream.write(" ".join(map(str, indices)) + "\n")
        return real(self, indices)

    batches.Stored.__getitem__ = noted
    command = f"pretrain {folder}/own.py:Killed {folder}/jets --steps 24 --batch-size 9"
    with contextlib.redirect_stdout((folder / f"{out}-said-{rank}").open("w", 1)):
        status = main([*command.split(), "--accelerator", "cpu", "--out", str(folder / out)])
    os._exit(status)


def in_shares(rank: int, folder: Path, port: int) -> None:
    """The same training with whole weights and with shares of them; in `again` with a break."""
    as_torchrun(rank, port)
    step, held = training.loop.Training._step, []

    def look(self, *args):
        held.append(sum(p.numel() for p in self.module.parameters()))
        mine = [getattr(p, "to_local", lambda p=p: p)() for p in self.module.parameters()]
        held.append(sum(p.numel() for p in mine))
        step(self, *args)

    training.loop.Training._step = look
    sample = audits.sample("jetclass")
    for name, watch in (
        ("ddp", None),
        ("fsdp", None),
        ("again", lambda record: record["step"] == 3),
        ("again", None),
    ):
        pretraining.pretrain(
            "jetclr",
            sample,
            folder / name,
            validation=sample[:20],
            seed=1,
            settings={"encoder": audits.SMALL},
            steps=8,
            batch_size=16,
            log_every=1,
            fsdp=name != "ddp",
            watch=watch,
            resume=True,
            accelerator="cpu",
            progress=False,
        )
        (folder / f"{name}-held-{rank}").write_text(repr(held[-2:]))
    settings = more("classify_and_generate", weights={"clean": 0.0, "noised": 0.0, "generate": 1.0})
    pretraining.pretrain(
        "classify_and_generate",
        sample,
        folder / "no-classes",
        seed=1,
        settings=settings.settings,
        steps=2,
        batch_size=16,
        accelerator="cpu",
        progress=False,
    )
    os._exit(0)


def together(target, *args) -> list[int]:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=target, args=(rank, *args)) for rank in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    return [process.exitcode for process in both]


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    audits.CASES.update(MORE)
    torch.save({name: of_one(name) for name in audits.CASES}, folder / "one.pt")
    assert together(one_of_two, folder) == [0, 0]
    (folder / "own.py").write_text(OWN)
    store.write(folder / "jets", [audits.sample("jetclass")])
    codes = [
        together(started, folder, out, port(), kill)
        for out, kill in (("whole", ""), ("killed", "1"), ("killed", ""))
    ]
    (folder / "codes").write_text(repr(codes))
    assert together(in_shares, folder, port()) == [0, 0]


@pytest.fixture(scope="module")
def child(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@EVERY
def test_two_processes_have_the_gradient_of_one(child, name):
    one = torch.load(child / "one.pt")[name]
    for rank in (0, 1):
        two = torch.load(child / f"{rank}.pt").get(name, "an error of a strategy before")
        assert not isinstance(two, str), two
        assert two.keys() == one.keys()
        for part, value in one.items():
            assert value is not None, f"{part} has no gradient: it is not learned"
            torch.testing.assert_close(
                two[part], value, rtol=1e-6, atol=1e-9, msg=lambda text, p=part: f"{p}: {text}"
            )


def test_alone_nothing_is_gathered():
    z = torch.ones(3, 2)
    assert across.gathered(z) is z and across.total(z) is z and across.mean(z, 3) is z


def test_a_killed_process_ends_all_and_the_same_call_goes_on_without_loss(child):
    whole, broken, again = eval((child / "codes").read_text())
    assert whole == again == [0, 0]
    assert broken[1] == -signal.SIGKILL and broken[0] not in (0, None)  # it does not wait for ever
    cards = [pretraining.checkpoints.read_card(child / out) for out in ("whole", "killed")]
    assert [card["trained"]["steps"] for card in cards] == [24, 24]
    assert cards[0]["training"]["n_processes"] == 2
    assert (child / "killed-read-0").read_text().count("\n") > 24  # some steps were done again
    weights = [(child / out / "model.safetensors").read_bytes() for out in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert "finished" in (child / "whole-said-0").read_text()
    assert (child / "whole-said-1").read_text() == ""


def test_shares_of_the_weights_learn_the_same(child):
    whole = load_file(child / "ddp" / "model.safetensors")
    begun = pretraining._make(
        *pretraining.find("jetclr")[1:],
        pretraining.checkpoints.read_card(child / "ddp")["settings"],
        seed=1,
    ).state_dict()
    for name in ("fsdp", "again"):
        found = load_file(child / name / "model.safetensors")
        assert found.keys() == whole.keys()
        for part, value in whole.items():
            apart, moved = found[part] - value, value - begun[part]
            if part.endswith("qkv.bias"):  # that of keys has no gradient but rounding
                apart, moved = (
                    torch.cat([one.chunk(3)[0], one.chunk(3)[2]]) for one in (apart, moved)
                )
            assert apart.norm() <= 1e-2 * moved.norm() + 1e-6, f"{name}: {part}"
        held = [eval((child / f"{name}-held-{rank}").read_text()) for rank in (0, 1)]
        total, mine = zip(*held, strict=True)
        assert sum(mine) == total[0] and max(mine) < 0.6 * total[0]
    assert eval((child / "ddp-held-0").read_text())[0] == total[0]
    card = pretraining.checkpoints.read_card(child / "again")
    assert card["trained"]["steps"] == 8
    encoder, _ = pretraining.load(child / "fsdp")
    assert not hasattr(next(encoder.parameters()), "to_local")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"path": None}, "no path"),
        ({"measure": lambda model: {}}, "measure"),
        ({"precision": "16-mixed"}, "16-mixed"),
    ],
)
def test_what_shares_cannot_do_is_said(options, said, tmp_path):
    model, data = audits.made("jetclr")
    with pytest.raises(ValueError, match=f"fsdp does not go with .*{said}.*leave one"):
        training.fit(
            model, data, steps=1, seed=1, fsdp=True, **{"path": tmp_path / "never", **options}
        )


def test_weights_that_the_loss_leaves_out_stop_nobody(child):
    card = pretraining.checkpoints.read_card(child / "no-classes")
    assert card["trained"]["steps"] == 2 and card["training"]["n_processes"] == 2


def test_each_process_reads_its_share(child):
    reads = [
        [
            np.array(line.split(), int)
            for line in (child / f"whole-read-{rank}").read_text().splitlines()
        ][-24:]
        for rank in (0, 1)
    ]
    epochs = [batches.schedule(64, 9, seed=1, epoch=epoch) for epoch in range(3)]
    for step, (one, two) in enumerate(zip(*reads, strict=True)):
        batch = epochs[step // 8][step % 8]
        assert one.tolist() == batch[0::2].tolist() and two.tolist() == batch[1::2].tolist()


@pytest.mark.parametrize(
    "environment, found, rank",
    [
        ({}, None, 0),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None, 0),  # a notebook in an allocation
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1"}, None, 0),
        (
            {"SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5"},
            (4, 2),
            5,
        ),
        (
            {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "3", "RANK": "4"},
            (3, 2),
            4,
        ),
    ],
)
def test_who_started_how_many(monkeypatch, environment, found, rank):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launched.processes() == found and launched.rank() == rank


if __name__ == "__main__":
    main(Path(sys.argv[1]))
