#!/bin/sh
# With --app: the app's programs, libraries and variables.

if test -n "${SINGULARITY_APPNAME:-}"; then
    if test -d "/scif/apps/${SINGULARITY_APPNAME}"; then
        SCIF_APPS="/scif/apps"
        SCIF_APPROOT="/scif/apps/${SINGULARITY_APPNAME}"
        PATH="$SCIF_APPROOT:$PATH"
        if test -d "$SCIF_APPROOT/bin"; then
            PATH="$SCIF_APPROOT/bin:$PATH"
        fi
        if test -d "$SCIF_APPROOT/lib"; then
            LD_LIBRARY_PATH="$SCIF_APPROOT/lib:${LD_LIBRARY_PATH:-}"
            export LD_LIBRARY_PATH
        fi
        export SINGULARITY_APPNAME SCIF_APPS SCIF_APPROOT PATH
        if test -f "$SCIF_APPROOT/scif/env/01-base.sh"; then
            . "$SCIF_APPROOT/scif/env/01-base.sh"
        fi
        if test -f "$SCIF_APPROOT/scif/env/90-environment.sh"; then
            . "$SCIF_APPROOT/scif/env/90-environment.sh"
        fi
    else
        echo "the image has no app ${SINGULARITY_APPNAME}"
        exit 1
    fi
fi
