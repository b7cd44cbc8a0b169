# shellcheck shell=sh
# Makes a host of a root file system: its address, its tunnel, and a user who may come by ssh and become root.
# Arguments: the host's number, its root, the directory of the lab's keys, the directory of this script's files.
set -eu
number=$1
root=$2
keys=$3
files=$4

echo "fleet-$number" >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 fleet-%s\n' "$number" >"$root/etc/hosts"
rm -f "$root/etc/resolv.conf" "$root/etc/machine-id"
echo 'nameserver 10.8.0.1' >"$root/etc/resolv.conf"
systemd-id128 new >"$root/etc/machine-id"
for file in eth0.network bpffs.service tunnel.service; do
    case $file in
    *.network) to=$root/etc/systemd/network/$file ;;
    *) to=$root/etc/systemd/system/$file ;;
    esac
    sed "s/@N@/$number/g" "$files/$file" >"$to"
done
umask 077
mkdir -p "$root/etc/wireguard"
cat >"$root/etc/wireguard/wg0.conf" <<C
[Interface]
PrivateKey = $(cat "$keys/fleet-$number.key")
FwMark = 0xca6c
[Peer]
PublicKey = $(cat "$keys/server.pub")
Endpoint = 192.168.8$number.1:51820
AllowedIPs = 10.8.0.0/24
PersistentKeepalive = 5
C
umask 022
chroot "$root" useradd --create-home --shell /bin/bash ops
install -d -m 700 "$root/home/ops/.ssh"
install -m 600 "$keys/ssh.pub" "$root/home/ops/.ssh/authorized_keys"
chroot "$root" chown -R ops:ops /home/ops/.ssh
echo 'ops ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/ops"
systemctl --root="$root" --quiet enable ssh systemd-networkd bpffs tunnel
# What would change files by itself.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    fstrim.timer systemd-networkd-wait-online.service systemd-tmpfiles-clean.timer
