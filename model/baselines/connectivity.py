"""Functional connectivity as features: the upper triangle of each scan's Fisher-z matrix."""

import numpy as np
from numpy.typing import NDArray

from bjepa.gradients.connectivity.scan_maps import scan_connectivity_of_shards
from bjepa.model.evaluation.scan_data import ScanData, participant_features


def fc_edges(data: ScanData) -> NDArray[np.float32]:
    """Edges (n_scans, R (R - 1) / 2) float32, row by row above the diagonal; phases of a scan are averaged.

    NaN at edges of regions that are missing in a scan. Connectomes that were given are returned as they are.
    """
    if data.edges is not None:
        return data.edges
    assert data.reader is not None
    n_rois = data.reader.n_rois
    upper = np.triu_indices(n_rois, k=1)
    edges = np.empty((len(data.participant_id), len(upper[0])), dtype=np.float32)
    for scan, z in enumerate(scan_connectivity_of_shards(data.reader)):
        edges[scan] = z[upper]
    return edges


# one object for all methods, so that an evaluation computes the connectomes once
participant_edges = participant_features(fc_edges)
