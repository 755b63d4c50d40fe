#!/bin/sh
# build_probe.sh OUTPUT: make a disk image with a tiny Linux that shows what a cloud gave it.
#
# Debian's cloud kernel, busybox and dropbear in an initial RAM disk on a FAT file system that starts by syslinux (BIOS).
# It takes an address by DHCP, its name, keys and user data from the metadata service, runs SSH for the user `probe`
# and shows a log-in prompt with its name on the serial line. Its disks are left alone. Needs 96 MB of memory.
set -eu
output=$1
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root

# --- what it consists of
cd "$work"
kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p' | grep '^linux-image-' | head -n 1)
apt-get --quiet=2 --option APT::Sandbox::User=root download "$kernel"
dpkg-deb --extract "$kernel"_*.deb kernel
version=$(ls kernel/lib/modules)
depmod --basedir "$work/kernel" "$version"

mkdir -p "$root/lib/modules/$version/kernel" "$root"/bin "$root"/dev "$root"/etc/dropbear "$root"/home/probe/.ssh "$root"/lib/modules "$root"/proc "$root"/root \
  "$root"/run "$root"/sys "$root"/tmp "$root"/var
cp /bin/busybox "$root/bin/busybox"
cp /usr/sbin/dropbear "$root/bin/dropbear"
ldd /usr/sbin/dropbear | grep -o "/[^ ]*" | while read -r library; do
  mkdir -p "$root$(dirname "$library")"
  cp --dereference "$library" "$root$library"
done

# Every module that the wanted ones need, in a flat tree of the same names.
for name in virtio_pci virtio_blk virtio_net virtio_rng virtio_scsi sd_mod virtio_balloon; do
  modprobe --dirname "$work/kernel" --set-version "$version" --show-depends "$name" 2>/dev/null || true
done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | sort -u > modules
while read -r module; do
  cp "$module" "$root/lib/modules/$version/kernel/"
done < modules
cp kernel/lib/modules/"$version"/modules.builtin kernel/lib/modules/"$version"/modules.builtin.modinfo kernel/lib/modules/"$version"/modules.order "$root/lib/modules/$version/"
depmod --basedir "$root" "$version"

cp "$here/probe_init.sh" "$root/init"
cp "$here/probe_dhcp.sh" "$root/etc/dhcp.sh"
chmod 0755 "$root/init" "$root/etc/dhcp.sh"
printf 'root:x:0:0::/root:/bin/sh\nprobe:x:1000:1000::/home/probe:/bin/sh\n' > "$root/etc/passwd"
printf 'root:x:0:\nprobe:x:1000:\n' > "$root/etc/group"
printf 'root:*:1::::::\nprobe:*:1::::::\n' > "$root/etc/shadow"
printf '/bin/sh\n' > "$root/etc/shells"
chmod 0700 "$root/home/probe/.ssh"
chown -R 1000:1000 "$root/home/probe"

# --- the disk: FAT without a partition table, which BIOS and syslinux start as it is
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet --create --format=newc --owner=+0:+0 --reproducible) > initrd
# The owner of the home is set at start: the archive knows root only.
gzip -9n initrd
cat > syslinux.cfg <<CONFIG
default probe
label probe
  kernel vmlinuz
  append initrd=initrd.gz console=ttyS0,115200 virtio_net.csum=0 virtio_net.gso=0 quiet panic=10
CONFIG
size=$(($(stat -c %s kernel/boot/vmlinuz-"$version") + $(stat -c %s initrd.gz)))
mkfs.vfat -C -n PROBE disk.raw $((size / 1024 + 2048)) > /dev/null
mcopy -i disk.raw kernel/boot/vmlinuz-"$version" ::vmlinuz
mcopy -i disk.raw initrd.gz ::initrd.gz
mcopy -i disk.raw syslinux.cfg ::syslinux.cfg
syslinux --install disk.raw
qemu-img convert -f raw -O qcow2 disk.raw "$work/disk.qcow2"
mv "$work/disk.qcow2" "$output.part"
mv "$output.part" "$output"
