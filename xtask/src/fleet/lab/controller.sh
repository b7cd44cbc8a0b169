# shellcheck shell=bash
# What follows `&&` before `||` is `ok`, which does not fail; what `within` is given, it evaluates itself.
# shellcheck disable=SC2015,SC2016
# What the administrator of the fleet does, and what is seen of it: on the hosts, and where the ISP gets their packets.
# Goes on from nspawn/guest/steps.sh.
# Arguments: the directory of the lab, what is installed, the collection.
set -u
work=$1
agent=$2
collection=$3
logs=$work/logs
keys=$work/keys
on() { # host, command
    local n=$1
    shift
    ssh -F none -i "$keys/ssh.key" -o BatchMode=yes -o UserKnownHostsFile="$keys/known_hosts" -o ConnectTimeout=5 -o ServerAliveInterval=2 \
        -o ControlMaster=auto -o ControlPath="/run/lab-$n" -o ControlPersist=60s \
        "ops@192.168.8$n.10" "$@"
}

# --- the controller ---

export HOME=$work/home ANSIBLE_CONFIG=$work/ansible.cfg LC_ALL=C.UTF-8
mkdir -p "$HOME"
cat >"$ANSIBLE_CONFIG" <<C
[defaults]
collections_path = $work/collections
private_key_file = $keys/ssh.key
remote_user = ops
nocows = true
[ssh_connection]
pipelining = true
control_path_dir = /run/ansible
ssh_args = -F none -o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=5 -o ServerAliveCountMax=2 -o UserKnownHostsFile=$keys/known_hosts
C
inventory=$work/inventory.yml
case $agent in
*.deb) kind=package ;;
*.tar.gz) kind=archive ;;
*) kind=binary ;;
esac
cat >"$inventory" <<C
all:
  hosts:
    fleet-1: {ansible_host: 192.168.81.10}
    fleet-2: {ansible_host: 192.168.82.10}
    fleet-3: {ansible_host: 192.168.83.10}
  vars:
    ansible_python_interpreter: /usr/bin/python3
    leakguard_$kind: $agent
    leakguard_checksum: $(sha256sum "$agent" | cut -d ' ' -f 1)
    leakguard_tunnels: [wg0]
    leakguard_check_names: [www.lab.example]
    leakguard_confirm_seconds: 300
    leakguard_reconnect_seconds: 60
    leakguard_configuration:
      verify: {latency_max: 5s, signed_name: "", bogus_name: ""}
      events: {file: /var/log/leakguard/events.ndjson}
C
# What the administrator wants of the hosts, in files beside the inventory.
mkdir -p "$work/host_vars"
wants() { # host or nothing for all, lines
    local file=$work/host_vars/fleet-$1.yml
    shift
    printf '%s\n' "$@" >"$file"
}
play() { # playbook, log, arguments; sets `code`. All at once, unless the arguments say otherwise
    local name=$1
    log=$logs/$2.log
    shift 2
    ansible-playbook "leakguard.fleet.$name" --inventory "$inventory" \
        --extra-vars '{"leakguard_batches": ["100%"]}' "$@" >"$log" 2>&1
    code=$?
}
# What the recap says of a host, such as `changed`.
recap() { # host, what
    sed -n "s/^fleet-$1 .* $2=\([0-9]*\).*/\1/p" "$log" | tail -n 1
}
all() { # what, expected, what of the recap
    local n
    for n in 1 2 3; do expect "$1: fleet-$n $3" "$2" "$(recap "$n" "$3")"; done
}
some() { # what, host: something has changed, and nothing went wrong
    if [ "$(recap "$2" changed)" -gt 0 ] && [ "$(recap "$2" failed)$(recap "$2" unreachable)" = 00 ]; then
        ok "$1: fleet-$2 changed=$(recap "$2" changed)"
    else
        failed "$1: $(grep "^fleet-$2 " "$log"); see $log"
    fi
}

# --- what is seen of a host ---

counted() { nft list counter inet isp "fleet-$1" | sed -n 's/.*packets \([0-9]*\).*/\1/p'; }
# How much of what a program asks past the tunnel gets out.
leaks() {
    local before
    before=$(counted "$1")
    on "$1" dig @198.51.100.53 +tries=1 +time=1 leak.lab.example >/dev/null 2>&1
    echo $(($(counted "$1") - before))
}
resolves() { on "$1" getent ahostsv4 www.lab.example | head -n 1 | cut -d ' ' -f 1; }
state() { # host, key
    on "$1" sudo leakguard status --json | python3 -c "import json, sys; print(json.load(sys.stdin)['$2'])"
}
runs() { on "$1" systemctl is-active leakguard; }
# Before the first section.
configured() { on "$1" sudo sed -n "'/^\[/q;s/^mode = //p'" /etc/leakguard/leakguard.toml; }
enforces() { # what, host
    expect "$1: fleet-$2 enforces" enforce "$(state "$2" mode)"
    expect "$1: fleet-$2 will do so after a reboot" '"enforce"' "$(configured "$2")"
    expect "$1: fleet-$2 has an agent" active "$(runs "$2")"
    expect "$1: fleet-$2 leaks nothing" 0 "$(leaks "$2")"
    expect "$1: fleet-$2 resolves" 192.0.2.80 "$(resolves "$2")"
}
observes() { # what, host
    expect "$1: fleet-$2 observes" observe "$(state "$2" mode)"
    expect "$1: fleet-$2 will do so after a reboot" '"observe"' "$(configured "$2")"
    expect "$1: fleet-$2 has an agent" active "$(runs "$2")"
    expect "$1: fleet-$2 leaks, as it did" 1 "$(leaks "$2")"
    expect "$1: fleet-$2 resolves" 192.0.2.80 "$(resolves "$2")"
}
# All files of a host but what changes by itself, its units, and what its kernel holds for leakguard.
snapshot() { # host, file
    on "$1" sudo bash -s >"$2" <<'C'
cd /
ours=(-xdev -not -path './var/log/journal*' -not -path './var/log/?tmp' -not -path './var/log/lastlog'
    -not -path './home/ops/.ansible*' -not -path './var/lib/systemd/*' -not -path './var/tmp/*' -not -path './var/log/leakguard/*' -not -path './tmp/*'
    -not -path './var/cache/apt/*' -not -path './var/lib/apt/*' -not -path './var/lib/dpkg/*' -not -path './var/log/apt*'
    -not -path './var/log/dpkg.log' -not -name '*.pyc' -not -name __pycache__)
find . "${ours[@]}" -not -type f -printf '%p %y %m %U %G %l\n' | sort
find . "${ours[@]}" -type f -printf '%p %m %U %G %T@ %s\n' | sort
systemctl list-unit-files --no-legend | sort
systemctl list-units --failed --plain --no-legend
nft list ruleset | sed 's/ expires [^ ]*//'
find /sys/fs/bpf /run/leakguard 2>&1 | sort
C
}
same() { # what, host, before
    snapshot "$2" "$work/now"
    if difference=$(diff "$3" "$work/now"); then
        ok "$1: fleet-$2 is as before"
    else
        failed "$1: fleet-$2: $(echo "$difference" | head -n 6 | tr '\n' ';')"
    fi
}

# --- what is done ---

ansible-galaxy collection build "$collection" --output-path "$work" >"$logs/build.log" 2>&1 &&
    ansible-galaxy collection install "$work"/leakguard-fleet-*.tar.gz --offline -p "$work/collections" >>"$logs/build.log" 2>&1 &&
    ok "the collection is built and installed" || failed "the collection: $(tail -n 3 "$logs/build.log")"

for n in 1 2 3; do
    within "on $n systemctl is-active tunnel" && ok "control: fleet-$n is up" || failed "fleet-$n is not up"
    within "[ \"\$(resolves $n)\" = 192.0.2.80 ]"
    expect "control: fleet-$n resolves through its tunnel" 192.0.2.80 "$(resolves "$n")"
    expect "control: fleet-$n leaks" 1 "$(leaks "$n")"
    snapshot "$n" "$work/fleet-$n.before"
done

play rollout check-install --check --diff
expect "check mode before: exit code" 0 $code
for n in 1 2 3; do
    some "check mode before" "$n"
    same "check mode before" "$n" "$work/fleet-$n.before"
done

play rollout observe
expect "observe: exit code" 0 $code
for n in 1 2 3; do
    some observe "$n"
    observes observe "$n"
done

play rollout observe-again
all "observe, a second time" 0 changed
all "observe, a second time" 0 failed
for n in 1 2 3; do snapshot "$n" "$work/fleet-$n.observing"; done

# What somebody writes who forgets where he comes from: the second host will not be reached any more.
wants 1 'leakguard_mode: enforce'
wants 2 'leakguard_mode: enforce' 'leakguard_confirm_seconds: 40' 'leakguard_reconnect_seconds: 15' \
    'leakguard_configuration:' '  kill_switch: {mode: always}'
wants 3 'leakguard_mode: enforce'

play rollout check-enforce --check --diff
expect "check mode of enforcing: exit code" 0 $code
all "check mode of enforcing" 1 changed
expect "check mode of enforcing: shows it" 3 "$(grep -c '^+mode = "enforce"' "$log")"
for n in 1 2 3; do same "check mode of enforcing" "$n" "$work/fleet-$n.observing"; done

play rollout enforce --extra-vars '{"leakguard_batches": [1]}'
[ $code -ne 0 ] && ok "enforce: the rollout has failed" || failed "enforce: the rollout has not failed"
some enforce 1
enforces enforce 1
if grep -q 'fleet-2 failed at .*Reach the host over a new connection.* and was not confirmed' "$log"; then
    ok "enforce: fleet-2 could not be reached"
else
    failed "enforce: fleet-2: $(grep 'fleet-2.*FAILED' "$log"); see $log"
fi
expect "enforce: fleet-2 has failed" 1 "$(recap 2 failed)"
expect "enforce: fleet-3 was left alone" '' "$(recap 3 changed)"
within 'on 2 true' && within '[ "$(runs 2)" = active ]' && ok "enforce: fleet-2 is back" || failed "enforce: fleet-2 stays away"
expect "enforce: the trial on fleet-2 has ended without a confirmation" 3 \
    "$(on 2 systemctl show --property=ExecMainStatus --value leakguard-trial@40s)"
observes "enforce, not confirmed" 2
same "enforce, not confirmed" 3 "$work/fleet-3.observing"
observes "enforce, not reached" 3

# The second is mended; a check of the third fails.
wants 2 'leakguard_mode: enforce' 'leakguard_configuration:' '  kill_switch:' '    mode: always' \
    '    lan: [192.168.82.1/32]' '    endpoints: [{address: 192.168.82.1, port: 51820, mark: 0xca6c}]' \
    '  verify: {latency_max: 5s, signed_name: "", bogus_name: ""}'
wants 3 'leakguard_mode: enforce' 'leakguard_health_commands: [["test", "-e", "/run/well"]]'
play rollout enforce-mended --extra-vars '{"leakguard_batches": [1, "100%"]}'
[ $code -ne 0 ] && ok "mended: the rollout has failed" || failed "mended: the rollout has not failed"
expect "mended: fleet-1 changed" 0 "$(recap 1 changed)"
some mended 2
enforces mended 2
if grep -q 'fleet-3 failed at .*Check that the host is well.* and was not confirmed: it is back' "$log"; then
    ok "mended: fleet-3 is not well"
else
    failed "mended: fleet-3: $(grep 'fleet-3.*FAILED' "$log"); see $log"
fi
within '[ "$(runs 3)" = active ]'
observes "mended, not well" 3

on 3 sudo touch /run/well
# As most will call it: one, a quarter, the rest.
play rollout enforce-all --extra-vars '{"leakguard_batches": [1, "25%", "100%"]}'
expect "all: exit code" 0 $code
some all 3
for n in 1 2 3; do
    enforces all "$n"
    if on "$n" sudo leakguard verify --quick >"$logs/verify-$n.log" 2>&1; then
        ok "all: fleet-$n passes the leak test"
    else
        failed "all: fleet-$n: $(grep -v '^pass' "$logs/verify-$n.log" | head -n 3 | tr '\n' ';')"
    fi
done
play rollout enforce-again
all "all, a second time" 0 changed
all "all, a second time" 0 failed

# As if a run had ended between writing a file and restarting the agent.
pid() { on 1 systemctl show --value --property=MainPID leakguard; }
before=$(pid)
on 1 sudo touch /etc/leakguard/leakguard.toml
play rollout interrupted
[ "$before" != "$(pid)" ] && ok "after an interrupted run: another agent" || failed "after an interrupted run: the old agent"
play rollout interrupted-again
all "after an interrupted run, a second time" 0 changed

play rollback rollback
expect "rollback: exit code" 0 $code
for n in 1 2 3; do
    some rollback "$n"
    observes rollback "$n"
done
play rollback rollback-again
all "rollback, a second time" 0 changed

# By hand: the process that waits is killed, the agent is started, the trial is stopped; then it is confirmed.
on_trial() {
    on 3 sudo sh -s <<'C'
cd /etc/leakguard
sed 's/^mode = "observe"/mode = "enforce"/' leakguard.toml >leakguard.toml.trial
systemctl start leakguard-trial@300s
C
    expect "$1: fleet-3 enforces on trial" enforce "$(state 3 mode)"
    expect "$1: fleet-3 leaks nothing on trial" 0 "$(leaks 3)"
}
for how in 'kill --signal=KILL leakguard-trial@300s' 'start leakguard' 'stop leakguard-trial@300s'; do
    on_trial "by hand, $how"
    # shellcheck disable=SC2086
    on 3 sudo systemctl $how
    within '[ "$(runs 3)" = active ] && [ "$(state 3 mode)" = observe ]'
    observes "by hand, $how" 3
done
on_trial "by hand, confirm"
expect "by hand, confirm" 'confirmed; what is enforced stays' "$(on 3 sudo leakguard confirm)"
within '[ "$(runs 3)" = active ]'
enforces "by hand, confirm" 3

play uninstall uninstall
expect "uninstall: exit code" 0 $code
for n in 1 2 3; do
    some uninstall "$n"
    same uninstall "$n" "$work/fleet-$n.before"
    expect "uninstall: fleet-$n leaks" 1 "$(leaks "$n")"
done
play uninstall uninstall-again
all "uninstall, a second time" 0 changed
all "uninstall, a second time" 0 failed

# The same program as an archive and as a package; and another one than was meant.
checksum() { sha256sum "$1" | cut -d ' ' -f 1; }
if [ $kind = binary ]; then
    archive=$work/leakguard-lab
    mkdir -p "$archive/usr/bin" "$work/package/DEBIAN" "$work/package/usr/bin" "$work/package/usr/lib/systemd/system"
    cp "$agent" "$archive/usr/bin/leakguard"
    tar --create --gzip --file "$archive.tar.gz" --directory "$work" leakguard-lab
    cp "$agent" "$work/package/usr/bin/leakguard"
    cp --dereference "$collection"/roles/leakguard/files/*.service "$work/package/usr/lib/systemd/system"
    printf '%s\n' 'Package: leakguard' 'Version: 0.0.1' "Architecture: $(dpkg --print-architecture)" \
        'Maintainer: lab <lab@lab.invalid>' 'Description: the program and its units' >"$work/package/DEBIAN/control"
    dpkg-deb --root-owner-group -Znone --build "$work/package" "$work/leakguard.deb" >"$logs/package.log" 2>&1
    wants 1 'leakguard_binary: ""' "leakguard_archive: $archive.tar.gz" "leakguard_checksum: $(checksum "$archive.tar.gz")"
    wants 2 'leakguard_binary: ""' "leakguard_package: $work/leakguard.deb" \
        "leakguard_checksum: $(checksum "$work/leakguard.deb")"
    wants 3 "leakguard_checksum: $(checksum "$archive.tar.gz")"
    # One after the other: the last one fails.
    play rollout sources --extra-vars '{"leakguard_batches": [1]}'
    expect "sources: another checksum: fleet-3 failed" 1 "$(recap 3 failed)"
    same "sources: another checksum" 3 "$work/fleet-3.before"
    for n in 1 2; do
        some sources "$n"
        observes sources "$n"
    done
    expect "sources: archive" /usr/local/bin/leakguard "$(on 1 which leakguard)"
    expect "sources: package" /usr/bin/leakguard "$(on 2 which leakguard)"
    play rollout sources-again --extra-vars '{"leakguard_batches": [1]}'
    for n in 1 2; do expect "sources, a second time: fleet-$n changed" 0 "$(recap "$n" changed)"; done
    play uninstall sources-uninstall
    for n in 1 2; do
        some "sources: uninstall" "$n"
        same "sources: uninstall" "$n" "$work/fleet-$n.before"
    done
fi
echo "guest: end"
