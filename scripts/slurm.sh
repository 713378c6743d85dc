#!/usr/bin/env bash
# One training on SLURM, or an array of them (rows of a sweep). Pre-empted or out of time, a job requeues itself and
# goes on where it was, bit for bit.
#
# one training, 2 nodes of 8 GPUs:
#   sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 scripts/slurm.sh data=coco data.root=/data/coco recipe=paper
# rows of a sweep, one line of overrides each, eight at a time:
#   printf '%s\n' csc=bifpn csc=nasfpn 'csc=dense seed=1' > rows.txt
#   sbatch --array=1-3%8 --gpus-per-node=1 --export=ALL,ROWS=rows.txt scripts/slurm.sh data=coco data.root=/data/coco
#
# RUNS: where the run folders go (default: runs). Without --array the folder is named by the job's number.
#SBATCH --job-name=ifpn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=SIGUSR1@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

overrides=("$@")
name="job_${SLURM_ARRAY_JOB_ID:-${SLURM_JOB_ID:?start this script with sbatch}}"
if [[ -n "${SLURM_ARRAY_TASK_ID:-}" ]]; then
  rows="${ROWS:?ROWS=FILE must name the file with one row of overrides per line}"
  [[ -r "$rows" ]] || { echo "ROWS=$rows cannot be read" >&2; exit 2; }
  row=$(awk -v n="$SLURM_ARRAY_TASK_ID" 'NR == n' "$rows")
  [[ -n "$row" ]] || { echo "$rows has no line $SLURM_ARRAY_TASK_ID: its rows are --array=1-$(awk 'END { print NR }' "$rows")" >&2; exit 2; }
  # The words of a row are overrides; quotes inside are Hydra's.
  read -r -a words <<< "$row"
  overrides+=("${words[@]}")
  name="$name/$SLURM_ARRAY_TASK_ID"
fi
run_dir="${RUNS:-runs}/$name"

# The first life starts the run, every other one continues it.
resume=()
if [[ -e "$run_dir/config.yaml" ]]; then
  resume=(ckpt=last)
fi
exec srun python train.py trainer=slurm "run_dir=$run_dir" "${overrides[@]}" ${resume[@]+"${resume[@]}"}
