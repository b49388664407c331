"""Embeddings follow the order of the data, maps keep neighbours and repeat, and k-NN measures what
is there.
"""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from sklearn.manifold import trustworthiness
from sklearn.neighbors import KNeighborsClassifier

from jetnb import latent, plots
from jetnb.models import encoder

pytestmark = pytest.mark.usefixtures("one_thread")


class Data:
    """Packed jets in memory: what `embed` needs of the data of a training."""

    def __init__(self, n_jets=37, seed=0):
        rng = np.random.default_rng(seed)
        self.lengths = rng.integers(1, 9, n_jets)
        self.jets = [rng.normal(size=(n, 4)).astype(np.float32) for n in self.lengths]

    def __len__(self):
        return len(self.jets)

    def __getitem__(self, indices):
        chosen = [self.jets[i] for i in indices]
        offsets = np.concatenate([[0], np.cumsum([len(each) for each in chosen])])
        return (
            torch.from_numpy(np.concatenate(chosen)),
            torch.from_numpy(offsets),
            torch.zeros(len(chosen)),
        )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return encoder.Transformer(4, dim=16, n_layers=1, n_heads=2, dropout=0.5)


@pytest.fixture(scope="module")
def clusters():
    """Four groups in 12 dimensions: vectors (400, 12), labels (400,)."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 4, 400)
    return (rng.normal(size=(400, 12)) + 4 * rng.normal(size=(4, 12))[label]).astype(
        np.float32
    ), label


@pytest.mark.parametrize("batch_size", [1, 10, 37, 512])
def test_embed_is_in_order_and_does_not_depend_on_the_batch(model, batch_size):
    data = Data()
    z = latent.embed(model, data, batch_size=batch_size)
    assert z.dtype == np.float32 and z.shape == (37, 16)
    model.eval()
    with torch.no_grad():
        one = torch.cat([model(*data[[i]][:2])[1] for i in range(37)])
    np.testing.assert_allclose(z, one, atol=1e-5)


def test_perplexity_is_an_argument(clusters):
    z, _ = clusters
    maps = {
        value: latent.project(z[:60], "tsne", seed=1, perplexity=value) for value in (None, 5, 15)
    }
    np.testing.assert_array_equal(maps[None], maps[15])
    assert not np.allclose(maps[5], maps[15])
    for value in (0.5, 60):
        with pytest.raises(ValueError, match="perplexity is .*below the number of jets, 60"):
            latent.project(z[:60], "tsne", seed=1, perplexity=value)


def test_embed_leaves_each_part_in_its_mode_even_if_it_fails(model):
    model.train()
    model.norm.eval()
    latent.embed(model, Data())
    assert model.training and model.blocks[0].dropout.training and not model.norm.training
    with pytest.raises(ZeroDivisionError):
        latent.embed(Failing(model), Data())
    assert model.training and not model.norm.training


class Failing(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, offsets):
        raise ZeroDivisionError


class Means(torch.nn.Module):
    """An encoder without parameters that gives the jets alone; `scale` breaks it."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def forward(self, x, offsets):
        return self.scale * torch.stack([one.mean(0) for one in x.split(offsets.diff().tolist())])


def test_embed_takes_an_encoder_of_jets_alone():
    data = Data()
    np.testing.assert_allclose(
        latent.embed(Means(), data), [jet.mean(axis=0) for jet in data.jets], atol=1e-6
    )


def test_embed_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        latent.embed(Means(), Data(), batch_size=0)
    with pytest.raises(ValueError, match="data has 0 jets"):
        latent.embed(Means(), Data(0))
    with pytest.raises(ValueError, match="z of jet 0 is not finite"):
        latent.embed(Means(float("nan")), Data())


@pytest.mark.parametrize(("method", "start"), [("pca", "pca"), ("tsne", "random"), ("umap", "pca")])
def test_maps_keep_neighbours_and_repeat(clusters, method, start):
    z, _ = clusters
    xy = latent.project(z, method, seed=1, start=start)
    assert xy.shape == (400, 2) and xy.dtype == np.float32
    np.testing.assert_array_equal(xy, latent.project(z, method, seed=1, start=start))
    if method != "pca":
        assert not np.array_equal(xy, latent.project(z, method, seed=2, start=start))
    random = np.random.default_rng(0).normal(size=(400, 2))
    assert trustworthiness(z, xy, n_neighbors=10) > trustworthiness(z, random, n_neighbors=10) + 0.2


def test_pca_is_standardised_and_its_axes_are_in_order(clusters):
    z, _ = clusters
    xy = latent.project(z, seed=0)
    np.testing.assert_allclose(
        xy, latent.project(z * np.geomspace(1e-3, 1e3, 12) + 5, seed=9), atol=0.02
    )
    eigenvalues = np.linalg.eigvalsh(np.corrcoef(z.T))[::-1]
    np.testing.assert_allclose(xy.var(axis=0), eigenvalues[:2], rtol=1e-3)


def test_project_refuses_what_cannot_be(clusters):
    z, _ = clusters
    for wrong, method, text in (
        (z, "lda", "pca, tsne, umap"),
        (z[:5], "pca", "at least 10 jets"),
        (z[:, :1], "pca", "2 features"),
        (np.ones((50, 4)), "tsne", "collapsed"),
        (z[:, 0], "pca", "must be .jets, features"),
        (z * np.nan, "pca", "z of jet 0"),
    ):
        with pytest.raises(ValueError, match=text):
            latent.project(wrong, method, seed=0)
    with pytest.raises(ValueError, match="use pca or random"):
        latent.project(z, "umap", seed=0, start="spectral")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_knn_agrees_with_scikit_learn(clusters, metric):
    z, label = clusters
    found = latent.knn(z[:300], label[:300], z[300:], label[300:], k=7, metric=metric)
    x = (z - z[:300].mean(axis=0)) / z[:300].std(axis=0) if metric == "euclidean" else z
    reference = KNeighborsClassifier(7, metric=metric, algorithm="brute").fit(x[:300], label[:300])
    assert found.accuracy.value == reference.score(x[300:], label[300:]) > 0.9
    assert found.accuracy.low < found.accuracy.value <= found.accuracy.high and found.auc is None
    assert "7 nearest neighbours" in repr(found) and metric in repr(found)


def test_knn_with_cosine_does_not_look_at_lengths():
    """The class is the direction; those to be asked are as long as the known ones of the other
    class.
    """
    rng = np.random.default_rng(8)
    label = rng.integers(0, 2, 600)
    angle = rng.normal(0, 0.3, 600) + label * np.pi / 3
    length = np.where((label == 1) == (np.arange(600) < 300), 10, 1) * rng.uniform(1, 2, 600)
    z = length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    split = z[:300], label[:300], z[300:], label[300:]
    reference = (
        KNeighborsClassifier(7, metric="cosine", algorithm="brute")
        .fit(*split[:2])
        .score(*split[2:])
    )
    plain = KNeighborsClassifier(7, algorithm="brute").fit(*split[:2]).score(*split[2:])
    assert latent.knn(*split, k=7).accuracy.value == pytest.approx(reference)
    assert reference > plain + 0.05


def test_knn_of_two_classes_has_an_auc_which_is_a_half_for_noise():
    rng = np.random.default_rng(5)
    z, y = rng.normal(size=(3000, 6)), rng.choice([2, 7], 3000)
    noise = latent.knn(z[:2000], y[:2000], z[2000:], y[2000:], k=50)
    assert abs(noise.auc.value - 0.5) < 4 * (noise.auc.high - noise.auc.value)
    z[:, 0] += y
    z[:, 1:] += 3  # or the cosine would see the first alone
    assert latent.knn(z[:2000], y[:2000], z[2000:], y[2000:], k=50).auc.value > 0.95


def test_knn_refuses_what_cannot_be(clusters):
    z, label = clusters
    with pytest.raises(
        ValueError, match="k is 0, but must be from 1 to the number of training jets, 400"
    ):
        latent.knn(z, label, z, label, k=0)
    with pytest.raises(ValueError, match="use cosine or euclidean"):
        latent.knn(z, label, z, label, metric="manhattan")
    with pytest.raises(ValueError, match="z_test has shape .400, 11"):
        latent.knn(z, label, z[:, 1:], label)
    with pytest.raises(ValueError, match="y_train .3"):
        latent.knn(z, label[:3], z, label)


def test_the_map_draws_each_jet_in_the_colour_of_its_class(toy_jets):
    jets = toy_jets(60, 1)
    xy = np.random.default_rng(0).normal(size=(60, 2))
    _, ax = plt.subplots()
    plots.latent_map(ax, xy, jets, method="t-SNE")
    points = ax.collections[0]
    drawn = {
        tuple(place): plt.matplotlib.colors.to_hex(colour)
        for place, colour in zip(points.get_offsets(), points.get_facecolors(), strict=True)
    }
    wanted = [plots.look(name, 0)[1] for name in ("QCD", "TTBar")]
    assert [drawn[tuple(place)] for place in xy] == [wanted[i] for i in jets.label]
    assert (ax.get_xlabel(), ax.get_ylabel(), list(ax.get_xticks())) == ("t-SNE 1", "t-SNE 2", [])
    assert ax.get_title(loc="left") == "toy (simulation), 60 jets" and points.get_rasterized()
    assert not np.array_equal(
        points.get_offsets(), xy
    )  # in another order, or the last class hides the first
    plt.close("all")


def test_the_map_draws_a_quantity_with_its_label_and_refuses_others(toy_jets):
    jets = toy_jets(60, 1)
    xy, extra = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60.0)
    figure, ax = plt.subplots()
    plots.latent_map(ax, xy, jets, colour="tau32")
    bar = ax.child_axes[0]
    assert bar.get_ylabel() == r"$\tau_{32}$"
    values = dict(
        zip(map(tuple, ax.collections[0].get_offsets()), ax.collections[0].get_array(), strict=True)
    )
    np.testing.assert_allclose([values[tuple(place)] for place in xy], jets.tau3 / jets.tau2)
    _, ax = plt.subplots()
    plots.latent_map(ax, xy, jets, colour="score", table={"score": extra})
    assert ax.child_axes[0].get_ylabel() == "score"
    for wrong, text in (
        ({"colour": "nothing"}, "no quantity 'nothing'"),
        ({"colour": "score", "table": {"score": extra[1:]}}, "score has shape .59"),
    ):
        with pytest.raises(ValueError, match=text):
            plots.latent_map(ax, xy, jets, **wrong)
    with pytest.raises(ValueError, match="xy has shape .59, 2., but must be .60, 2"):
        plots.latent_map(ax, xy[1:], jets)
    plt.close("all")


def test_unlabelled_jets_are_a_class_of_their_own(toy_jets):
    jets = toy_jets(20, 1)
    jets["label"] = np.where(np.arange(20) < 5, -1, jets.label)
    _, ax = plt.subplots()
    plots.latent_map(ax, np.random.default_rng(0).normal(size=(20, 2)), jets)
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == "unlabelled"
    plt.close("all")
