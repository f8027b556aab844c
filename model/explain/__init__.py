"""What does a model look at, and what does a prediction rest on? Values per region and network, checked.

What is read      windows (of each participant)
Attention         attention_columns (column means, memory-bounded) <- attention_maps (received, rollout)
Attribution       prediction_head (cross-fitted, or a network) <- attribution (captum)
Is it believable  randomise (weights, from the top) <- sanity (does the map survive?)
What comes out    networks (means, intervals), measures (names and units), tables, figures, report
A run             run: run_explain

captum is imported where it is used.
"""
