// Programs that do nothing: what the hooks themselves cost, below which no tracer can be.
//
// BEGIN and END name the hooks, as in "fentry/tcp_sendmsg".

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC(BEGIN) int begin(void *context)
{
	return 0;
}

SEC(END) int end(void *context)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
