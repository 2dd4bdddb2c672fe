#!/bin/busybox sh
# First process of the emulated host. It loads KVM, runs /mnt/run.sh from the payload disk, and
# says how that ended: the emulator's own exit status cannot.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t debugfs none /sys/kernel/debug
mount -t devtmpfs none /dev
mkdir -p /dev/shm && mount -t tmpfs none /dev/shm
mount -t tmpfs none /tmp
mount -t tmpfs none /run
ip link set lo up
for module in irqbypass kvm kvm-amd virtio_blk; do
    insmod "/modules/$module.ko" || echo "LAB-HOST cannot load $module"
done
echo "LAB-HOST ready after $(cut -d' ' -f1 /proc/uptime) s, nested paging $(cat /sys/module/kvm_amd/parameters/npt)"
mount -t ext4 /dev/vda /mnt || poweroff -f
cd /mnt
if grep -q lab.shell /proc/cmdline; then
    setsid cttyhack sh
else
    # Whoever waits for the host cannot see otherwise that its kernel stands still.
    while sleep 5; do echo LAB-ALIVE; done &
    sh ./run.sh
    status=$?
    kill $!
    echo "LAB-RC=$status"
fi
cd /
umount -l /mnt
sync
poweroff -f
