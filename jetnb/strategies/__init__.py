"""Pretraining strategies, one module each: an `nn.Module` with `loss(batch)`; the loop is
`training.fit`.
"""
