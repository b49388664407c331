"""What a notebook teaches, as comparisons that its `result` at ci scale must fulfil.

References guard numbers, within tolerances that let a lesson pass into its opposite; these do not.
Each is the name of the lesson and a function of `result`.
"""

from __future__ import annotations


def _above(result, table, higher, lower, by):
    return result[table][higher] > result[table][lower] + by


LESSONS = {
    "04_tokenize_jets": {
        "more codes place constituents more precisely": lambda r: (
            r["direction_k_means"] == sorted(r["direction_k_means"], reverse=True)
            and r["direction"]["k-means, 4,096"] < r["direction"]["k-means, 2,048"]
        ),
        "drawing a constituent of the cell takes bias from the mass": lambda r: (
            abs(r["mass_bias"]["k-means, 4,096, drawn"]) < abs(r["mass_bias"]["k-means, 4,096"])
        ),
    },
    "05_generative_pretraining": {
        "a trained generator beats frequencies of tokens by far": lambda r: (
            r["guess"]["shipped"] < r["guess"]["frequencies"] - 2
        ),
        "trees tell its jets from the truth less well than jets of frequencies": lambda r: (
            r["auc_of_trees"]["k-means"] < r["auc_of_trees"]["frequencies"] - 0.2
        ),
        "no token sees those after it": lambda r: r["leak"] == 0,
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
}
