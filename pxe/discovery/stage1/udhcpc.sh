#!/bin/busybox sh
# What busybox udhcpc calls with what it learnt: give the card its address, and nothing that outlives stage 1.
case "$1" in
deconfig)
    ip -4 addr flush dev "$interface"
    ;;
bound | renew)
    ip -4 addr flush dev "$interface"
    ip addr add "$ip/${mask:-24}" dev "$interface"
    for gateway in $router; do
        ip route add "$gateway" dev "$interface" 2>/dev/null # it may be outside of our prefix
        ip route add default via "$gateway" dev "$interface"
        break
    done
    {
        [ -z "$domain" ] || echo "search $domain"
        for server in $dns; do echo "nameserver $server"; done
    } >/etc/resolv.conf
    echo "$ip/${mask:-24}" >/tmp/address
    ;;
esac
exit 0
