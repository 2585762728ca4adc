# What the scripts ask of the machine they run on. Sourced, never run.
# shellcheck shell=bash

# Says something on standard error, with the script's name in front.
say() { echo "${0##*/}: $*" >&2; }

# Ends the script.
die() {
  say "$*"
  exit 1
}

# The Debian mirror that this host's own apt uses. Ubuntu's mirrors carry no Debian: there, and without apt,
# SKIFF_DEBIAN_MIRROR must name one.
debian_mirror() {
  local mirror=${SKIFF_DEBIAN_MIRROR-}
  if [ -z "$mirror" ] && command -v apt-cache >/dev/null; then
    mirror=$(apt-cache policy | awk '
      $1 ~ /^[0-9]+$/ && $2 ~ /^https?:/ && $2 ~ /\/debian\/?$/ { print $2; exit }')
  fi
  [ -n "$mirror" ] || return 1
  echo "$mirror"
}

# debian_root DIR.TAR|DIR PACKAGES: a Debian trixie root file system, minimal but for PACKAGES (comma separated).
debian_root() {
  local target=$1 packages=${2-} mirror
  mirror=$(debian_mirror) || die "no Debian mirror in apt's sources; set SKIFF_DEBIAN_MIRROR to one"
  local key=/usr/share/keyrings/debian-archive-keyring.gpg
  # A mirror may be a snapshot whose Release file has run out.
  local options=(--variant=minbase --aptopt='Acquire::Check-Valid-Until "false"')
  [ -z "$packages" ] || options+=(--include="$packages")
  [ "$(id -u)" = 0 ] || options+=(--mode=unshare)
  mmdebstrap "${options[@]}" trixie "$target" "deb [signed-by=$key] $mirror trixie main"
}

# The name of the ordinary user to test and measure as: the caller when not root, else SKIFF_USER, else the
# one who called sudo, else `skiff`, which is made when root and missing.
ordinary_user() {
  local user
  if [ "$(id -u)" != 0 ]; then
    id -un
    return
  fi
  user=${SKIFF_USER:-${SUDO_USER:-skiff}}
  [ "$user" != root ] || user=skiff
  id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user" >&2
  echo "$user"
}

# as_user USER COMMAND...: the command as that user, with a clean environment, when the caller is root.
as_user() {
  local user=$1 home
  shift
  if [ "$(id -un)" = "$user" ]; then
    "$@"
    return
  fi
  home=$(getent passwd "$user" | cut -d: -f6)
  env -i HOME="$home" USER="$user" LOGNAME="$user" LANG=C.UTF-8 PATH="$PATH" \
    setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups -- "$@"
}
