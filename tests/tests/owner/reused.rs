//! A process id that was another's.

use std::{ffi::CString, io, path::Path, ptr};

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    facts::Facts,
    machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::flow_of,
    pods::{Driver, Node},
    requirement::alone,
    traffic::{Family, listen, read_bytes, send_once},
};

use super::{Process, Programs, accept, of, said, script};

/// The process id of one that has ended is given to one in another container, within one interval.
#[test]
fn a_process_id_that_is_used_again() -> Result<()> {
    let _alone = alone();
    let (node, pair, programs) = (Node::new()?, Pair::new()?, Programs::new()?);
    let listener = listen(&pair.right, Family::V4)?;
    let [first, second] = [0, 2].map(|nth| node.container(Driver::Cgroupfs, nth));
    let (first, second) = (first?, second?);
    node.name(&first)?;
    node.name(&second)?;
    let run = ["live", "-o", "json", "-i", "1h", "-d", "10h", "--host-root", node.root()];
    let netdiag = Netdiag::start(&run)?;
    let mut earlier =
        Process::start(&pair, &listener, &programs, "earlier".to_owned(), first.clone())?;
    earlier.send()?;
    earlier.end()?;
    let pid = earlier.child.id();
    let program = programs.shell("later")?;
    let script = script(&second, listener.1);
    // Another process may have the number for a while.
    let mut refused = None;
    let is_again = machine::wait_until(|| {
        refused = pair.left.run(|| start_as(pid, &program, &["-c", &script])).err();
        refused.is_none()
    });
    ensure!(is_again, "process id {pid} cannot be had again: {refused:?}");
    let (server, end) = accept(&pair, &listener.0)?;
    send_once(&server, b"go\n")?;
    read_bytes(&server, 1)?;
    let outcome = netdiag.stop()?;
    send_once(&server, b"end\n")?;
    // SAFETY: waits for the child that was started above, and writes nowhere.
    unsafe { libc::waitpid(pid.cast_signed(), ptr::null_mut(), 0) };
    let total = outcome.total()?;
    let (one, other) = (flow_of(total, &earlier.end)?, flow_of(total, &end)?);
    let mut facts = Facts::new();
    facts.equal("pids", [one.owner.pid, other.owner.pid], [Some(pid); 2]);
    facts.equal("name of the earlier", one.owner.comm.as_deref(), Some("earlier"));
    facts.equal("name of the later", other.owner.comm.as_deref(), Some("later"));
    let found = said(one);
    println!("place of the one that has ended: {found:?}");
    facts.holds(
        format_args!("the earlier is in its place or nowhere: {found:?}"),
        found == of(&first) || found == [None; 6],
    );
    facts.equal("place of the later", said(other), of(&second));
    facts.finish();
    Ok(())
}

/// Starts a program as a process with this id (`clone3` with `set_tid`, clone(2)).
fn start_as(pid: u32, program: &Path, arguments: &[&str]) -> Result<()> {
    let text = |text: &str| CString::new(text).context("an argument");
    let program = text(program.to_str().context("a name in UTF-8")?)?;
    let arguments = arguments.iter().map(|argument| text(argument)).collect::<Result<Vec<_>>>()?;
    let mut pointers: Vec<_> =
        [&program].into_iter().chain(&arguments).map(|text| text.as_ptr()).collect();
    pointers.push(ptr::null());
    let environment = [ptr::null::<libc::c_char>()];
    let set_tid = [pid.cast_signed()];
    // SAFETY: all of it may be 0, where nothing is wanted.
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    clone.set_tid = set_tid.as_ptr() as u64;
    clone.set_tid_size = 1;
    // SAFETY: like fork. The child calls nothing but execve and _exit, with pointers that were made before.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of_val(&clone)) };
    if result == 0 {
        // SAFETY: in the child; lists end with a null pointer.
        unsafe {
            libc::execve(program.as_ptr(), pointers.as_ptr(), environment.as_ptr());
            libc::_exit(127);
        }
    }
    ensure!(result > 0, "{}", io::Error::last_os_error());
    Ok(())
}
