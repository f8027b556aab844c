"""What a model must beat, one file a method; methods.py knows them all by name.

Control           static_mean
Linear            connectivity, moments (what is read) -> prepared (rotated once) -> two_steps (choose, fit)
                  with linear, logistic, kernels; tangent, coskewness; link (scores to probabilities)
Deep networks     fc_network (how all are fitted) <- brainnetcnn, bnt, braingnn
Same scans        pretraining (the loop) <- brainlm, brainmass; random_encoder, jepa_scratch; frozen_encoder
                  (how features are read out)
"""
