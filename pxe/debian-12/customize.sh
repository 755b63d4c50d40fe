#!/bin/sh
# mmdebstrap's customize hook: makes a plain Debian tree into the root of the image. Runs outside of the tree.
#   $1                  the tree
#   HALLIGAN_FLAVOUR    "cloud" or "generic"
set -eu
root=$1
recipe=$(dirname "$(readlink -f "$0")")
inside() { chroot "$root" "$@"; }

# Our own files, with the modes that they should have whatever the checkout's are; some are for one kernel only.
for files in root "$HALLIGAN_FLAVOUR"; do
    if [ -d "$recipe/$files" ]; then
        tar -C "$recipe/$files" --owner=0 --group=0 --mode=u=rwX,go=rX -c . | tar -C "$root" --no-same-permissions -x
    fi
done

# A seed and host keys have their places.
mkdir -p "$root/var/lib/cloud/seed"

# Timers of a machine that looks after itself; this one is looked after. Units that look for volumes that it has not.
inside systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    cloud-init-hotplugd.socket cloud-init-hotplugd.service
# Generators run at every boot and reload; these look for what an fstab of ours, or nobody, says.
mkdir -p "$root/etc/systemd/system-generators"
for generator in gpt-auto hibernate-resume integritysetup rc-local veritysetup; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
inside systemctl --quiet enable systemd-networkd.service systemd-resolved.service systemd-timesyncd.service ssh.service
inside systemctl --quiet set-default multi-user.target

# The initramfs again: zstd, and what says which drivers it has, were not there when the kernel came.
inside update-initramfs -u -k all

# Who the machine is, is decided at its first boot. An empty machine-id is filled in then.
rm -f "$root"/etc/ssh/ssh_host_* "$root"/var/lib/dbus/machine-id "$root"/*.old "$root"/etc/apt/apt.conf.d/99mmdebstrap
: >"$root/etc/machine-id"
echo localhost >"$root/etc/hostname"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
