"""Simulated jets: Pythia 8 -> detector response -> PUPPI -> FastJet. Needs the optional extra
``jetnb[sim]``.
"""
