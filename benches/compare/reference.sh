#!/bin/sh
# W(N) as the reference measures it: its own run.py, floor.c and floor.sh, with netrec beside them.
# Usage: reference.sh TESTBED [N [ROUNDS [idle]]], with the folder of run.py; as root, after `cargo build --release`.
# The set-up; or with `idle` what "nothing to do" takes, beside what the reference reads for it, on one thread.
set -eu
testbed=${1:?the folder of run.py} containers=${2:-1} rounds=${3:-15} idle=${4:-}
netrec=$(realpath "${CARGO_TARGET_DIR:-$(dirname "$0")/../../target}/release/netrec")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp "$testbed"/run.py "$testbed"/floor* "$work"
cc -O2 -pthread -o "$work/floor" "$work/floor.c"
cp "$netrec" "$work/program" # pages of a file that was just written are in memory, as those of the floor are
python3 - "$containers" >"$work/w.toml" <<'EOF'
import sys
print('topology = "w"\n[networks.n]\ndriver = "bridge"\nsubnets = ["10.0.0.0/16", "fd00::/64"]\nmtu = 1500')
for i in range(int(sys.argv[1])):
    k = i + 2
    print(f'[containers.c{i}]\nnetns = "c{i}"\n[endpoints.e{i}]\ncontainer = "c{i}"\nnetwork = "n"')
    print(f'addresses = ["10.0.{k // 256}.{k % 256}", "fd00::{k:x}"]\npublish = ["{20000 + i}:80"]')
EOF
cat >"$work/netrec.sh" <<EOF
#!/bin/sh
case \$1 in
gen) mount -t tmpfs t /run; mkdir /run/netns; mount -t tmpfs t /var/lib;;
up) $work/program apply --yes $work/w.toml;;
down) $work/program destroy --yes --topology w;;
esac
EOF
if [ -z "$idle" ]; then
    FLOOR=$work/floor SETTLE=${SETTLE:-1} python3 "$work/run.py" "$containers" "$rounds" floor "floor:-L -l -Q -G" netrec
    exit
fi
# All that is declared: the containers' links, addresses and main routes, the host's own, and the map.
unshare -nm "$work/floor" read -n "$containers" -r "$rounds" -L -l -Q -G >"$work/read"
grep -E '^(cold: .*filtered|outer: (link dump  |addr dump|route dumps)|nft: raw)' "$work/read" | tee "$work/parts"
unshare -nm python3 - "$work" "$rounds" <<'EOF'
import re, statistics, subprocess, sys, time
work, rounds = sys.argv[1], int(sys.argv[2])
# As long as the floor waits until packets have come to rest.
for line in f'sh {work}/netrec.sh gen', f'sh {work}/netrec.sh up >/dev/null', 'sleep 3':
    subprocess.run(line, shell=True, check=True)
def once():
    began = time.monotonic()
    subprocess.run([f'{work}/program', 'apply', '--yes', f'{work}/w.toml'], stdout=subprocess.DEVNULL, check=True)
    return (time.monotonic() - began) * 1e3
took = statistics.median(once() for _ in range(rounds))
parts = [float(re.search(r'([\d.]+) ms', line)[1]) for line in open(f'{work}/parts')]
assert len(parts) == 5, 'the floor says other things'
print(f'the cold read {sum(parts):.1f} ms, netrec {took:.1f} ms: x{took / sum(parts):.2f}')
EOF
