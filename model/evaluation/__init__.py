"""How good is it? Embeddings, splits, methods under one protocol, and a page that says it plainly.

Who and on what   scan_data (shards or connectomes) -> cohort (participants, target) -> splits; confounds
What a method is  fold: Method, and the Fold it sees; recordings and samples: series as it may read them
Of a model        embedder, embedding_file; model_methods (probe, finetune, …), brainmarks_model
One run           commands (what bjepa-evaluate does) -> evaluate (all methods) -> protocol (one method, split
                  by split) -> metrics, intervals, permutation
What it says      comparison <- paired, calibration, learning_curve, confound_checks, out_of_fold,
                  pretrained_on; findings and quotable (sentences), roles, wording; figures, report;
                  outputs: all files

The methods are in baselines/ (no model given) and readouts/ (of a model).
"""
