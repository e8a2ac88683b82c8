#!/bin/bash
# One run on nodes of a Slurm cluster: sbatch deploy/slurm.sh jobs/genbench_500shot.py --workspace /shared/genbench --report /shared/report
# How to watch and stop it: docs/deploy.md. The first task is Ray's head and runs the job; the other nodes are its workers.
#SBATCH --job-name=foundry
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
#SBATCH --output=%x-%j.log

set -euo pipefail

if [ $# -eq 0 ]; then
    echo "error: no job is given; sbatch $0 jobs/genbench_500shot.py --workspace /shared/… --report /shared/…" >&2
    exit 2
fi

# everything that Ray writes is on the nodes' own disks; the token is in a folder that all nodes see
RAY_AUTH_TOKEN_PATH="$HOME/.ray/foundry-$SLURM_JOB_ID"
RAY_PORT=$((20000 + SLURM_JOB_ID % 10000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH RAY_USAGE_STATS_ENABLED=0
mkdir -p "$HOME/.ray"
(umask 077 && openssl rand -hex 32 > "$RAY_AUTH_TOKEN_PATH")

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head_node=$(head -n 1 <<< "$nodes")
# the head's name, which all nodes resolve
export RAY_ADDRESS="$head_node:$RAY_PORT"
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}

steps=()
driver=""
# shellcheck disable=SC2329  # called by the trap
finish() {
    # the driver commits what is made and ends its run; the Rays end with their steps, as Slurm ends what a job leaves
    if [ -n "$driver" ]; then kill -TERM "$driver" 2> /dev/null && wait "$driver" || true; fi
    for step in "${steps[@]}"; do kill -TERM "$step" 2> /dev/null || true; done
    wait || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT
# Slurm's warning before it takes the nodes away, or the time is over: the same job, queued again, goes on
trap 'if [ "${SLURM_JOB_REQUEUE:-1}" = 1 ]; then scontrol requeue "$SLURM_JOB_ID" || true; fi; exit 143' TERM

srun --nodes=1 --ntasks=1 --overlap --nodelist="$head_node" \
    ray start --head --block --node-ip-address="$head_node" --port="$RAY_PORT" --dashboard-host=127.0.0.1 \
    --num-cpus="$cpus" --num-gpus="$gpus" &
steps+=($!)
if [ "$SLURM_JOB_NUM_NODES" -gt 1 ]; then
    srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --overlap --exclude="$head_node" \
        bash -c "until ray health-check --address $RAY_ADDRESS; do sleep 2; done; exec ray start --block --address=$RAY_ADDRESS --num-cpus=$cpus --num-gpus=$gpus" &
    steps+=($!)
fi
until srun --nodes=1 --ntasks=1 --overlap --nodelist="$head_node" ray health-check --address "$RAY_ADDRESS"; do
    if ! kill -0 "${steps[0]}" 2> /dev/null; then
        echo "error: Ray's head did not start on $head_node; its messages are above" >&2
        exit 1
    fi
    sleep 2
done

# workers that join later are used too, so the run begins as soon as the head is there
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head_node" python "$@" &
driver=$!
code=0
wait "$driver" || code=$?
driver=""
exit "$code"
