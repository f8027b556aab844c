#!/usr/bin/env bash
# From the scanner's files to a trained model: a raw BIDS folder, shards, gradients, two epochs of training.
#
#     pip install 'bjepa[raw]'
#     bash examples/raw_bids.sh OUT            # about 5 minutes on two cores; SLOPPY=1: under 2, for a test
#
# The two participants are simulated (nobody was scanned) so that it runs anywhere, offline. With your own data
# leave step 1 out, give your folder as RAW, and leave --atlas, --atlas-labels and --template out of step 2: the
# default atlas has the 450 regions of Brain-JEPA, the default template is TemplateFlow's.
set -euo pipefail
out=${1:?usage: bash examples/raw_bids.sh OUT}
raw=$out/raw
mkdir -p "$out"

# 1. A raw BIDS folder: T1w and BOLD in the scanner's space, each participant with its own head and motion.
test -f "$raw/dataset_description.json" || python - "$out" <<'PY'
import sys
from pathlib import Path

import nibabel as nib

from bjepa.preproc.demo.atlas import build_demo_atlas, write_demo_atlas
from bjepa.preproc.demo.raw_cohort import write_raw_cohort

out = Path(sys.argv[1])
atlas = build_demo_atlas(3.0)
write_demo_atlas(atlas, out / "atlas")
labels = nib.Nifti1Image(atlas.labels, atlas.affine)
write_raw_cohort(out / "raw", atlas_labels=labels, n_participants=2, n_frames=100)
PY

# 2. Motion, registration, confounds, regional means, cleaning, scaling. Look at $out/shards/report.html.
bjepa-preprocess "$raw" "$out/shards" --atlas "$out/atlas/demo_dseg.nii.gz" \
  --atlas-labels "$out/atlas/demo_dseg.tsv" --space MNI152NLin2009cAsym --drop-initial auto ${SLOPPY:+--sloppy}

# 3. Where each region stands in the brain's connectivity: the positions that the model is given.
bjepa-gradients "$out/shards" "$out/gradients"

# 4. Two epochs of a small model.
bjepa-train demo --data "$out/shards" --gradients "$out/gradients/gradients.csv" --output "$out/run" --resume \
  --set train.epochs=2 --set train.batch_size=2
