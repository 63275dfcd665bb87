// How long calls take, as a histogram by powers of two in the kernel: the design of libbpf-tools. The
// time of the beginning lies in a hash by thread, and the histogram is a variable of the object.
//
// BEGIN and END name the hooks, as in "fentry/tcp_sendmsg". With KEEP the time of the beginning stays in
// the hash when the call has ended, as it does in funclatency, which is cheaper and takes an end whose
// beginning was missed for one of an older call. Without, it is deleted, as by runqlat and biolatency: no
// call is told that was not made. That is the histogram which netdiag is held against on a machine of its own;
// against funclatency it is held by name, where instructions are counted.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define THREADS 10240
#define SLOTS 36

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, THREADS);
	__type(key, __u32);
	__type(value, __u64);
} beginnings SEC(".maps");

__u64 calls[SLOTS];

// The position of the highest bit; 0 for 0. There is no instruction for it.
static __always_inline __u32 highest_bit(__u64 value)
{
	__u32 position = 0;

	for (__u32 half = 32; half; half /= 2) {
		__u32 above = (value >> half ? half : 0);

		value >>= above;
		position += above;
	}
	return position;
}

SEC(BEGIN) int begin(void *context)
{
	__u32 thread = bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&beginnings, &thread, &now, BPF_ANY);
	return 0;
}

SEC(END) int end(void *context)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 thread = bpf_get_current_pid_tgid();
	__u64 *beginning = bpf_map_lookup_elem(&beginnings, &thread);
	__u32 slot;

	if (!beginning)
		return 0;
	slot = highest_bit(now - *beginning);
	if (slot >= SLOTS)
		slot = SLOTS - 1;
	__sync_fetch_and_add(&calls[slot], 1);
#ifndef KEEP
	bpf_map_delete_elem(&beginnings, &thread);
#endif
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
