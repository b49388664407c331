"""Events packed twice and the heads on them: against plain loops, and against the zero-padded
route.
"""

import copy

import awkward as ak
import numpy as np
import pytest
import torch
from conftest import toy_columns
from torch import nn
from torch.nn import functional as F

import jetnb
import jetnb.jets
from jetnb import inputs, training
from jetnb.inputs import events, tracks
from jetnb.models import adapt, event_head
from jetnb.models.encoder import Transformer
from jetnb.models.event_head import EventClassifier, EventHead, JetTagger
from jetnb.models.particle_transformer import ParticleTransformer

pytestmark = pytest.mark.usefixtures("one_thread")
PROVENANCE = {"sample": "toy", "source": "simulation", "classes": ["QCD_others", "HToBB"]}
SIZES = [2, 1, 4, 3, 2]  # jets of the five events


def toy(sizes=SIZES, seed=0):
    columns, inside, counts = toy_columns(sum(sizes), seed)
    columns["event"] = np.repeat([70, 10, 40, 20, 30][: len(sizes)], sizes)
    columns["event_label"] = columns["event"] // 10 % 2
    columns["resonance_mass"] = np.where(columns["event_label"], 1000.0, 0.0)
    columns["softdrop_mass"] = 0.7 * np.asarray(columns["mass"])
    return jetnb.jets.build(columns, inside, counts, provenance=PROVENANCE)


@pytest.fixture
def data():
    jets = events.group(toy(), n_jets=(1, 5))
    scaler = inputs.Scaler.fit(events.compute(jets).x, events.FEATURES)
    return events.from_jets(jets, scaler=scaler, targets=("event_label",))


def tagger(seed=0, **options):
    torch.manual_seed(seed)
    return JetTagger(Transformer(len(events.FEATURES), dim=32, n_layers=2, n_heads=4), **options)


def classifier(seed=0, *, start=None, **options):
    start = start or tagger(seed)
    torch.manual_seed(seed + 1)
    return EventClassifier(start, **{"hlf": len(events.HLF), "width": 16, **options})


def test_events_are_grouped_by_number_and_their_jets_by_momentum():
    jets = toy()
    shuffled = jets[np.random.default_rng(1).permutation(len(jets))]
    kept = events.group(shuffled, n_jets=(2, 3))
    event, pt = np.asarray(kept.event), np.asarray(kept.pt)
    assert (
        event.tolist() == [20] * 3 + [30] * 2 + [40] * 3 + [70] * 2
    )  # 10 has one jet; of 40 three are kept
    for number in np.unique(event):
        hardest = sorted(np.asarray(jets.pt)[np.asarray(jets.event) == number], reverse=True)[:3]
        assert pt[event == number].tolist() == hardest
    assert kept.attrs["jetnb"]["sample"] == "toy"


def test_a_batch_is_what_a_loop_over_events_and_jets_makes(data):
    jets = events.group(toy(), n_jets=(1, 5))
    chosen = np.array([3, 0, 4])
    x, in_jets, in_events, hlf, label = data[chosen]
    assert (
        in_jets.dtype == in_events.dtype == label.dtype == torch.int64 and x.dtype == torch.float32
    )
    at = 0
    for e, (first, last) in zip(
        chosen, zip(in_events[:-1], in_events[1:], strict=True), strict=True
    ):
        own = np.flatnonzero(np.asarray(jets.event) == np.unique(np.asarray(jets.event))[e])
        assert last - first == len(own)
        assert label[list(chosen).index(e)] == jets.event_label[own[0]]
        for j, row in zip(range(first, last), own, strict=True):
            expected = data.x[data.jets[row] : data.jets[row + 1]]
            np.testing.assert_array_equal(x[in_jets[j] : in_jets[j + 1]], expected)
            np.testing.assert_array_equal(hlf[j], data.hlf[row])
            at += len(expected)
    assert at == len(x)


def test_features_are_the_seventeen_and_significance_is_value_over_error():
    jets = toy()
    x, offsets = events.compute(jets)
    assert x.shape == (offsets[-1], 17) and len(events.FEATURES) == 17
    one = jets.constituents[2]
    for name, value in (("d0_significance", "d0"), ("dz_significance", "dz")):
        column = x[offsets[2] : offsets[3], events.FEATURES.index(name)]
        for got, v, e, track in zip(
            column, one[value], one[f"{value}_error"], one.has_track, strict=True
        ):
            assert got == pytest.approx(np.arcsinh(v / e) if track and e > 0 else 0, rel=1e-5)
    without = ak.with_field(jets, ak.without_field(jets.constituents, "d0_error"), "constituents")
    with pytest.raises(ValueError, match="d0_significance.*d0_error"):
        events.compute(without)


def test_significance_survives_an_error_of_zero():
    jets = toy()
    zero = ak.with_field(jets.constituents, ak.zeros_like(jets.constituents.d0_error), "d0_error")
    x, _ = events.compute(ak.with_field(jets, zero, "constituents"), ["d0_significance", "deta"])
    assert (x[:, 0] == 0).all() and np.isfinite(x).all()


def test_high_level_features_do_not_notice_a_rotation_of_the_event():
    jets = events.group(toy())
    starts = np.flatnonzero(np.append(True, np.diff(np.asarray(jets.event)) != 0))
    counts = np.diff(np.append(starts, len(jets)))
    plain = events.hlf(jets, starts, counts)
    phi = (np.asarray(jets.phi, float) + 2.5 + np.pi) % (2 * np.pi) - np.pi
    turned = events.hlf(ak.with_field(jets, phi, "phi"), starts, counts)
    np.testing.assert_allclose(turned, plain, atol=1e-5)
    assert plain.shape == (len(jets), len(events.HLF)) and (plain[starts, 2] == 1).all()
    np.testing.assert_allclose(
        plain[:, 0], np.log(np.asarray(jets.pt, float) / 500), rtol=1e-5, atol=1e-6
    )


def test_hardest_keeps_the_first_constituents(data):
    jets = events.group(toy(), n_jets=(1, 5))
    few = events.from_jets(jets, hardest=7)
    assert (
        np.diff(few.jets).tolist() == np.minimum(ak.to_numpy(ak.num(jets.constituents)), 7).tolist()
    )
    np.testing.assert_array_equal(few.x[:7], events.compute(jets).x[:7])


@pytest.mark.parametrize(
    ("problem", "match"),
    [
        (lambda j: events.group(ak.without_field(j, "event")), "no field 'event'"),
        (lambda j: events.group(j, n_jets=(6, 9)), "no event of 12 jets has 6"),
        (lambda j: events.group(j, n_jets=(0, 5)), r"n_jets is \(0, 5\)"),
        (lambda j: events.from_jets(j[[0, 2, 1]]), "events.group"),
        (lambda j: events.from_jets(j, targets=("mass_of_x",)), "'mass_of_x' is no field"),
        (lambda j: events.from_jets(j, targets=("pt",)), "pt of event 70 is .* share it"),
        (
            lambda j: events.from_jets(ak.without_field(j, "softdrop_mass")),
            "'softdrop_mass'.*substructure",
        ),
        (
            lambda j: events.Events(np.zeros((4, 2)), [0, 2, 4], [0, 3], np.zeros((2, 1))),
            "do not fit 2 jets",
        ),
        (
            lambda j: events.Events(np.zeros((4, 2)), [0, 2, 4], [0, 2], np.zeros(2)),
            "hlf is float32 of shape",
        ),
        (
            lambda j: events.Events(np.zeros((4, 2)), [0, 2, 4], [0, 2], np.zeros((2, 1)), [1, 0]),
            "there are 1 events",
        ),
    ],
)
def test_what_does_not_fit_is_refused(problem, match):
    with pytest.raises(ValueError, match=match):
        problem(toy())


def padded(model, data, indices):
    """The same logits by the zero-padded route, (events, 5, most, F): attention, means and sums
    under masks.
    """
    x, in_jets, in_events, hlf, *_ = data[indices]
    lengths, n = in_jets.diff(), in_events.diff()
    most, n_events, n_jets = int(lengths.max()), len(n), int(n.max())
    dense, mask = (
        torch.zeros(n_events, n_jets, most, x.shape[1]),
        torch.zeros(n_events, n_jets, most, dtype=bool),
    )
    high, real = (
        torch.zeros(n_events, n_jets, hlf.shape[1]),
        torch.zeros(n_events, n_jets, dtype=bool),
    )
    for e in range(n_events):
        for place, j in enumerate(range(in_events[e], in_events[e + 1])):
            dense[e, place, : lengths[j]], mask[e, place, : lengths[j]] = (
                x[in_jets[j] : in_jets[j + 1]],
                True,
            )
            high[e, place], real[e, place] = hlf[j], True
    encoder, h = model.tagger.encoder, dense.flatten(0, 1)  # (events * 5, most, F)
    allowed = mask.flatten(0, 1)
    h = F.linear(h, encoder.embed.weight, encoder.embed.bias)
    for block in encoder.blocks:
        qkv = block.qkv(block.attention_norm(h).flatten(0, 1)).view(
            *h.shape[:2], 3, block.n_heads, -1
        )
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        score = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(
            ~allowed[:, None, None], -1e9
        )
        part = (score.softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = h + block.project(part.flatten(0, 1)).view_as(h)
        h = h + block.contract(F.gelu(block.expand(block.mlp_norm(h).flatten(0, 1)))).view_as(h)
    jets = (encoder.norm(h) * allowed[..., None]).sum(1) / allowed.sum(1).clamp(min=1)[:, None]
    latent = model.tagger.reduce(jets)
    z = latent if model.representation == "latent" else model.tagger.score(latent)
    z = torch.cat([z, high.flatten(0, 1)], 1) if model.head.hlf else z
    summed = (model.head.jet(z).view(n_events, n_jets, -1) * real[..., None]).sum(1)
    return model.head.event(summed)[:, 0]


@pytest.mark.parametrize("representation", ["score", "latent"])
@pytest.mark.parametrize("hlf", [0, len(events.HLF)])
def test_packed_twice_is_the_zero_padded_route(data, representation, hlf):
    model = classifier(representation=representation, hlf=hlf).eval()
    indices = np.array([4, 2, 0, 1, 3])
    x, in_jets, in_events, high, label = data[indices]
    torch.testing.assert_close(
        model(x, in_jets, in_events, high), padded(model, data, indices), atol=2e-5, rtol=1e-4
    )
    model.loss(data[indices]).backward()
    own = {
        name: value.grad.clone()
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    model.zero_grad()
    F.binary_cross_entropy_with_logits(padded(model, data, indices), label.float()).backward()
    for name, value in model.named_parameters():
        if name in own:
            torch.testing.assert_close(own[name], value.grad, atol=1e-5, rtol=1e-3, msg=name)
    assert (
        "tagger.encoder.embed.weight" in own and own["tagger.encoder.embed.weight"].abs().max() > 0
    )


def test_events_do_not_see_each_other_and_order_does_not_matter(data):
    model = classifier().eval()
    together = model(*data[np.arange(5)][:4])
    for e in range(5):
        torch.testing.assert_close(
            model(*data[np.array([e])][:4])[0], together[e], atol=1e-5, rtol=1e-4
        )
    backwards = events.Events(*reverse(data), *(target[::-1] for target in data.targets))
    torch.testing.assert_close(
        model(*backwards[np.arange(5)][:4]), together.flip(0), atol=1e-5, rtol=1e-4
    )
    first = together[:1]
    assert (together - first).abs().max() > 1e-3  # or the above would prove nothing


def reverse(data):
    """Constituents of each jet, jets of each event, and events, all in the opposite order."""
    return (
        data.x[::-1],
        data.jets[-1] - data.jets[::-1],
        data.events[-1] - data.events[::-1],
        data.hlf[::-1],
    )


def test_frozen_stays_frozen_and_is_what_embed_makes(data):
    model = classifier(frozen=True, representation="score")
    before = copy.deepcopy(model.tagger.state_dict())
    assert not model.tagger.training and model.head.training
    training.fit(model, data, steps=5, batch_size=3, lr=1e-2, seed=1, progress=False)
    for name, value in model.tagger.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=0, rtol=0)
    z = event_head.embed(model.tagger, data, representation="score")
    assert z.x.shape == (len(data.jets) - 1, 1) and len(z) == len(data)
    np.testing.assert_allclose(
        event_head.score(model.head, z), event_head.score(model, data), atol=1e-5
    )
    np.testing.assert_allclose(
        event_head.score(model, data, batch_size=2), event_head.score(model, data), atol=1e-5
    )


def test_a_head_learns_from_what_embed_made(data):
    z = event_head.embed(tagger(), data)
    torch.manual_seed(0)
    head = EventHead(32, hlf=len(events.HLF), width=16)
    history = training.fit(head, z, steps=60, batch_size=5, lr=1e-2, seed=1, progress=False)
    assert history.steps[-1]["loss"] < 0.2 * history.steps[0]["loss"]


def test_finetuning_moves_the_tagger(data):
    model = classifier()
    before = model.tagger.encoder.embed.weight.detach().clone()
    training.fit(model, data, steps=3, batch_size=3, lr=1e-2, seed=1, progress=False)
    assert (model.tagger.encoder.embed.weight - before).abs().max() > 1e-4


def part(seed=0):
    torch.manual_seed(seed)
    scaler = inputs.Scaler(events.FEATURES, (0.0,) * 17, (1.0,) * 17)
    return JetTagger(
        ParticleTransformer(
            17,
            embed_dims=(32,),
            pair_dims=(8,),
            n_layers=1,
            n_class_layers=1,
            n_heads=4,
            dropout=0.0,
            scaler=scaler,
        )
    )


@pytest.mark.parametrize("make", [tagger, part])
def test_low_rank_starts_equal_and_learns_only_what_was_added(data, make):
    start = make().eval()
    model = classifier(start=copy.deepcopy(start)).eval()
    expected = model(*data[np.arange(5)][:4])
    adapt.add_low_rank(model.tagger, rank=2)
    torch.testing.assert_close(model(*data[np.arange(5)][:4]), expected, atol=1e-6, rtol=1e-5)
    learning = [name for name, value in model.tagger.named_parameters() if value.requires_grad]
    assert learning and all(name.endswith((".up", ".down")) for name in learning)
    training.fit(model, data, steps=4, batch_size=5, lr=1e-2, seed=1, progress=False)
    original = {
        name.replace("parametrizations.weight.original", "weight"): value
        for name, value in model.tagger.state_dict().items()
        if not name.endswith((".up", ".down"))
    }
    for name, value in start.named_parameters():
        torch.testing.assert_close(original[name], value.detach(), atol=0, rtol=0)
    assert (model(*data[np.arange(5)][:4]) - expected).abs().max() > 1e-3
    with pytest.raises(ValueError, match="low rank already"):
        adapt.add_low_rank(model.tagger)


def test_low_rank_adds_few_weights():
    start = adapt.add_low_rank(tagger(), rank=1)
    layers = [module for module in start.modules() if isinstance(module, nn.Linear)]
    learning = sum(value.numel() for value in start.parameters() if value.requires_grad)
    assert learning == sum(layer.in_features + layer.out_features for layer in layers)
    with pytest.raises(ValueError, match="rank must be"):
        adapt.add_low_rank(tagger(), rank=0)


def test_a_tagger_learns_and_can_be_narrow(data):
    label = np.arange(len(data.jets) - 1) % 2
    narrow = tagger(dim=3)
    history = training.fit(
        narrow, data.by_jet(label), steps=150, batch_size=12, lr=5e-3, seed=1, progress=False
    )
    latent, score = narrow(*data.by_jet(label)[np.arange(12)][:2])
    assert latent.shape == (12, 3) and score.shape == (12,)
    assert history.steps[-1]["loss"] < 0.5 * history.steps[0]["loss"]


def test_weight_of_signal_is_that_of_so_many_copies(data):
    label = torch.tensor([1, 0, 0])
    batch = (*data[np.arange(3)][:4], label)
    model = classifier(signal_weight=3.0).eval()
    logit = model(*batch[:4])
    each = F.binary_cross_entropy_with_logits(logit, label.float(), reduction="none")
    torch.testing.assert_close(model.loss(batch), (3 * each[0] + each[1] + each[2]) / 3)


def test_labels_and_sizes_that_do_not_fit_are_refused(data):
    model, batch = classifier(), data[np.arange(3)]
    with pytest.raises(ValueError, match="label runs from -1"):
        model.loss((*batch[:4], torch.tensor([-1, 0, 1])))
    with pytest.raises(ValueError, match="label has shape"):
        model.loss((*batch[:4], torch.zeros(2)))
    with pytest.raises(ValueError, match="representation 'both'"):
        classifier(representation="both")
    with pytest.raises(ValueError, match="head was made for"):
        EventHead(3)(torch.zeros(2, 4), torch.tensor([0, 2]), torch.zeros(2, 1))


def test_events_of_the_shipped_sample_keep_label_and_mass():
    jets = events.group(jetnb.load("hh4b")[:2000])
    data = events.from_jets(jets, targets=("event_label", "resonance_mass"))
    label, mass = data.targets
    assert set(label) <= {0, 1} and ((mass > 0) == (label == 1)).all()
    assert np.diff(data.events).min() >= 2 and np.diff(data.events).max() <= 5


def test_an_event_is_drawn_with_its_jets_and_displaced_tracks():
    import matplotlib.pyplot as plt

    jets = events.group(toy(), n_jets=(1, 5))
    one = jets[np.asarray(jets.event) == 40]
    ax = events.draw(plt.figure().add_subplot(), one)
    rings = sum(len(drawn.get_offsets()) for drawn in ax.collections[1::2])
    parts = ak.flatten(one.constituents)
    assert len(ax.patches) == len(one) == len(ax.get_legend().get_texts())
    assert rings == int(ak.sum((parts.d0_error > 0) & (abs(parts.d0) > 5 * parts.d0_error)))
    plt.close("all")


def test_displaced_tracks_are_counted_by_significance():
    jets = toy()
    expected = [
        sum(
            e > 0 and abs(d) > 3 * e
            for d, e in zip(jet.constituents.d0, jet.constituents.d0_error, strict=True)
        )
        for jet in jets
    ]
    assert tracks.count_displaced(jets).tolist() == expected
    first = ak.with_field(jets, jets.constituents[:, :2], "constituents")
    assert (
        tracks.count_displaced(jets, hardest=2).tolist()
        == tracks.count_displaced(first).tolist()
        != expected
    )
    with pytest.raises(ValueError, match="no field 'd0_error'"):
        tracks.count_displaced(ak.with_field(jets, jets.constituents[["pt", "d0"]], "constituents"))
