#!/bin/sh
# Several processes on this machine. One process uses all GPUs by itself, so this is for tests of the cluster code, and
# for machines where a process per GPU is wanted.
#
#     sh examples/cluster/local.sh faces.csv run
set -eu
exec jaxage launch --processes 2 -- train --data "$1" --out "$2" --resume
