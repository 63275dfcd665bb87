// Loads an object and attaches its programs where they say, says "ready", and counts until its input
// ends. Then it says the sum of the object's variables, if it has any: the calls in its histogram.

#include <stdio.h>
#include <bpf/libbpf.h>

static int attach(const struct bpf_object *object)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, object)
		if (!bpf_program__attach(program))
			return -1;
	return 0;
}

static void tell(const struct bpf_object *object)
{
	struct bpf_map *variables = bpf_object__find_map_by_name(object, ".bss");
	const unsigned long long *variable;
	unsigned long long sum = 0;
	size_t bytes;

	if (!variables)
		return;
	// Mapped: these are the kernel's own.
	variable = bpf_map__initial_value(variables, &bytes);
	for (size_t at = 0; variable && at < bytes / sizeof(*variable); at++)
		sum += variable[at];
	printf("%llu\n", sum);
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
	tell(object);
	return 0;
}
