#!/bin/sh
# mmdebstrap's customize hook: makes a plain Debian tree into the root of the image. Runs outside of the tree.
#   $1                  the tree
#   HALLIGAN_FLAVOUR    "cloud" or "generic"
set -eu
root=$1
recipe=$(dirname "$(readlink -f "$0")")
inside() { chroot "$root" "$@"; }

# Our own files, with the modes that they should have whatever the checkout's are.
tar -C "$recipe/root" --owner=0 --group=0 --mode=u=rwX,go=rX -c . | tar -C "$root" --no-same-permissions -x

# A seed and host keys have their places.
mkdir -p "$root/var/lib/cloud/seed"

# Timers of a machine that looks after itself; this one is looked after. Units that look for volumes that it has not.
inside systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    cloud-init-hotplugd.socket cloud-init-hotplugd.service
inside systemctl --quiet enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service ssh.service
inside systemctl --quiet set-default multi-user.target

# The initramfs again: with the drivers that are wanted only, and with zstd, which was not there when the kernel came.
if [ "$HALLIGAN_FLAVOUR" = cloud ]; then
    echo MODULES=list >>"$root/etc/initramfs-tools/conf.d/halligan"
    grep -v '^#' "$recipe/modules.cloud" >>"$root/etc/initramfs-tools/modules"
fi
inside update-initramfs -u -k all

# Who the machine is, is decided at its first boot. An empty machine-id is filled in then.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id "$root"/*.old "$root"/etc/apt/apt.conf.d/99mmdebstrap
: >"$root/etc/machine-id"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
