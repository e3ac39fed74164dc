#!/bin/sh
# Builds rcrun, makes a bundle from this machine's own shell, runs it, and shows what it isolated; then builds an image
# of the same files from a Dockerfile, twice, and runs that. RCRUN=/path/to/rcrun runs another one instead.
set -eu
cd "$(dirname "$0")"

if [ -z "${RCRUN-}" ]; then
    cargo build --release --bin rcrun
    RCRUN=${CARGO_TARGET_DIR:-target}/$(rustc -vV | sed -n 's/^host: //p')/release/rcrun
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rootfs=$work/rootfs
mkdir "$rootfs" "$rootfs/dev" "$rootfs/proc" "$rootfs/sys" "$rootfs/tmp"
chmod 755 "$work" "$rootfs"

# The root file system: three programs of this machine and the libraries that they load.
for program in sh uname readlink; do
    path=$(command -v "$program")
    mkdir -p "$rootfs/bin"
    cp -L "$path" "$rootfs/bin/$program"
    ldd "$path" 2>/dev/null | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$rootfs$(dirname "$library")"
        cp -Ln "$library" "$rootfs$library"
    done
done

cat > "$rootfs/show" <<'SHOW'
#!/bin/sh
row() { printf '%s\t%s\n' "$1" "$2"; }
count() { echo $#; }
lines() { n=0; while read -r _; do n=$((n + 1)); done < "$1"; echo $n; }
field() { while read -r name value; do [ "$name" = "$2" ] && echo "$value"; done < "$1"; }
links() { while read -r name _; do case $name in *:) printf '%s ' "${name%:}" ;; esac; done < /proc/net/dev; }
row 'process id' $$
row 'processes seen' "$(count /proc/[0-9]*)"
row 'host name' "$(uname -n)"
row 'mounts' "$(lines /proc/self/mountinfo)"
row 'effective capabilities' "$(field /proc/self/status CapEff:)"
row 'can gain privileges' "$([ "$(field /proc/self/status NoNewPrivs:)" = 1 ] && echo no || echo yes)"
row 'network interfaces' "$(links)"
read -r cgroup < /proc/self/cgroup
row 'control group' "${cgroup##*:}"
for kind in pid net ipc uts mnt user cgroup; do
    row "$kind namespace" "$(readlink /proc/self/ns/$kind)"
done
row 'can write to /' "$([ -w / ] && echo yes || echo no)"
SHOW
chmod 755 "$rootfs/show"

if [ "$(id -u)" = 0 ]; then rootless=; else rootless=--rootless; fi
"$RCRUN" spec $rootless --bundle "$work"
sed -i -e 's/"terminal": true/"terminal": false/' \
    -e 's|^\(\t*\)"sh"$|\1"/show"|' \
    -e 's/"hostname": ".*"/"hostname": "isolated"/' "$work/config.json"

sh "$rootfs/show" > "$work/outside"
"$RCRUN" --root "$work/state" run --bundle "$work" "demo-$$" > "$work/inside"

printf '%-24s %-34s %s\n' '' 'this machine' 'in the container'
tab=$(printf '\t')
while IFS=$tab read -r what outside <&3 && IFS=$tab read -r _ inside <&4; do
    if [ "$outside" = "$inside" ]; then inside="$inside (the same)"; fi
    printf '%-24s %-34s %s\n' "$what" "$outside" "$inside"
done 3< "$work/outside" 4< "$work/inside"

printf '\nThe same files as an image:\n\n'
cat > "$work/Dockerfile" <<'FILE'
FROM scratch
COPY rootfs/ /
RUN <<EOF
echo "built by $(uname -s) as process $$" > /built
EOF
CMD ["/bin/sh", "-c", "read -r line < /built; echo \"$line, run as process $$\""]
FILE
image() { "$RCRUN" --root "$work/state" --store "$work/store" "$@"; }
image build --progress plain --tag demo "$work"
printf '\nOnce more, now that nothing changed:\n\n'
image build --progress plain --tag demo "$work"
printf '\n'
image run --rm --network none demo
