#!/bin/busybox sh
# The first process of the probe image: address, metadata, SSH, a log-in prompt. Every line begins with "probe:".
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mkdir -p /dev/pts
mount -t devpts none /dev/pts
mount -t tmpfs none /run
chown -R 1000:1000 /home/probe
exec < /dev/console > /dev/console 2>&1
modprobe -q virtio_net csum=0 gso=0 # some switches in user space hand on what they get, and a checksum left to the card is never made
for name in virtio_pci virtio_blk virtio_rng virtio_scsi sd_mod; do modprobe -q "$name"; done
ip link set lo up

METADATA=http://169.254.169.254
fetch() { timeout 10 wget -q -O - "$METADATA/$1" 2>/dev/null; } # not wget's own -T: it crashes
field() { sed -n 's/.*"'"$1"'": *"\([^"]*\)".*/\1/p' /run/meta_data.json | head -n 1; }

for device in /sys/class/net/*; do
  nic=${device##*/}
  [ "$nic" = lo ] && continue
  ip link set "$nic" up
  udhcpc -q -n -t 20 -T 3 -i "$nic" -s /etc/dhcp.sh && echo "probe: $nic has $(ip -4 -o addr show "$nic" | sed 's/.*inet \([^ ]*\).*/\1/')" \
    || echo "probe: no answer to DHCP on $nic"
done

hostname probe
tries=0
until fetch openstack/latest/meta_data.json > /run/meta_data.json && [ -s /run/meta_data.json ]; do
  tries=$((tries + 1))
  [ "$tries" -ge 100 ] && break
  echo "probe: no metadata yet"
  sleep 2
done
if [ -s /run/meta_data.json ]; then
  hostname "$(field hostname | sed 's/\..*//')"
  echo "probe: metadata uuid=$(field uuid) name=$(field name)"
  fetch latest/meta-data/public-keys/0/openssh-key > /home/probe/.ssh/authorized_keys
  chown 1000:1000 /home/probe/.ssh/authorized_keys
  fetch openstack/latest/user_data > /run/user_data
else
  echo "probe: the metadata service does not answer"
fi

dropbear -R -E -s -j -k 2>/run/dropbear.log
if head -c 2 /run/user_data 2>/dev/null | grep -q '^#!'; then
  chmod 0700 /run/user_data
  /run/user_data && echo "probe: user data ended with 0" || echo "probe: user data failed with $?"
fi
trap reboot TERM
while :; do getty -L 115200 ttyS0 vt100; done
