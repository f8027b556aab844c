"""The JEPA: tokens, masks, training, and the evaluation of what was learnt."""
