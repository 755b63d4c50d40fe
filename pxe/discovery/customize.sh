#!/bin/sh
# mmdebstrap's customize hook: makes a plain Debian tree into the root of the discovery image. Runs outside of the tree.
#   $1                  the tree
#   HALLIGAN_KERNEL     kernel package whose newest version is downloaded, such as linux-image-cloud-amd64
#   HALLIGAN_AGENT      the agent
#   HALLIGAN_PARTS      folder for the packages that are unpacked but not installed: the kernel and busybox
set -eu
root=$1
recipe=$(dirname "$(readlink -f "$0")")

# The kernel package would want an initramfs generator, and hooks that would run it; its files are all that is needed.
(
    export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
    cd "$HALLIGAN_PARTS"
    kernel=$(apt-cache depends "$HALLIGAN_KERNEL" | sed -n 's/^ *Depends: //p' | head -n 1)
    [ -n "$kernel" ] || { echo "E: no kernel package was found behind $HALLIGAN_KERNEL" >&2; exit 1; }
    apt-get -q download "$kernel" busybox-static
)

# Our own files, with the modes that they should have whatever the checkout's are.
tar -C "$recipe/root" --owner=0 --group=0 --mode=u=rwX,go=rX -c . | tar -C "$root" --no-same-permissions -x
mkdir -p "$root/usr/local/lib/halligan"
install -m 0644 "$HALLIGAN_AGENT" "$root/usr/local/lib/halligan/halligan_agent.py"

# Units that wait for what never comes, look after a disk that is not there, or do at each boot what is done here once.
inside() { chroot "$root" "$@"; }
inside systemctl --quiet mask \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    mdcheck_continue.timer mdcheck_start.timer mdmonitor-oneshot.timer mdmonitor.service \
    xfs_scrub_all.timer nvmefc-boot-connections.service nvmf-autoconnect.service \
    blk-availability.service lvm2-lvmpolld.socket lvm2-monitor.service dm-event.socket \
    smartmontools.service ipmievd.service openipmi.service \
    getty.target console-getty.service getty-static.service \
    ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service \
    systemd-sysusers.service systemd-firstboot.service systemd-machine-id-commit.service \
    systemd-journal-flush.service systemd-pstore.service systemd-random-seed.service \
    systemd-networkd-wait-online.service systemd-network-generator.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-remount-fs.service systemd-binfmt.service \
    systemd-tmpfiles-clean.timer systemd-repart.service systemd-boot-system-token.service kmod-static-nodes.service \
    mdadm-shutdown.service modprobe@.service systemd-ask-password-console.path systemd-ask-password-wall.path \
    dev-hugepages.mount dev-mqueue.mount sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount \
    sys-kernel-tracing.mount proc-sys-fs-binfmt_misc.automount \
    2>/dev/null
# Generators that look for what is not here: partitions to mount by themselves, encrypted disks, scripts of System V.
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup fstab getty gpt-auto hibernate-resume integritysetup rc-local system-update sysv veritysetup; do
    ln -sf /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
inside systemctl --quiet disable ssh.service
inside systemctl --quiet enable systemd-networkd.service lldpd.service halligan-agent.service
inside systemctl --quiet set-default multi-user.target

# Arrays and volume groups on the machine's disks are looked at, never started: what is started cannot be overwritten.
for rule in 63-md-raid-arrays 64-md-raid-assembly 69-md-clustered-confirm-device 69-lvm; do
    ln -sf /dev/null "$root/etc/udev/rules.d/$rule.rules"
done

# Who the machine is, is decided at boot. An empty machine-id is filled in then; a missing one would mean "first boot".
rm -f "$root"/etc/ssh/ssh_host_* "$root"/etc/resolv.conf "$root"/etc/mdadm/mdadm.conf "$root"/etc/hostname
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id"
echo discovery >"$root/etc/hostname"
printf '127.0.0.1 localhost discovery\n::1 localhost discovery\n' >"$root/etc/hosts"
: >"$root/etc/fstab"

# Bytecode that does not depend on the files' times, for all of Python and the agent: a boot compiles nothing.
find "$root/usr/lib/python3" "$root/usr/lib/python3.11" -name __pycache__ -prune -exec rm -rf {} +
inside /usr/bin/python3 -s -m compileall -qq --invalidation-mode unchecked-hash \
    /usr/lib/python3 /usr/lib/python3.11 /usr/local/lib/halligan
