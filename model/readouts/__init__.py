"""Readouts: from a model's tokens, or from its weights, to predictions of participants.

One loop        fit_network: trains every network here and in baselines/, the same way
"""
