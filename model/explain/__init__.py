"""What does a model look at, and what does a prediction rest on? Values per region and network, checked.

What is read      windows (of each participant)
Attention         attention_columns (column means, memory-bounded) <- attention_maps (received, rollout)
The output        output_network (a window to one number) <- heads (linear), tuned_heads <- prediction
Attribution       attribution (captum, one window) <- maps (of participants)
Is it believable  randomise (weights, from the top), sanity (does the map survive?) <- sanity_run
What comes out    measures (names and units), networks (means, intervals), explanation (all of it) <- tables,
                  figures, findings, report, write
A run             run: run_explain <- options

captum is imported where it is used.
"""
