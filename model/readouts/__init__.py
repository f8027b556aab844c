"""Readouts: from a model's tokens, or from its weights, to predictions of participants.

The model         load: MODEL of the commands, released checkpoints too; suits: same atlas, long enough
What it reads     model_scaling: series as its training data were; windows: samples, and their tokens
Frozen            pooling: tokens to a vector, six ways, for `embed` and linear probes; released_probe (batch
                  norm, LARS), attentive_probe (a learned query)
Trained on        finetuning <- layer_decay (rates by layer), lora (low-rank changes)
One loop          fit_network <- fit_settings: trains every network here and in baselines/ the same way
"""
