# What the scripts ask of the machine they run on. Sourced, never run.
# shellcheck shell=bash

# Says something on standard error, with the script's name in front.
say() { echo "${0##*/}: $*" >&2; }

# Ends the script.
die() {
  say "$*"
  exit 1
}

# The Debian mirror that this host's own apt uses, or the one SKIFF_DEBIAN_MIRROR names; nothing where there is
# neither (Ubuntu's mirrors carry no Debian).
debian_mirror() {
  if [ -n "${SKIFF_DEBIAN_MIRROR-}" ]; then
    echo "$SKIFF_DEBIAN_MIRROR"
  elif command -v apt-cache >/dev/null; then
    apt-cache policy | awk '$1 ~ /^[0-9]+$/ && $2 ~ /^https?:/ && $2 ~ /\/debian\/?$/ { print $2; exit }'
  fi
}

# debian_root DIR PACKAGES SUITE: a Debian root file system, of trixie unless said, minimal but for PACKAGES (comma
# separated).
debian_root() {
  local target=$1 packages=${2-} suite=${3-trixie} mirror
  mirror=$(debian_mirror)
  # A mirror may be a snapshot whose Release file has run out.
  local options=(--variant=minbase --aptopt='Acquire::Check-Valid-Until "false"')
  [ -z "$packages" ] || options+=(--include="$packages")
  [ "$(id -u)" = 0 ] || options+=(--mode=unshare)
  # Without a mirror, mmdebstrap takes Debian's own.
  local sources=()
  [ -z "$mirror" ] || sources=("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main")
  mmdebstrap "${options[@]}" "$suite" "$target" "${sources[@]}"
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

# packages GROUP...: installs what the groups need and this machine lacks. Groups:
#   build   a C compiler and what the dependencies' C parts want
#   image   mmdebstrap and the keys to make a Debian root file system
#   test    what the tests and the interchange run beside skiff
#   agents  what the agents of definitions run, and what makes small repositories for them
#   client  what workflow managers are installed with
#   mpi     Open MPI and MPICH, with their compilers
#   slurm   Slurm, munge, and the MPI that programs beside it are compiled with
packages() {
  local group list=() wanted=() name
  if command -v apt-get >/dev/null; then
    for group; do
      case $group in
        build) list+=(gcc libc6-dev make pkg-config ca-certificates curl git) ;;
        image) list+=(mmdebstrap debian-archive-keyring uidmap util-linux python3) ;;
        test) list+=(g++ musl-tools libsquashfs-dev libclang-dev busybox-static squashfs-tools util-linux passwd uidmap python3 strace bubblewrap umoci skopeo buildah libcap2-bin docker-registry openssl tinyproxy microsocks bindfs) ;;
        agents) list+=(dnf zypper rpm createrepo-c pacman-package-manager makepkg libarchive-tools zstd gnupg busybox-static curl python3 libcap2-bin) ;;
        client) list+=(python3 python3-venv) ;;
        mpi) list+=(openmpi-bin libopenmpi-dev mpich libmpich-dev) ;;
        slurm) list+=(slurmctld slurmd slurm-client munge openmpi-bin libopenmpi-dev libpmix2 iproute2 procps) ;;
      esac
    done
    for name in "${list[@]}"; do
      [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || wanted+=("$name")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "installing ${wanted[*]}"
    as_root apt-get update -q >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${wanted[@]}" >/dev/null
  elif command -v dnf >/dev/null; then
    # mmdebstrap, busybox and squashfs-tools-ng are in Fedora, and in EPEL for the EL family.
    rpm -q fedora-release-common >/dev/null 2>&1 || rpm -q epel-release >/dev/null 2>&1 ||
      as_root dnf install -y -q epel-release
    for group; do
      case $group in
        build) list+=(gcc glibc-devel make pkgconf-pkg-config ca-certificates curl git) ;;
        image) list+=(mmdebstrap debian-keyring shadow-utils util-linux python3) ;;
        test) list+=(gcc-c++ squashfs-tools-ng-devel clang-devel busybox squashfs-tools util-linux glibc-static musl-gcc python3 strace bubblewrap skopeo buildah libcap tinyproxy bindfs) ;;
        agents) list+=(dnf zypper rpm-build rpm-sign createrepo_c pacman bsdtar gnupg2 zstd busybox curl python3 libcap) ;;
        client) list+=(python3 python3-pip) ;;
        mpi) list+=(openmpi-devel mpich-devel) ;;
      esac
    done
    for name in "${list[@]}"; do
      rpm -q "$name" >/dev/null 2>&1 || wanted+=("$name")
    done
    [ ${#wanted[@]} -gt 0 ] || return 0
    say "installing ${wanted[*]}"
    as_root dnf install -y -q "${wanted[@]}"
  else
    say "neither apt-get nor dnf: install by hand what is missing"
  fi
}

# A command as root: by itself, or by sudo; a clear end where there is neither.
as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "must be root, or have sudo, for: $*"
  fi
}

# A Rust compiler that is new enough: the one that is there, else rustup's, else rustup itself first.
rust() {
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
  # shellcheck source=/dev/null
  [ ! -r "${CARGO_HOME:-$HOME/.cargo}/env" ] || . "${CARGO_HOME:-$HOME/.cargo}/env"
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
  if [ -n "$have" ] && [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ]; then
    return
  fi
  if ! command -v rustup >/dev/null; then
    say "installing the Rust toolchain with rustup, for $(id -un)"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
      sh -s -- -y --profile minimal --component clippy,rustfmt --default-toolchain stable >&2
    # shellcheck source=/dev/null
    . "${CARGO_HOME:-$HOME/.cargo}/env"
  fi
  have=$(cargo --version 2>/dev/null | cut -d' ' -f2) || true
  if [ "$(printf '%s\n' "$wanted" "${have:-0}" | sort -V | head -n 1)" != "$wanted" ]; then
    say "updating Rust ${have:-none} to the stable one ($wanted or newer is needed)"
    rustup update --no-self-update stable >&2
    rustup default stable >&2
  fi
}

# What containers need of the machine and root can give. An ordinary host has all of it already.
allow_containers() {
  if [ ! -e /dev/fuse ] && [ "$(id -u)" = 0 ]; then
    modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229
  fi
  if [ "$(id -u)" = 0 ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
    say "/dev/fuse is closed to users; opening it (chmod 666), as udev does on ordinary hosts"
    chmod 666 /dev/fuse
  fi
  local apparmor=/proc/sys/kernel/apparmor_restrict_unprivileged_userns
  if [ "$(cat "$apparmor" 2>/dev/null)" = 1 ] && [ "$(id -u)" = 0 ]; then
    say "AppArmor forbids user namespaces to users; allowing them until the next boot ($apparmor)"
    echo 0 >"$apparmor"
  fi
  [ -w /dev/fuse ] || say "/dev/fuse cannot be opened by $(id -un): images will be unpacked instead of mounted"
}
