#!/bin/sh
# The set-up of W(N) as the reference measures it: its own run.py, floor.c and floor.sh, with netrec beside them.
# Usage: reference.sh TESTBED [N [ROUNDS]], with the folder of run.py; as root, after `cargo build --release`.
set -eu
testbed=${1:?the folder of run.py} containers=${2:-1} rounds=${3:-15}
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
FLOOR=$work/floor SETTLE=${SETTLE:-1} python3 "$work/run.py" "$containers" "$rounds" floor "floor:-L -l -Q -G" netrec
