#!/usr/bin/busybox sh
# The guest's first process: mounts what a booted Debian has mounted (but for debugfs and tracefs),
# runs /xtask/command and hands its output and status to the host over virtio ports.
export PATH=/usr/bin HOME=/root TERM=dumb LANG=C.UTF-8

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t devtmpfs -o nosuid dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
mount -t tmpfs -o nosuid,nodev,mode=1777 tmp /tmp
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mount -t bpf -o nosuid,nodev,noexec,mode=700 bpf /sys/fs/bpf
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr

for module in virtio_pci virtio_console; do modprobe -q $module; done
ip link set lo up
hostname netdiag-vm

# The ports' nodes come some time after the driver.
out=/dev/vport0p1 err=/dev/vport0p2 status=/dev/vport0p3 files=/dev/vport0p4
tries=0
until [ -c $out ] && [ -c $err ] && [ -c $status ] && [ -c $files ]; do
    tries=$((tries + 1))
    if [ $tries -gt 2000 ]; then
        echo "xtask: no virtio ports" > /dev/ttyS0
        poweroff -f
    fi
    usleep 5000
done
exec 3> $status
echo booted >&3

# Through pipes: a port may be opened only once, and programs do reopen /dev/stderr.
mkfifo /run/xtask.out /run/xtask.err
cat /run/xtask.out > $out & out=$!
cat /run/xtask.err > $err & err=$!
cd /root
sh /xtask/command < /dev/null > /run/xtask.out 2> /run/xtask.err 3>&-
code=$?

# What the command left running may hold the pipes open.
(sleep 2; kill $out $err) 2> /dev/null &
wait $out
wait $err
if [ -s /xtask/take ]; then
    set --
    while read -r path; do set -- "$@" "$path"; done < /xtask/take
    tar -c -f $files -C / "$@" 2> /run/xtask.tar || echo "take $(head -n 1 /run/xtask.tar)" >&3
fi
echo "exit $code" >&3
# The host ends the machine when it has read that.
exec sleep 3600
