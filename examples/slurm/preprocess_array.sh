#!/usr/bin/env bash
# bjepa-preprocess on SLURM without any scheduler of our own: an array of participants, then one group stage.
#
#   N=$(wc -l < participants.txt)
#   PER_TASK=20
#   ARRAY=$(sbatch --parsable --array=0-$(( (N - 1) / PER_TASK )) \
#       --export=ALL,INPUT=derivatives/fmriprep,OUTPUT=out,PARTICIPANTS=participants.txt,PER_TASK=$PER_TASK \
#       examples/slurm/preprocess_array.sh)
#   sbatch --dependency=afterany:$ARRAY --cpus-per-task=2 --mem=4G --time=12:00:00 \
#       --wrap "bjepa-preprocess derivatives/fmriprep out group --space MNI152NLin6Asym"
#
# A task that was killed or ran out of time: submit the same array again; finished scans are kept.
#SBATCH --job-name=bjepa-preprocess
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=04:00:00
set -euo pipefail
: "${INPUT:?}" "${OUTPUT:?}" "${PARTICIPANTS:?}" "${PER_TASK:=20}" "${SPACE:=MNI152NLin6Asym}"

first=$(( SLURM_ARRAY_TASK_ID * PER_TASK + 1 ))
mapfile -t mine < <(tail -n "+$first" "$PARTICIPANTS" | head -n "$PER_TASK")
bjepa-preprocess "$INPUT" "$OUTPUT" participant --space "$SPACE" \
  --participant-label "${mine[@]}" --n-jobs "${SLURM_CPUS_PER_TASK:-1}"
