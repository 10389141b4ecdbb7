#!/bin/sh
# Puts npumon on this board, a newer one in place of an older one, or takes it away. Needs root, systemd and the Python
# that the bundle was made for; no internet, no pip, no compiler. Runs from an unpacked bundle (`make bundle`).
#
#   sh install.sh install      again for an upgrade: configuration and state stay, a running service is restarted
#   sh install.sh uninstall    stops and removes all but configuration and state; PURGE=1 removes these as well
#
# PREFIX=/opt/npumon is where it goes, PYTHON= the interpreter, if not the system's own.
#
# A version is made beside the one that runs, tried, and put in its place by one rename. What fails before that leaves
# the running one as it is; a version that does not start is taken back.
set -eu
umask 022

PREFIX=${PREFIX:-/opt/npumon}
case $PREFIX in ?*/) PREFIX=${PREFIX%/} ;; esac
home=$PREFIX/lib/npumon
command=$PREFIX/bin/npumon
etc=/etc/npumon
unit=/etc/systemd/system/npumon.service
state="/var/lib/npumon /var/lib/private/npumon"
here=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

# try MEND COMMAND...: run it; if it fails, its last line is the error.
try() {
    mend=$1
    shift
    said=$("$@" 2>&1) || fail "$(printf '%s\n' "$said" | tail -n 1); $mend"
}

check_board() {
    [ "$(id -u)" = 0 ] || fail "needs root; run it with sudo"
    [ -d /run/systemd/system ] || fail "systemd does not run here; boot the board with it, or start npumon run yourself"
    case $PREFIX in
        *[!A-Za-z0-9/._-]* | *..* | [!/]* | /) fail "PREFIX=$PREFIX: not a plain absolute path; write PREFIX=/opt/npumon" ;;
    esac
}

# The unit is one for the machine: of an npumon elsewhere it would be taken away, or run what is not meant.
check_prefix() {
    other=$(sed -n "s|^ExecStart=\(/.*\)/bin/npumon run .*|\1|p" "$unit" 2>/dev/null) || other=
    if [ "${other:-$PREFIX}" != "$PREFIX" ] && [ -e "$other/lib/npumon/install.sh" ]; then
        fail "npumon is in $other; give PREFIX=$other, or remove it first: sh $other/lib/npumon/install.sh uninstall"
    fi
}

check_bundle() {
    [ -f "$here/bundle.env" ] || fail "$here: not an unpacked bundle; make one with make bundle"
    . "$here/bundle.env" # version, machine, python
    [ "$(uname -m)" = "$machine" ] ||
        fail "the bundle is for $machine, this is $(uname -m); make bundle MACHINE=$(uname -m)"
    if [ -e "$command" ] && [ ! -L "$command" ]; then
        fail "$command: not made by this script; remove it, or give another PREFIX="
    fi
}

# The first interpreter of the bundle's version that can make environments and that the service may see.
find_python() {
    why="no Python $python; install it, or make bundle BOARD_PYTHON=$(python3 -c \
        'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo VERSION)"
    for interpreter in ${PYTHON:-/usr/bin/python$python /usr/local/bin/python$python python$python python3}; do
        found=$("$interpreter" -c 'import os, sys
print("%d.%d" % sys.version_info[:2], os.path.realpath(sys.base_prefix))' 2>/dev/null) || continue
        case $found in
            "$python /home"/* | "$python /root"/*)
                why="$interpreter lives in a home directory, which the unit hides; give PYTHON=" ;;
            "$python "*)
                "$interpreter" -c 'import venv' 2>/dev/null && return
                why="$interpreter has no venv module; install it (Yocto: python3-venv, python3-modules)" ;;
            *)
                why="the bundle is for Python $python, $interpreter is ${found%% *}; make bundle BOARD_PYTHON=${found%% *}" ;;
        esac
    done
    fail "$why"
}

# The packages in an environment of their own.
make_version() {
    try "make $PREFIX writable" mkdir -p "$home" "$PREFIX/bin"
    new=$(mktemp -d "$home/$version.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    try "free space below $PREFIX, or repair Python's venv module" "$interpreter" -m venv --without-pip "$new"
    try "free space below $PREFIX" cp -R "$here/packages/." "$new/lib/python$python/site-packages/"
    chmod -R u=rwX,go=rX "$new" # whatever the umask was where the bundle was made: the service is not root
    printf '#!%s/bin/python\nfrom monitor.cli import main\n\nmain()\n' "$new" >"$new/bin/npumon"
    chmod 755 "$new/bin/npumon"
    try "the packages do not fit this board: make bundle for its Python and C library" \
        env ORT_DISABLE_TELEMETRY=1 "$new/bin/python" -c 'import numpy, onnx, onnxruntime, onnxruntime_qnn'
}

# Now, because the service may not write beside them.
compile_version() {
    "$new/bin/python" -m compileall -q -j 0 "$new/lib" >/dev/null 2>&1 || true # some packages' templates are no Python
}

place_configuration() {
    writable="make $etc writable, or free space there"
    try "$writable" mkdir -p "$etc"
    try "$writable" cp "$here/npumon.toml" "$etc/npumon.toml.example"
    if [ ! -e "$etc/npumon.toml" ]; then
        try "$writable" cp "$here/npumon.toml" "$etc/npumon.toml.new" # a full disk would leave half a configuration
        mv "$etc/npumon.toml.new" "$etc/npumon.toml"
    fi
    try "correct it, then install again; what runs was left as it is" "$new/bin/npumon" check-config "$etc/npumon.toml"
}

# place FILE TARGET: with this PREFIX, and at no moment half written.
place() {
    sed "s|/opt/npumon|$PREFIX|g" "$1" >"$2.new"
    mv -f "$2.new" "$2"
}

# point VERSION: the command is that of this version, from one moment to the next.
point() {
    ln -sf "$1/bin/npumon" "$command.new"
    mv -f "$command.new" "$command"
}

# Whether it runs, or soon will: one that has failed is started again after some seconds.
running() {
    case $(systemctl is-active npumon) in active | activating | reloading) ;; *) return 1 ;; esac
}

take_back() {
    point "$old"
    [ ! -e "$home/npumon.service" ] || cp "$home/npumon.service" "$unit"
    systemctl daemon-reload
    again="it runs again"
    systemctl restart npumon 2>/dev/null || again="it does not start either"
    fail "$(basename "$new") does not start, $(basename "$old") was put back and $again; see journalctl -u npumon"
}

put_in_place() {
    old=$(readlink "$command" 2>/dev/null) || old=
    old=${old%/bin/npumon}
    rm -f "$home/npumon.service"
    [ ! -e "$unit" ] || cp "$unit" "$home/npumon.service"
    place "$here/npumon.service" "$unit"
    sync # or a power cut could leave a command without contents
    point "$new"
    systemctl daemon-reload
    if running && ! systemctl restart npumon 2>/dev/null && [ -d "$old" ]; then
        take_back
    fi
    trap - EXIT
    place "$here/install.sh" "$home/install.sh"
    for other in "$home"/*/; do
        [ "${other%/}" = "$new" ] || rm -rf "$other"
    done
}

install() {
    check_bundle
    find_python
    make_version
    place_configuration
    compile_version
    put_in_place
    echo "npumon $version is in $PREFIX; its configuration is $etc/npumon.toml (with all keys: npumon.toml.example)"
    if running; then
        echo "the service was restarted"
    elif systemctl is-enabled --quiet npumon 2>/dev/null; then
        echo "the service does not run; systemctl start npumon starts it, and says if it has failed"
    else
        echo "next: edit the configuration, $command check -c $etc/npumon.toml, systemctl enable --now npumon"
    fi
    echo "to remove it: sh $home/install.sh uninstall"
}

uninstall() {
    [ -e "$home" ] || [ -e "$unit" ] || [ "${PURGE:-}" = 1 ] || fail "no npumon in $PREFIX; give its PREFIX="
    if [ -e "$unit" ]; then
        systemctl disable --quiet --now npumon 2>/dev/null || true
        systemctl reset-failed npumon 2>/dev/null || true
        rm -f "$unit"
        systemctl daemon-reload
    fi
    [ ! -L "$command" ] || rm -f "$command"
    rm -rf "$home"
    rmdir "$PREFIX/lib" "$PREFIX/bin" "$PREFIX" 2>/dev/null || true
    left=
    for path in "$etc" "$unit.d" $state; do
        if [ "${PURGE:-}" = 1 ]; then
            rm -rf "$path"
        elif [ -e "$path" ]; then
            left="$left $path"
        fi
    done
    echo "npumon was removed${left:+; left:$left (PURGE=1 removes them too)}"
}

case ${1:-} in
    install | uninstall)
        check_board
        check_prefix
        "$1"
        ;;
    */install.sh) fail "several bundles are unpacked here; name one: sh $1 install" ;;
    *) fail "expected install or uninstall, got ${1:-nothing}; write sh install.sh install" ;;
esac
