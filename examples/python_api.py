"""The whole way in Python, on a folder that bjepa-preprocess wrote and a run that bjepa-train wrote.

    python examples/python_api.py demo/shards demo/run

(`demo` being what `bjepa-demo demo` leaves behind.)
"""

import sys

import numpy as np

from bjepa.gradients import align_gradients, compute_affinity, diffusion_map, functional_connectivity
from bjepa.model import Embedder, load_model
from bjepa.preproc import ShardReader


def main(output: str, run: str) -> None:
    """Read the shards, make a gradient atlas by hand, compare it with the model's, embed every series."""
    reader = ShardReader(output)
    n_scans = len(reader.scans["scan_id"])
    print(f"{len(reader)} series of {n_scans} scans, {reader.n_rois} regions ({reader.atlas})")
    first = reader[0]  # (n_frames, n_rois) float32, scaled
    print(
        f"first series: {first.shape}, in the scan's own units around {np.median(reader.unscale(first)):.0f}"
    )

    fc = functional_connectivity(list(reader))  # (n_rois, n_rois), mean of Fisher z
    affinity = compute_affinity(fc, kernel="normalized_angle", sparsity=0.9)
    atlas = diffusion_map(affinity, n_components=10, alpha=0.5, diffusion_time=0)
    print(f"eigenvalues: {np.round(atlas.eigenvalues[:5], 3)}, largest residual {atlas.residuals.max():.1e}")

    model = load_model(run)
    trained_on = model.gradients[:, :10].numpy()  # the gradients the model was given
    aligned = align_gradients(atlas.gradients, trained_on, method="procrustes")
    r = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(aligned.T[:3], trained_on.T[:3], strict=True)]
    print(f"gradients 1-3 against those of the run, |r| after Procrustes: {np.round(r, 3)}")

    embedding = Embedder(model).fit_transform([reader[i] for i in range(4)])
    print(f"embedding of the first four series: {embedding.shape}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
