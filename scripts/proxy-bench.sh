#!/usr/bin/env bash
# Measures `switchboard proxy` beside nginx, and both beside the bare server, on loopback: the table in docs/cli.md.
#
#   cargo build --release -p switchboard-cli && scripts/proxy-bench.sh [SECONDS]
#
# One server (nginx, one process, no log), the same load generator (wrk, one thread) on each in turn, three rounds of SECONDS
# (default 5) each; the figures are medians. nginx forwards with kept connections, as its manual has it for `keepalive`, with as
# many processes as there are processors; switchboard has as many threads.
#
# Exit codes: 0 done, 1 it failed, 3 nginx or wrk is missing.
set -euo pipefail

readonly SECONDS_EACH=${1:-5} ROUNDS=3 BASE=${PROXY_BENCH_PORT:-18750}
readonly SERVER=$BASE NGINX=$((BASE + 1)) PROXY=$((BASE + 2)) MDNS=$((BASE + 3))
readonly SWITCHBOARD=${SWITCHBOARD:-${CARGO_TARGET_DIR:-target}/release/switchboard}
export SWITCHBOARD_REGISTRY="mdns:?interface=lo&port=$MDNS"

for tool in nginx wrk; do
    PATH=$PATH:/usr/sbin command -v $tool > /dev/null || { echo "proxy-bench: no $tool: apt-get install $tool" >&2; exit 3; }
done
PATH=$PATH:/usr/sbin
dir=$(mktemp -d)
started=()
end() {
    kill "${started[@]}" 2> /dev/null || true
    wait 2> /dev/null || true
    rm -rf "$dir"
}
trap end EXIT

nginx_with() { # name, processes, what is in http { }
    cat > "$dir/$1.conf" << CONF
pid $dir/$1.pid; error_log stderr crit; worker_processes $2; daemon off;
events { worker_connections 4096; }
http { access_log off; client_body_temp_path $dir/$1.b; proxy_temp_path $dir/$1.p; fastcgi_temp_path $dir/$1.f;
uwsgi_temp_path $dir/$1.u; scgi_temp_path $dir/$1.s; keepalive_requests 100000000; $3 }
CONF
    [[ $(id -u) -ne 0 ]] || sed -i '1s/^/user root; /' "$dir/$1.conf"
    nginx -e stderr -p "$dir" -c "$dir/$1.conf" &
    started+=($!)
}

mkdir "$dir/files"
head -c $((1 << 20)) /dev/zero > "$dir/files/large"
nginx_with server 1 "server { listen 127.0.0.1:$SERVER; location = /small { return 200 'hello from here\n'; }
location / { root $dir/files; sendfile on; } }"
nginx_with proxy auto "upstream web { server 127.0.0.1:$SERVER; keepalive 256; keepalive_requests 100000000; }
server { listen 127.0.0.1:$NGINX; location / { proxy_pass http://web; proxy_http_version 1.1;
proxy_set_header Connection ''; proxy_set_header Host \$host; } }"
"$SWITCHBOARD" register web "127.0.0.1:$SERVER" > /dev/null &
started+=($!)
"$SWITCHBOARD" wait web > /dev/null
"$SWITCHBOARD" proxy --port "$PROXY" > /dev/null &
started+=($!)
for port in $SERVER $NGINX $PROXY; do
    curl --silent --fail --retry 20 --retry-connrefused --retry-delay 1 -H 'Host: web.localhost' -o /dev/null "http://127.0.0.1:$port/small"
done

# Requests a second, and the median and the 99th percentile of the latency in microseconds.
load() { # port, connections, path
    wrk -t1 -c"$2" -d"${SECONDS_EACH}s" --latency -H 'Host: web.localhost' "http://127.0.0.1:$1/$3" > "$dir/out"
    if grep -Eq 'Socket errors|Non-2xx' "$dir/out"; then
        cat "$dir/out" >&2
        exit 1
    fi
    awk '
        function us(text) { n = text + 0; return text ~ /us$/ ? n : text ~ /ms$/ ? n * 1000 : n * 1000000 }
        $1 == "50%" { p50 = us($2) } $1 == "99%" { p99 = us($2) } $1 == "Requests/sec:" { rps = $2 }
        END { printf "%.0f %.0f %.0f\n", rps, p50, p99 }' "$dir/out"
}
median() { sort -n | sed -n "$(((ROUNDS + 1) / 2))p"; }

echo "| | connections | | requests/s | p50 µs | p99 µs |"
echo "|---|---:|---|---:|---:|---:|"
for what in "small 1" "small 32" "large 4"; do
    read -r path connections <<< "$what"
    rm -f "$dir"/figures.*
    for _ in $(seq $ROUNDS); do
        load $SERVER "$connections" "$path" >> "$dir/figures.bare server"
        load $NGINX "$connections" "$path" >> "$dir/figures.nginx"
        load $PROXY "$connections" "$path" >> "$dir/figures.switchboard proxy"
    done
    for who in "bare server" nginx "switchboard proxy"; do
        row=""
        for column in 1 2 3; do
            row+=" | $(cut -d' ' -f$column "$dir/figures.$who" | median)"
        done
        echo "| $path | $connections | $who$row |"
    done
done
