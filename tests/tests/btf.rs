//! Field locations against another reader of the same BTF: bpftool turns it into a C header, and a
//! C compiler says where it would look for each field.

use std::{fmt::Write as _, fs, path::Path, process::Command};

use netdiag::kernel::btf::{Btf, FieldProblem};
use netdiag_common::field::{Field, Location};
use netdiag_tests::requirement::{Feature, have};

/// Where the running kernel publishes its types.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What a C program must be told and say of a field: `NAME offset size mask`, the mask 0 where the
/// field is no bit-field.
fn question(field: Field, found: Location) -> String {
    let (structure, path, _) = field.path();
    if found.0 >> 24 == 0 {
        return format!(
            "  printf(\"{field:?} %lu %lu 0\\n\", __builtin_offsetof(struct {structure}, {path}), \
             sizeof(((struct {structure} *)0)->{path}));\n"
        );
    }
    // No address can be taken of a bit-field: set all its bits and see which byte changes.
    format!(
        "  {{ static struct {structure} s; s.{path} = -1; unsigned char *p = (void *)&s;\n\
         \x20   for (unsigned long i = 0; i < sizeof(s); i++)\n\
         \x20     if (p[i]) printf(\"{field:?} %lu 1 %d\\n\", i, p[i]); }}\n"
    )
}

/// What this reader says, in the same form.
fn answer(field: Field, found: Location) -> String {
    let (_, _, size) = field.path();
    let mask = if found.0 >> 24 == 0 { 0 } else { u32::from(found.mask()) << found.shift() };
    format!("{field:?} {} {size} {mask}", found.offset())
}

/// Compiles `body` against the kernel's header in `dir`; `None` where it does not compile.
fn compile(dir: &Path, body: &str) -> Option<std::path::PathBuf> {
    let (source, program) = (dir.join("fields.c"), dir.join("fields"));
    let text = format!(
        "#include \"vmlinux.h\"\nextern int printf(const char *, ...);\n\
         int main(void) {{\n{body}  return 0;\n}}\n"
    );
    fs::write(&source, text).expect("a writable temporary directory");
    let output = Command::new("cc")
        .args(["-w", "-fms-extensions", "-o"])
        .args([&program, &source])
        .output()
        .expect("a C compiler named cc");
    output.status.success().then_some(program)
}

#[test]
fn every_field_lies_where_a_c_compiler_would_look() {
    if !have(Feature::Compiler) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dump = Command::new("bpftool")
        .args(["btf", "dump", "file", BTF, "format", "c"])
        .output()
        .expect("bpftool, from the package of the same name");
    assert!(dump.status.success(), "bpftool: {}", String::from_utf8_lossy(&dump.stderr));
    fs::write(dir.path().join("vmlinux.h"), &dump.stdout).unwrap();

    let btf = Btf::load(None).unwrap();
    let (mut questions, mut expected) = (String::new(), String::new());
    for &field in Field::ALL {
        match btf.locate(field) {
            Ok(found) => {
                questions.push_str(&question(field, found));
                writeln!(expected, "{}", answer(field, found)).unwrap();
            }
            Err(error) => {
                assert!(
                    matches!(error.problem, FieldProblem::NoField(_) | FieldProblem::NoStruct),
                    "{error}"
                );
                let body = question(field, Location::bytes(0));
                assert!(compile(dir.path(), &body).is_none(), "{error}, but C finds it");
            }
        }
    }
    let program = compile(dir.path(), &questions).expect("the header compiles");
    let said = Command::new(program).output().unwrap();
    assert!(said.status.success());
    assert_eq!(String::from_utf8_lossy(&said.stdout), expected);
}

/// Names and types that are the same in Linux 5.10 to 7.2.
#[test]
fn prototypes_and_enums_of_the_running_kernel() {
    let btf = Btf::load(None).unwrap();
    let send = btf.function("tcp_sendmsg").unwrap();
    assert_eq!(send.args, ["struct sock *", "struct msghdr *", "size_t"]);
    assert_eq!(send.ret, "int");
    let state = btf.tracepoint("inet_sock_set_state").unwrap();
    assert_eq!(state, ["struct sock *", "int", "int"]);
    assert_eq!(btf.enum_value("tcp_ca_state", "TCP_CA_Loss"), Some(4));
    assert_eq!(btf.tracepoint("no_such_tracepoint"), None);
    assert_eq!(btf.function("no_such_function"), None);
}

/// As for a kernel that publishes no BTF but whose vmlinux is at hand.
#[test]
fn an_elf_file_gives_its_section() {
    if !have(Feature::Compiler) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, plain) = (dir.path().join("empty.c"), dir.path().join("plain.o"));
    let with_types = dir.path().join("with_types.o");
    fs::write(&source, "int x;\n").unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("cc").arg("-c").arg("-o").args([&plain, &source]));
    let section = format!(".BTF={BTF}");
    run(Command::new("objcopy").args(["--add-section", &section]).args([&plain, &with_types]));

    let (elf, raw) = (Btf::load(Some(&with_types)).unwrap(), Btf::load(None).unwrap());
    assert_eq!(elf.locations(), raw.locations());
    let error = Btf::load(Some(&plain)).unwrap_err().to_string();
    assert!(error.contains("without BTF"), "{error}");
}

#[test]
fn a_file_that_is_no_btf_is_refused_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in
        [("empty", &b""[..]), ("text", b"#!/bin/sh and some more text"), ("elf", b"\x7fELF\x02")]
    {
        let path = dir.path().join(name);
        fs::write(&path, content).unwrap();
        let error = Btf::load(Some(&path)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("--btf"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    assert!(Btf::load(Some(Path::new("/dev/zero"))).unwrap_err().to_string().contains("larger"));
}
