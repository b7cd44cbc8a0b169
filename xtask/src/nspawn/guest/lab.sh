# shellcheck shell=sh
# Begins what runs in namespaces of its own, which end with it: whatever it leaves is gone then.
set -eu
mount --make-rprivate /
# nspawn refuses a /run on a disk, and others must not see what it leaves there.
mount -t tmpfs -o mode=755 tmpfs /run
ip link set lo up

# Starts an Unbound; further lines of its section `server` come from standard input.
unbound_at() { # address, file for its configuration, file for its log
    {
        cat <<C
server:
  do-daemonize: no
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  interface: $1
  access-control: 0.0.0.0/0 allow
C
        cat
        printf 'remote-control:\n  control-enable: no\n'
    } >"$2"
    unbound -d -c "$2" >"$3" 2>&1 </dev/null &
}
