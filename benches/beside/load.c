// Loads an object and attaches its programs where they say, says "ready", and counts until its input
// ends. Then it says the sum of the object's variables, if it has any: the calls in its histogram.

#include <stdio.h>
#include <bpf/libbpf.h>

// Variables of eight bytes that an object may have.
#define MOST 64

static int attach(const struct bpf_object *object)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object)
		if (!bpf_program__attach(program))
			return -1;
	return 0;
}

static int tell(const struct bpf_object *object)
{
	const struct bpf_map *variables = bpf_object__find_map_by_name(object, ".bss");
	unsigned long long values[MOST] = {}, sum = 0;
	unsigned int first = 0;
	size_t bytes;

	if (!variables)
		return 0;
	bytes = bpf_map__value_size(variables);
	if (bytes > sizeof(values) ||
	    bpf_map__lookup_elem(variables, &first, sizeof(first), values, bytes, 0))
		return -1;
	for (size_t at = 0; at < MOST; at++)
		sum += values[at];
	printf("%llu\n", sum);
	return 0;
}

int main(int argc, char **argv)
{
	struct bpf_object *object;

	if (argc != 2) {
		fprintf(stderr, "usage: load OBJECT\n");
		return 2;
	}
	// libbpf says itself what is wrong.
	object = bpf_object__open_file(argv[1], NULL);
	if (!object || bpf_object__load(object) || attach(object))
		return 1;
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return tell(object) ? 1 : 0;
}
