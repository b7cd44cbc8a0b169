#!/bin/busybox sh
# shellcheck shell=dash
# The first process of a guest: puts this build and the test's own files into the root file system, and starts systemd.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
# The last line has no end.
while read -r module || [ -n "$module" ]; do
    insmod "/modules/$module.ko"
done </modules/order
for _ in $(seq 200); do
    [ -b /dev/vda ] && break
    sleep 0.05
done
mount -t ext4 /dev/vda /new || poweroff -f
chmod 644 /payload/etc/systemd/system/*
cp -a /payload/. /new/
enable=
read -r words </proc/cmdline
for word in $words; do
    case $word in
        guest.enable=*) enable=$(echo "${word#*=}" | tr , ' ') ;;
        guest.late)
            # As many a service is ordered, and as it happens where the network is faster.
            mkdir -p /new/etc/systemd/system/leakguard.service.d
            printf '[Unit]\nAfter=network-online.target\n' >/new/etc/systemd/system/leakguard.service.d/late.conf
            ;;
    esac
done
# What the units say themselves about when they are started. The list of enabled units is meant to be split.
# shellcheck disable=SC2086
chroot /new /bin/systemctl --quiet enable systemd-networkd prober lookups check $enable
umount /sys
mount --move /dev /new/dev
umount /proc
exec switch_root /new /lib/systemd/systemd
