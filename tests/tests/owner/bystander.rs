//! Timers and packets come in softirqs, which interrupt whoever runs: what they tell is no business of his.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use netdiag_tests::{
    child::Own,
    counters::{TcpCounters, wait_until_quiet},
    dropping,
    facts::Facts,
    fault, machine,
    netdiag::Netdiag,
    network::Pair,
    outcome::{count, flow_of, in_namespaces, sent_again},
    pods::{Driver, Node},
    require,
    requirement::{Feature, alone},
    tool,
    traffic::{End, Family, listen, read_bytes, send_once},
    witness::Witness,
};

use super::{Process, Programs, of, said};

const BYSTANDER: &str = "bystander";

/// Keeps a CPU busy until it is dropped.
struct Busy(Own);

impl Busy {
    fn start(programs: &Programs) -> Result<Self> {
        // It ends with who started it, however that ends.
        let mut command = tool::command("setpriv")?;
        command.args(["--pdeathsig", "KILL"]).arg(programs.shell(BYSTANDER)?);
        let command = command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
        Ok(Self(command.spawn().context("a busy shell")?.into()))
    }
}

/// Segments are sent again by timers, and dropped on receipt, while another process has every CPU: again and again
/// until both have interrupted it.
#[test]
fn who_is_interrupted_owns_nothing() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Setpriv);
    let _alone = alone();
    let (node, pair, programs) = (Node::new()?, Pair::new()?, Programs::new()?);
    let listener = listen(&pair.right, Family::V4)?;
    let container = node.container(Driver::Systemd, 0)?;
    node.name(&container)?;
    let netdiag = Netdiag::live(&["--host-root", node.root()])?;
    let mut client = Process::start(&pair, &listener, &programs, "client".to_owned(), container)?;
    client.send()?;
    let processors = std::thread::available_parallelism()?.get();
    let busy: Vec<_> = (0..processors).map(|_| Busy::start(&programs)).collect::<Result<_>>()?;
    let is_busy: Vec<_> = busy.iter().map(|one| format!("common_pid == {}", one.0.id())).collect();
    let is_busy = is_busy.join(" || ");
    let interrupted = |category, name| Witness::of(category, name, Some(&is_busy));
    let mut again = interrupted("tcp", "tcp_retransmit_skb")?;
    let mut freed = interrupted("skb", "kfree_skb")?;
    let before = TcpCounters::read(&pair.left)?;
    let mut rounds = 0;
    let mut failed = Ok(());
    let both = machine::wait_until(|| {
        rounds += 1;
        failed = round(&pair, &client, listener.1);
        failed.is_err()
            || again.hits().is_ok_and(|hits| hits > 0) && freed.hits().is_ok_and(|hits| hits > 0)
    });
    failed?;
    drop(busy);
    client.end()?;
    wait_until_quiet(&pair.left)?;
    let kernels = TcpCounters::read(&pair.left)?.since(&before)["RetransSegs"];
    let (again, freed) = (again.hits()?, freed.hits()?);
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let flow = flow_of(total, &client.end)?;
    let other = End { netns: pair.right.inode(), local: client.end.peer, peer: client.end.local };
    let other = flow_of(total, &other)?;
    let dropped = count(other, &format!("drops.{}", dropping::by_firewall(machine::series())));
    let mut facts = Facts::new();
    facts.note(format_args!(
        "{again} retransmissions and {freed} drops interrupted a bystander in {rounds} rounds"
    ));
    facts.holds("both interrupted a bystander", both);
    facts.holds(format_args!("something was sent again in {rounds} rounds"), kernels >= rounds);
    let ours = sent_again(total, &[pair.left.inode()]) as i64;
    facts.equal("segments sent again are the client's", ours, kernels);
    facts.equal("its name", flow.owner.comm.as_deref(), Some("client"));
    facts.equal("its pid", flow.owner.pid, Some(client.child.id()));
    facts.equal("its place", said(flow), of(&client.container));
    facts.holds(
        format_args!("drops are the server's: {dropped:?}"),
        dropped.is_some_and(|dropped| dropped as i64 >= rounds),
    );
    facts.equal("pid of the server", other.owner.pid, Some(std::process::id()));
    let inodes = [pair.left.inode(), pair.right.inode()];
    let owners = in_namespaces(total, &inodes).filter_map(|flow| flow.owner.comm.as_deref());
    let wrong: Vec<_> = owners.filter(|comm| *comm == BYSTANDER).collect();
    facts.equal("flows of the bystander", wrong, Vec::<&str>::new());
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// Nothing that the client sends arrives until it has sent something again.
fn round(pair: &Pair, client: &Process, port: u16) -> Result<()> {
    let before = TcpCounters::read(&pair.left)?;
    let fault = fault::drop_incoming(&pair.right, &format!("tcp dport {port} drop"))?;
    send_once(&client.server, b"go\n")?;
    let sent_again = || TcpCounters::read(&pair.left).map(|now| now.since(&before)["RetransSegs"]);
    let is_again = machine::wait_until(|| sent_again().is_ok_and(|again| again > 0));
    fault.end()?;
    ensure!(is_again, "the client sends nothing again");
    read_bytes(&client.server, 1)
}
