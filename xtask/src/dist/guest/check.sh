# shellcheck shell=bash
# shellcheck disable=SC2015,SC2016
# In the guest: installs the package as anybody would, edits one line, upgrades, removes, purges. Nothing must get out when it
# must not, and nothing must be left at the end.
tunnel=vpn0
public=198.51.100.53
config=/etc/leakguard/leakguard.toml
old=/root/old.deb
new=/root/new.deb

phase() { # number: waits until the prober is in it
    echo "$1" >/tmp/phase
    within "grep -qx $1 /tmp/noted" || failed "the prober does not go on to phase $1"
}
asked_off_tunnel() { dig +short +time=1 +tries=1 @$public www.probe.test; }
asked_by_tunnel() { dig +short +time=2 +tries=2 internetsociety.org; }
answered() { # step: both ways work
    within '[ "$(asked_off_tunnel)" = 192.0.2.66 ]' && ok "$1: DNS off the tunnel is answered" ||
        failed "$1: DNS off the tunnel is not answered"
}
dropped() { # step: only the tunnel works
    ! asked_off_tunnel | grep -qv '^;;' && ok "$1: DNS off the tunnel is not answered" ||
        failed "$1: DNS off the tunnel is answered: $(asked_off_tunnel)"
    expect "$1: DNS by the tunnel" 192.0.2.80 "$(asked_by_tunnel)"
}
succeeds() { # step, command
    name=$1
    shift
    if "$@" >/tmp/said 2>&1; then ok "$name"; else failed "$name ($?): $(tail -n 8 /tmp/said | tr '\n' ';')"; fi
}
apt() { DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends -o Dpkg::Use-Pty=0 "$@"; }
units() { # of both: which word systemd has
    systemctl "$1" leakguard-early leakguard 2>&1 | tr '\n' ' '
}
agent() { systemctl show --value --property=MainPID leakguard; }
version() { dpkg-query --show --showformat='${Version}' leakguard; }

# All that a package may leave: files, with their times; parameters; rules; programs and what holds them; mounts.
# Not: the package manager's own books, caches and logs, and what changes by itself.
snapshot() { # file
    {
        find / -xdev \( -path /tmp -o -path /root -o -path /var/log/journal -o -path /var/cache/apt -o -path /var/lib/apt \) -prune \
            -o -type d -printf '%p %y %m %U %G\n' -o -printf '%p %y %m %U %G %s %T@ %l\n' |
            grep -v -E '^/var/(lib/dpkg/(status|status-old|lock|lock-frontend|triggers/.*)|log/(dpkg\.log|apt(/.*)?|alternatives\.log|wtmp)|cache/(ldconfig/aux-cache|debconf/.*)) '
        find /run /sys/fs/bpf /dev/shm -name '*leakguard*'
        sysctl -a 2>/dev/null | grep -E '^(net|vm|fs|kernel)\.' |
            grep -v -E '^(fs\.(dentry|inode|file-nr|aio-nr|quota)|kernel\.(random|ns_last_pid|pty\.nr|sched|perf|tainted)|net\.netfilter\.nf_conntrack_count|vm\.stat)'
        nft list ruleset
        ip -details link show | grep -v -E 'qdisc|link/' | sed 's/^[0-9]*: //'
        tc qdisc show
        tc filter show dev eth0 egress
        ip rule
        ip route show table all
        bpftool net show
        # systemd has programs of its own, for each unit that starts.
        bpftool cgroup tree /sys/fs/cgroup | grep -E '^ *[0-9]' | grep -v ' sd_' | sed -E 's/^ *[0-9]+/cgroup program/'
        find /sys/fs/bpf
        cut -d ' ' -f 4,5,9- /proc/self/mountinfo | grep -v -E '^/[^ ]* /run/(user|credentials|systemd)'
        systemctl list-unit-files --no-legend 'leakguard*'
    } | sort >"$1"
}
as_before() { # step
    snapshot /tmp/after
    if difference=$(diff /tmp/before /tmp/after); then
        ok "$1: nothing is left: files, parameters, rules, programs, mounts as before ($(wc -l </tmp/before) lines)"
    else
        failed "$1: $(echo "$difference" | head -n 12 | tr '\n' ';')"
    fi
}

# The host: an uplink, a tunnel, a resolver behind it.
ip address add 192.168.79.10/24 dev eth0
ip address add fd79::10/64 dev eth0 nodad
# Without an address that appears when it likes.
ip link set eth0 addrgenmode none up
ip route add default via 192.168.79.1
ip -6 route add default via fd79::1
env -u WG_PROCESS_FOREGROUND wireguard-go $tunnel >/tmp/wireguard.log 2>&1
wg set $tunnel private-key /root/tunnel/private peer "$(cat /root/tunnel/server)" \
    endpoint 203.0.113.10:51820 allowed-ips 10.8.0.0/24 persistent-keepalive 5
ip address add 10.8.0.2/24 dev $tunnel
ip link set $tunnel up
echo nameserver 10.8.0.1 >/etc/resolv.conf
within '[ "$(asked_by_tunnel)" = 192.0.2.80 ]' && ok "the tunnel works" ||
    failed "the tunnel does not work: $(tail -n 3 /tmp/wireguard.log)"
echo 1 >/tmp/phase
perl /root/prober.pl /tmp/phase /tmp/noted /tmp/counts &
prober=$!
phase 1
answered "before (control)"
snapshot /tmp/before

# Installed, and nothing else.
phase 7
succeeds "apt installs it" apt install $old
phase 2
expect "installed: not enabled" "disabled disabled " "$(units is-enabled)"
expect "installed: not started" "inactive inactive " "$(units is-active)"
answered installed
expect "installed: the configuration is a conffile" 1 \
    "$(dpkg-query --show --showformat='${Conffiles}' leakguard | grep -c "^ $config ")"
succeeds "installed: completions of bash" bash -c '. /usr/share/bash-completion/completions/leakguard && complete -p leakguard'
within 'dig +short @198.51.100.53 www.probe.test' # The prober has had its time.

# One line.
sed -i "s/^tunnel = .*/tunnel = [\"$tunnel\"]/" $config
expect "one line is edited" 1 "$(diff $config /usr/share/doc/leakguard/examples/leakguard.toml | grep -c '^<')"
phase 7
succeeds "enable --now" systemctl enable --now leakguard-early leakguard
phase 3
expect "enforced: active" "active active " "$(units is-active)"
succeeds "enforced: status says protected" leakguard status
journalctl -u leakguard -u leakguard-early -o cat | head -n 20 | sed 's/^/agent: /'
dropped enforced
succeeds "verify" leakguard verify
grep -v '^pass' /tmp/said | sed 's/^/verify: /'

# A control of the comparison: all that is there now is seen.
snapshot /tmp/after
for kind in "cgroup program.*egress_cookie" "tc.*leakguard|tcx.*egress|eth0.*tc_" "table inet leakguard" "/sys/fs/bpf/leakguard" \
    "^/usr/bin/leakguard" "^$config" "wants/leakguard.service" "^/run/leakguard"; do
    if diff /tmp/before /tmp/after | grep '^>' | cut -c 3- | grep -q -E "$kind"; then
        ok "enforced: a difference is seen (control): $kind"
    else
        failed "enforced: no difference is seen: $kind"
    fi
done

# Upgraded, while the prober goes on.
before=$(agent)
phase 4
succeeds "apt upgrades it" apt install $new
phase 5
expect "upgraded: version" "$(dpkg-deb --field $new Version)" "$(version)"
[ "$before" != "$(agent)" ] && ok "upgraded: another agent runs" || failed "upgraded: the old agent runs"
expect "upgraded: of the program that is installed" "$(stat -Lc %i /usr/bin/leakguard)" "$(stat -Lc %i "/proc/$(agent)/exe")"
succeeds "upgraded: status says protected" leakguard status
dropped upgraded
grep -q "^tunnel = \[\"$tunnel\"\]" $config && ok "upgraded: the line is still there" || failed "upgraded: the line is gone"

# Released: the unit does not start it again, as it does after a crash.
phase 7
succeeds "released" leakguard release
within '[ "$(systemctl is-active leakguard)" = inactive ]'
phase 6
answered released
expect "released: the agent stays away, nothing has failed" "active inactive " "$(units is-active)"
phase 7
succeeds "released: started again" systemctl start leakguard
dropped "released, and started again"

# Removed, and purged.
phase 7
succeeds "apt removes it" apt remove leakguard
phase 6
answered removed
[ -e $config ] && ok "removed: the configuration stays" || failed "removed: the configuration is gone"
expect "removed: pins" 0 "$(find /sys/fs/bpf -name '*leakguard*' | wc -l)"
succeeds "dpkg purges it" dpkg --purge leakguard
as_before purged

# At once from enforcing, with a resolver that was set up: the way back must be taken before the program goes.
phase 7
succeeds "again: apt installs it" apt install $new
sed -i "s/^tunnel = .*/tunnel = [\"$tunnel\"]/" $config
succeeds "again: enable --now" systemctl enable --now leakguard-early leakguard
succeeds "again: a resolver is set up" leakguard resolver apply --server 10.8.0.1 --strategy static --no-immutable
dropped again
succeeds "again: apt purges it" apt purge leakguard
answered "purged at once"
as_before "purged at once"

kill $prober
wait $prober
while read -r number sent refused; do
    echo "guest: phase $number: $sent datagrams, $refused refused at once"
    case $number in
    3 | 4 | 5) expect "phase $number: every datagram is refused" "$sent" "$refused" ;;
    esac
    [ "$sent" -ge 40 ] || failed "phase $number: too few for anything to follow"
done </tmp/counts
systemctl list-units --failed --plain --no-legend | grep -v '^check' | while read -r unit; do failed "unit $unit"; done
echo "guest: end"
