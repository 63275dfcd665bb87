//! A link in userspace: two tun devices, and a thread for each way that hands every packet over when a
//! [`Schedule`] says so. What it does is known wherever there are tun devices, also where the kernel has no netem.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    mem,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};

use super::link::{Carried, Schedule, Way};
use crate::{namespace::Namespace, random::Random, tool};

/// Where tun devices are made.
const TUN: &str = "/dev/net/tun";
/// How often threads look whether the link is gone.
const LOOK: Duration = Duration::from_millis(50);
/// More than any packet has.
const MOST: usize = 1 << 16;
/// Packets that wait for a thread that has no processor.
const WAITING: u32 = 10_000;
/// What the devices say that they carry, in Mbit/s; their own default is 10, which links of the tests exceed.
const SPEED: u32 = 10_000;

/// Whether a link is cut: a handle that outlives it.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Loses all packets from now on, or no longer.
    pub fn set(&self, cut: bool) {
        self.0.store(cut, Relaxed);
    }
}

/// Carries packets while it lives.
#[derive(Debug)]
pub struct Relay {
    gone: Arc<AtomicBool>,
    cut: Cut,
    schedules: [Arc<Mutex<Schedule>>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Makes a device of this name in both namespaces, and begins to carry packets: from the first to the
    /// second as the first way says, and back as the second does.
    ///
    /// # Errors
    /// When there are no tun devices.
    pub fn between(
        ends: [&Namespace; 2],
        name: &str,
        ways: [Way; 2],
        random: &mut Random,
    ) -> Result<Self> {
        if !Path::new(TUN).exists() {
            // A module that nothing has asked for yet.
            tool::line("modprobe tun")?;
        }
        let [left, right] = ends.map(|end| device(end, name));
        let (left, right) = (left?, right?);
        for end in ends {
            end.ip(&format!("link set {name} txqueuelen {WAITING}"))?;
        }
        let mut schedule = |way| {
            let random = Random::of(random.below(u64::MAX));
            Arc::new(Mutex::new(Schedule::new(way, random)))
        };
        let schedules = [schedule(ways[0]), schedule(ways[1])];
        let mut relay =
            Self { gone: Arc::default(), cut: Cut::default(), schedules, threads: Vec::new() };
        let begun = Instant::now();
        for (schedule, (from, to)) in relay.schedules.iter().zip([(&left, &right), (&right, &left)])
        {
            let (schedule, gone) = (Arc::clone(schedule), Arc::clone(&relay.gone));
            let cut = relay.cut.clone();
            let mut one_way = OneWay {
                from: from.try_clone()?,
                to: to.try_clone()?,
                begun,
                waiting: BinaryHeap::new(),
                number: 0,
                packet: vec![0; MOST],
            };
            relay.threads.push(thread::spawn(move || {
                while !gone.load(Relaxed) {
                    one_way.step(&schedule, &cut);
                }
            }));
        }
        Ok(relay)
    }

    /// By which all packets are lost.
    #[must_use]
    pub fn cut(&self) -> Cut {
        self.cut.clone()
    }

    /// What came of the packets of each way.
    #[must_use]
    pub fn carried(&self) -> [Carried; 2] {
        let of =
            |at: usize| self.schedules[at].lock().unwrap_or_else(PoisonError::into_inner).carried();
        [of(0), of(1)]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.gone.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread that carried packets panicked");
            }
        }
    }
}

/// A packet by when it is due, and in what order it came.
type Due = Reverse<(Duration, u64, Vec<u8>)>;

/// One way of a link.
struct OneWay {
    from: File,
    to: File,
    begun: Instant,
    waiting: BinaryHeap<Due>,
    number: u64,
    /// Room for one.
    packet: Vec<u8>,
}

impl OneWay {
    /// Hands over what is due, takes what has come, and waits for either.
    fn step(&mut self, schedule: &Mutex<Schedule>, cut: &Cut) {
        let now = self.begun.elapsed();
        while self.waiting.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            if let Some(Reverse((_, _, packet))) = self.waiting.pop() {
                // One that the device refuses is lost, as on any link.
                drop(self.to.write(&packet));
            }
        }
        match self.from.read(&mut self.packet) {
            Ok(length) => {
                let now = self.begun.elapsed();
                let mut schedule = schedule.lock().unwrap_or_else(PoisonError::into_inner);
                let due = schedule.arrival(now, length).filter(|_| !cut.0.load(Relaxed));
                if let Some(due) = due {
                    self.number += 1;
                    self.waiting.push(Reverse((due, self.number, self.packet[..length].to_vec())));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.wait(),
            // Not up yet.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }

    fn wait(&self) {
        let next = self.waiting.peek().map(|Reverse((due, ..))| *due);
        let wait = next.map_or(LOOK, |due| due.saturating_sub(self.begun.elapsed()).min(LOOK));
        let wait = Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let ready = poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&wait));
        ready.expect("poll of a tun device");
    }
}

/// A device of packets without a header of the link.
fn device(namespace: &Namespace, name: &str) -> Result<File> {
    /// `TUNSETIFF` (include/uapi/linux/if_tun.h).
    const SET: libc::Ioctl = 0x4004_54ca;
    namespace.run(|| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(TUN, flags, Mode::empty())?;
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is an ifreq that outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), SET, &raw const request) };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "no tun device: {error}");
        set_speed(name, SPEED)?;
        Ok(file.into())
    })
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

/// Sets what a tun device of this thread's namespace says that it carries, in Mbit/s.
///
/// # Errors
/// When it does not take that.
pub fn set_speed(name: &str, speed: u32) -> Result<()> {
    /// include/uapi/linux/sockios.h.
    const ASK: libc::Ioctl = 0x8946;
    /// `ETHTOOL_SSET` and the layout of `struct ethtool_cmd` (include/uapi/linux/ethtool.h), in words.
    const SET: u32 = 2;
    const SPEED_AT: usize = 3;
    const SPEED_HIGH_AT: usize = 7;
    /// `DUPLEX_FULL`, behind the speed.
    const FULL: u32 = 1 << 16;
    let mut words = [0_u32; 11];
    words[0] = SET;
    words[SPEED_AT] = (speed & 0xffff) | FULL;
    words[SPEED_HIGH_AT] = speed >> 16;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = request(name);
    request.ifr_ifru.ifru_data = (&raw mut words).cast();
    // SAFETY: the request is an ifreq, and both it and what it points to outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), ASK, &raw mut request) };
    let error = std::io::Error::last_os_error();
    ensure!(result == 0, "{name} does not take a speed: {error}");
    Ok(())
}
