//! A link that takes its time: two tun devices, and threads that hold each packet back between them. The
//! distance is known wherever there are tun devices, also where the kernel has no netem.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    mem,
    os::fd::AsRawFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
};

use crate::{namespace::Namespace, tool};

/// Where tun devices are made.
const TUN: &str = "/dev/net/tun";
/// How often threads look whether the link is gone.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// More than any packet has.
const MOST: usize = 1 << 16;

/// Carries packets while it lives.
#[derive(Debug)]
pub(super) struct Distance {
    gone: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Distance {
    /// Makes a device `wire` in both namespaces, and begins to carry packets from each to the other,
    /// which takes `one_way`.
    pub(super) fn between(ends: [&Namespace; 2], one_way: Duration) -> Result<Self> {
        if !Path::new(TUN).exists() {
            // A module that nothing has asked for yet.
            tool::line("modprobe tun")?;
        }
        let [left, right] = ends.map(device);
        let (left, right) = (left?, right?);
        let gone = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (from, to) in [(&left, &right), (&right, &left)] {
            let (from, to) = (from.try_clone()?, to.try_clone()?);
            let (put, take) = mpsc::channel();
            let gone = Arc::clone(&gone);
            threads.push(thread::spawn(move || collect(from, &put, one_way, &gone)));
            threads.push(thread::spawn(move || deliver(to, &take)));
        }
        Ok(Self { gone, threads })
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a thread that carried packets panicked");
            }
        }
    }
}

/// The device `wire` of packets without a header of the link.
fn device(namespace: &Namespace) -> Result<File> {
    /// `TUNSETIFF` (include/uapi/linux/if_tun.h).
    const SET: libc::Ioctl = 0x4004_54ca;
    namespace.run(|| {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(TUN, flags, Mode::empty())?;
        // SAFETY: plain data, for which zeros are valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"wire") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: the request is an ifreq that outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), SET, &raw const request) };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "no tun device: {error}");
        Ok(file.into())
    })
}

/// Takes packets and says when each is due.
fn collect(
    mut from: File,
    put: &mpsc::Sender<(Instant, Vec<u8>)>,
    one_way: Duration,
    gone: &AtomicBool,
) {
    let mut packet = vec![0; MOST];
    while !gone.load(Ordering::Relaxed) {
        match from.read(&mut packet) {
            Ok(len) => {
                if put.send((Instant::now() + one_way, packet[..len].to_vec())).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let ready = poll(&mut [PollFd::new(&from, PollFlags::IN)], Some(&LOOK));
                ready.expect("poll of a tun device");
            }
            // Not up yet.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Hands each packet over when it is due; one that the device refuses is lost, as on any link.
fn deliver(mut to: File, take: &mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (due, packet) in take {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        drop(to.write(&packet).context("write"));
    }
}
