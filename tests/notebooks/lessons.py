"""What a notebook teaches, as comparisons that its `result` at ci scale must fulfil.

References guard numbers, within tolerances that let a lesson pass into its opposite; these do not.
Each is the name of the lesson and a function of `result`.
"""

from __future__ import annotations

import itertools

import numpy as np


def _above(result, table, higher, lower, by):
    return result[table][higher] > result[table][lower] + by


def _rises(values):
    return all(low < high for low, high in itertools.pairwise(values))


LESSONS = {
    "04_tokenize_jets": {
        "more codes place constituents more precisely": lambda r: (
            r["direction"]["k-means, 4,096"] < r["direction"]["k-means, 2,048"]
        ),
        "drawing a constituent of the cell takes bias from the mass": lambda r: (
            abs(r["mass_bias"]["k-means, 4,096, drawn"]) < abs(r["mass_bias"]["k-means, 4,096"])
        ),
    },
    "04b_how_many_tokens": {
        "more codes place constituents more precisely": lambda r: _rises(
            reversed(r["direction_k_means"])
        ),
        "a code of a large codebook is repeated less often": lambda r: _above(
            r, "repeated_tokens", "VQ-VAE", "k-means", 0.005
        ),
    },
    "05_generative_pretraining": {
        "a trained generator beats frequencies of tokens by far": lambda r: (
            r["guess"]["shipped"] < r["guess"]["frequencies"] - 2
        ),
        "no token sees those after it": lambda r: r["leak"] == 0,
    },
    "05b_judge_generated_jets": {
        "trees tell its jets from the truth less well than jets of frequencies": lambda r: (
            r["auc_of_trees"]["k-means"] < r["auc_of_trees"]["frequencies"] - 0.2
        ),
        "the test for copies finds copies": lambda r: (
            r["nearer_to_training"]["perfect copies"] > 0.75
        ),
    },
    "06_generative_finetuning": {
        "after a few steps a pretrained generator is far ahead": lambda r: (
            r["loss"]["pretrained"] < r["loss"]["scratch"] - 2
        ),
        "finetuning lowers the loss": lambda r: (
            r["loss_turned"]["pretrained"] < r["loss"]["pretrained"]
        ),
    },
    "08_finetune_top_tagging": {
        "a pretrained encoder is ahead of a random one": lambda r: (
            _above(r, "auc", "frozen, 50", "random, 50", 0.02)
            and _above(r, "auc", "frozen, 150", "random, 150", 0.02)
        ),
        "and of scratch where labels are few": lambda r: _above(
            r, "auc", "finetuned, 50", "scratch, 50", 0.03
        ),
        "a cut without labels beats scratch": lambda r: (
            r["auc_mass_and_tau32"] > r["auc"]["scratch, 150"] + 0.02
        ),
    },
    "09_latent_space": {
        "neighbours in the pretrained space are of one class more often": lambda r: _above(
            r, "knn", "pretrained", "random", 0.03
        ),
        "classes that were taught are apart": lambda r: _above(
            r, "knn_ten_classes", "supervised", "pretrained", 0.1
        ),
    },
    "11_masked_particles": {
        "an encoder that drew hidden particles knows more of ten classes than a random one": lambda r: (
            all(
                r["accuracy"]["checkpoint"][f"ten classes, {reading}"]
                > r["accuracy"]["random, its size"][f"ten classes, {reading}"] + 0.02
                for reading in ("neighbours", "probe")
            )
        ),
        "and tells tops with few labels": lambda r: (
            min(np.subtract(r["auc"]["frozen"], r["auc"]["random"])) > 0.01
        ),
        "nine features by hand do it better": lambda r: (
            min(np.subtract(r["auc"]["plane, nine features"], r["auc"]["frozen"])) > 0.01
        ),
        "what is hidden is not seen": lambda r: r["same_bits"] is True,
    },
    "12_joint_embedding": {
        "the context does not see the targets, and in the leak it does": lambda r: (
            r["leak"]["visible"] == 0 and r["leak"]["jet"] > 1e-4
        ),
        "collapse is in the monitors": lambda r: (
            r["last_epoch"]["collapse"]["variance"] < 0.75 * r["last_epoch"]["sound"]["variance"]
            and r["last_epoch"]["collapse"]["cosine"] > r["last_epoch"]["sound"]["cosine"]
        ),
        "a prediction knows the momentum of what is hidden, and the place alone does not": lambda r: (
            _above(r, "momentum_correlation", "true target", "prediction", 0.05)
            and _above(r, "momentum_correlation", "prediction", "place", 0.05)
        ),
    },
    "13_resimulation": {
        "a jet of another shower is nearest to its own parton, if pretraining had such pairs": lambda r: (
            r["found_again"]["all"]
            > max(r["found_again"]["JetCLR"], r["found_again"]["random"]) + 0.2
        ),
        "another shower loses pairs, the detector alone hardly any": lambda r: (
            r["kept"]["detector"] > r["kept"]["seed"] + 0.05
        ),
    },
    "14_labels_and_many_tasks": {
        "losses by hand are those of the package": lambda r: max(r["difference_by_hand"]) < 1e-5,
        "features written by hand beat a network that saw a few jets": lambda r: _above(
            r, "auc_probe", "eight features", "random", 0.03
        ),
        "the test for copies finds copies": lambda r: r["nearer"]["copies"] > 0.75,
    },
    "15_joint_analysis_hh4b": {
        "counts of displaced tracks tell what momenta do not": lambda r: (
            _above(r, "auc_jets", "displaced tracks", "pt alone", 0.005)
            and _above(r, "auc_events", "trees, HLF + counts", "trees, HLF", 0.02)
        ),
    },
    "16_anomaly_detection": {
        "the distance to neighbours by hand is that of the package": lambda r: (
            abs(r["knn_by_hand_over_package"] - 1) < 1e-9
        ),
        "most signal is stranger than most background, and yet the cut does harm": lambda r: (
            r["auc"]["six numbers"]["WToQQ"] > 0.6 > r["improvement"]["six numbers"]["WToQQ"]
        ),
        "a count of displaced tracks uncovers four b quarks": lambda r: (
            r["improvement"]["seven numbers"]["HToAA4B"]
            > r["improvement"]["six numbers"]["HToAA4B"] + 2
        ),
        "what is strange is heavy": lambda r: (
            r["moved"]["six numbers"][0] > 3 * r["moved"]["six numbers"][1]
        ),
        "two mixtures find tops without labels": lambda r: (
            _above(
                r,
                "two_mixtures",
                "six numbers, trees, TTBar, 40",
                "six numbers, trees, TTBar, 0",
                0.5,
            )
            and r["two_mixtures"]["six numbers, TTBar, 40"] > 1.5
        ),
        "what to expect in all of the data follows from what was counted": lambda r: all(
            abs(value * r["in_all"]["jets"] / 178e6 - count) < 1e-6
            for count, value, *_ in (r["in_all"]["tops"], r["in_all"]["above"])
        ),
    },
    "17_the_league": {
        "eight numbers by hand are ahead of networks that saw a few jets": lambda r: (
            _above(r["accuracy"], "finetuned", "eight numbers", "scratch", 0.01)
            and _above(r["accuracy"], "linear", "eight numbers", "next token", 0.1)
        ),
        "a step with two views is more computing than one with labels": lambda r: (
            r["gflop"]["JetCLR"] > 1.8 * r["gflop"]["ten classes"]
        ),
        "ranks and pools by hand are those of the package": lambda r: (
            max(r["difference_by_hand"]) < 1e-5
        ),
    },
    "18_the_long_run": {
        "a network learns more from more jets": lambda r: (
            min(
                r["loss"][f"{size}, 150, 300"] - r["loss"][f"{size}, 600, 1200"]
                for size in r["weights"]
            )
            > 0.02
        ),
        "a killed worker changes nothing": lambda r: r["same_after_death"] is True,
        "a larger encoder takes longer": lambda r: _rises(r["gpu_hours"]),
    },
}
