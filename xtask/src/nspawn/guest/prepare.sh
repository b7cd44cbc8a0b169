# shellcheck shell=sh
# Makes a root file system the host that is wanted. Arguments: which, the root, the agent, the directory of the units.
set -eu
name=$1
root=$2
agent=$3
dist=$4

install -m 755 "$agent" "$root/usr/local/bin/leakguard"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../check.service "$root/etc/systemd/system/multi-user.target.wants/check.service"
install -m 644 "$dist/leakguard.service" "$root/etc/systemd/system/"
mkdir -p "$root/etc/systemd/system/leakguard.service.d"
install -m 644 "$dist/leakguard.service.d/resolver.conf" "$root/etc/systemd/system/leakguard.service.d/"
# In a container there is neither a bpffs at the usual place nor nft.
cat >"$root/etc/systemd/system/leakguard.service.d/zz-lab.conf" <<'C'
[Service]
ExecStart=
ExecStart=leakguard run --tunnel wg0 --bpffs /run/bpf --min-level none
ReadWritePaths=/run/bpf
C
rm -f "$root/etc/systemd/system/multi-user.target.wants/unbound.service" "$root/etc/resolv.conf"
case $name in
resolved) ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf" ;;
plain)
    : >"$root/etc/resolv.conf"
    chroot "$root" dpkg --purge libnss-resolve systemd-resolved
    ;;
esac
