#!/usr/bin/env bash
# Start or stop a whole Slurm of this user on this machine, with all its files in one folder:
#     slurm.sh start FOLDER     then use it with SLURM_CONF=FOLDER/slurm.conf
#     slurm.sh stop FOLDER
# Needs the Debian packages slurm-wlm and munge. Says in one line what is missing.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin"
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "slurm.sh: $*" >&2; exit 1; }

# A TCP port that nobody listens on, not far above the first argument.
free_port() {
    local port=$1
    while (: </dev/tcp/127.0.0.1/"$port") 2>/dev/null; do port=$((port + 1)); done
    echo "$port"
}

start() {
    local folder=$1 tool port
    for tool in munged slurmctld slurmd sinfo sbatch; do
        command -v "$tool" >/dev/null || fail "no program $tool; install slurm-wlm and munge"
    done
    mkdir -p "$folder"/{state,spool}
    chmod 0755 "$folder"
    (umask 077; head -c 1024 /dev/urandom >"$folder/munge.key")
    # --force: a folder of tests may be less private than munged wants its folders to be
    munged --force --key-file "$folder/munge.key" --socket "$folder/munge.socket" \
        --pid-file "$folder/munged.pid" --log-file "$folder/munged.log" \
        --seed-file "$folder/munge.seed" 2>>"$folder/munged.log" \
        || fail "munged does not start: $(tail -n 1 "$folder/munged.log")"
    port=$(free_port $((20000 + RANDOM % 10000)))
    sed -e "s|@FOLDER@|$folder|; s|@USER@|$(id -un)|; s|@CTLD_PORT@|$port|" \
        -e "s|@D_PORT@|$(free_port $((port + 1)))|" "$here/slurm.conf.in" >"$folder/slurm.conf"
    echo "Name=gpu File=/dev/null,/dev/zero" >"$folder/gres.conf"
    export SLURM_CONF=$folder/slurm.conf
    slurmctld || fail "slurmctld does not start: $(tail -n 1 "$folder/slurmctld.log")"
    slurmd -N localhost || fail "slurmd does not start: $(tail -n 1 "$folder/slurmd.log")"
    # sinfo calls a node idle that has not answered yet; only a job proves that there is one.
    timeout 30 srun --ntasks=1 true || fail "jobs do not run: $(tail -n 1 "$folder/slurmctld.log")"
}

stop() {
    local folder=$1 daemon
    SLURM_CONF=$folder/slurm.conf scancel --quiet --user "$(id -un)" 2>/dev/null || true
    for daemon in slurmd slurmctld munged; do
        [ ! -f "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" 2>/dev/null || true
    done
}

case ${1-} in
    start | stop) [ -n "${2-}" ] || fail "name a folder"; "$1" "$2" ;;
    *) fail "usage: slurm.sh start|stop FOLDER" ;;
esac
