#!/bin/sh
# Libraries that the runtime brings in come last; a prompt where there is none.

if test -z "${LD_LIBRARY_PATH:-}"; then
    LD_LIBRARY_PATH="/.singularity.d/libs"
else
    LD_LIBRARY_PATH="$LD_LIBRARY_PATH:/.singularity.d/libs"
fi
if test -z "${PS1:-}"; then
    PS1="Apptainer> "
fi
export LD_LIBRARY_PATH PS1
