#!/usr/bin/env bash
# bjepa-train on SLURM: one GPU, all GPUs of a node, or several nodes. The same line for every submission:
#
#   sbatch --gpus-per-node=4 --export=ALL,RECIPE=vit_base,DATA=out,GRADIENTS=out/gradients/gradients.csv,RUN=run \
#       examples/slurm/train.sh
#   sbatch --nodes=4 --gpus-per-node=8 --export=ALL,...,MORE="--set train.parallel=fsdp" examples/slurm/train.sh
#
# Two minutes before its time limit the job stops, goes back into the queue and goes on from the last checkpoint
# (train.checkpoint_minutes), until the run is finished. RUN and DATA must lie where all nodes see them.
#SBATCH --job-name=bjepa-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
: "${RECIPE:?}" "${DATA:?}" "${GRADIENTS:?}" "${RUN:?}" "${MORE:=}"
: "${GPUS:=${SLURM_GPUS_ON_NODE:-1}}" "${NODES:=${SLURM_JOB_NUM_NODES:-1}}"
read -r -a more <<< "$MORE"

mapfile -t hosts < <(scontrol show hostnames "${SLURM_JOB_NODELIST:?}")
export OMP_NUM_THREADS=$(( ${SLURM_CPUS_PER_TASK:-16} / GPUS > 0 ? ${SLURM_CPUS_PER_TASK:-16} / GPUS : 1 ))

requeue() {
  echo "time limit: back into the queue" >&2
  kill -TERM "$step" 2> /dev/null || true  # the processes write a last checkpoint
  wait "$step" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap requeue USR1

# one launcher a node; they meet at the first node and start a process a GPU
srun --ntasks="$NODES" --ntasks-per-node=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-16}" --kill-on-bad-exit=1 \
  torchrun --nnodes="$NODES" --nproc-per-node="$GPUS" \
    --rdzv-id="$SLURM_JOB_ID" --rdzv-backend=c10d --rdzv-endpoint="${hosts[0]}:$(( 20000 + SLURM_JOB_ID % 20000 ))" \
    --no-python bjepa-train "$RECIPE" --data "$DATA" --gradients "$GRADIENTS" --output "$RUN" --resume \
    ${more[@]+"${more[@]}"} &
step=$!
wait "$step"
