# Makes a root file system the host that is wanted. Arguments: which, the root, the agent.
set -eu
name=$1
root=$2
agent=$3

install -m 755 "$agent" "$root/usr/local/bin/leakguard"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../check.service "$root/etc/systemd/system/multi-user.target.wants/check.service"
rm -f "$root/etc/systemd/system/multi-user.target.wants/unbound.service" "$root/etc/resolv.conf"
case $name in
resolved) ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf" ;;
plain)
    : >"$root/etc/resolv.conf"
    chroot "$root" dpkg --purge libnss-resolve systemd-resolved
    ;;
esac
