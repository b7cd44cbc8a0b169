# shellcheck shell=bash
# Runs when the machine is up: tells the console what is enforced, restarts the agent, powers off.
set -u

# The kernel and systemd write to the console, too: whatever they began is ended first.
say() {
    printf '\nguest: %s\n' "$*" >/dev/console
}

# The report, or the last line of what is wrong; before it there may be a warning.
status() {
    leakguard status --json 2>&1 | tail -n 1
}

say "up"
for unit in leakguard-early leakguard; do
    say "unit $unit $(systemctl is-active "$unit")"
done
say "text $(systemctl show --property=StatusText --value leakguard)"
say "status $(status)"
if systemctl --quiet is-active leakguard; then
    before=$(systemctl show --property=MainPID --value leakguard)
    systemctl restart leakguard
    after=$(systemctl show --property=MainPID --value leakguard)
    say "restarted from $before to $after: $(systemctl is-active leakguard)"
    say "status $(status)"
fi
for unit in leakguard-early leakguard; do
    # What the agent says of itself, without the events.
    journalctl --boot --no-pager --quiet --output=cat --unit="$unit" --grep='^[a-z]+: ' | while read -r line; do
        say "$unit: $line"
    done
done
# What the network does for a second while nothing happens.
sleep 1
say "power-off"
systemctl --no-block poweroff
