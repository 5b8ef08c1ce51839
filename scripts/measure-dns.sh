#!/bin/sh
# When an instance that is added to a zone or a file, or removed, is noticed: by watches, dig, reqwest and tonic.
# In a network of its own, with dnsmasq as the system's name server at the address that Docker's has. Needs root, dnsmasq and dig.
set -eu
cd "$(dirname "$0")/.."
cargo build --workspace --all-features --example notices --bin switchboard
exec unshare --net --mount sh -eu -c '
    folder=$(mktemp -d)
    trap "kill \$server 2>/dev/null; rm -rf $folder" EXIT
    ip link set lo up
    echo "127.0.0.2 orders" >"$folder/hosts"
    printf "nameserver 127.0.0.11\noptions ndots:0\n" >"$folder/resolv.conf"
    mount --bind "$folder/resolv.conf" /etc/resolv.conf
    dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --no-resolv --no-hosts --bind-interfaces \
        --listen-address=127.0.0.11 --local-ttl=5 --addn-hosts="$folder/hosts" &
    server=$!
    sleep 0.5
    target/debug/examples/notices "$folder/hosts" $server
    kill $server

    # Questions at rest, of a watch of addresses and one of SRV records, in one minute.
    for ttl in 0 5 20 600; do
        dnsmasq --keep-in-foreground --conf-file=/dev/null --pid-file= --user=root --no-resolv --no-hosts --bind-interfaces \
            --listen-address=127.0.0.11 --local-ttl=$ttl --addn-hosts="$folder/hosts" \
            --srv-host=_orders._tcp,orders,8080,1,1 --log-queries --log-facility="$folder/log" &
        server=$!
        sleep 0.5
        : >"$folder/log"
        export SWITCHBOARD_REGISTRY="dns:?port=8080"
        timeout 60 target/debug/switchboard watch orders >/dev/null &
        first=$!
        timeout 60 target/debug/switchboard watch _orders._tcp >/dev/null || true
        wait $first || true
        for name in orders _orders._tcp; do
            echo "TTL $ttl: $(grep -c "query.[A-Z]*. $name from" "$folder/log") questions for $name in a minute"
        done
        kill $server
    done
'
