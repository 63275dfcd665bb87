//! Turns of a conversation: who spoke last on a connection, when, and how long the answer took.
//!
//! Nothing is known of what is said. A turn is a request when one end spoke, then the other. Where the two
//! overlap (pipelined requests, streams both ways) an answer cannot be told from what would have come
//! anyhow: such a turn is ambiguous, and has no latency.
//!
//! All but the end of a send call is told under the socket's lock, in the order in which it happened.

/// A call that took no longer did not wait, and an answer that came sooner after it than the call took may
/// have come while it held the socket.
pub const QUICK_CALL_NS: u64 = 250_000;
/// What a request in several calls may take of the time to its answer, as a divisor. Above, the calls may
/// be requests of their own.
pub const SPREAD: u64 = 10;
/// Turns after an overlap that are ambiguous, too: in two streams that cross each other, an answer that
/// came in time is one by chance, as often as not.
pub const SUSPECT: u32 = 16;
/// Unless neither end said anything for so long: then what comes next is a beginning.
pub const QUIET_NS: u64 = 100_000_000;
/// A read call takes one buffer after the other without such a pause.
pub const SAME_READ_NS: u64 = 1_000_000;

/// The sequence numbers of a socket (`struct tcp_sock`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// `write_seq`: behind the last byte that was handed over to be sent.
    pub written: u32,
    /// `snd_una`: the first byte that the peer has not acknowledged.
    pub acknowledged: u32,
    /// `copied_seq`: the first byte that was not read.
    pub read: u32,
    /// `rcv_nxt`: behind the last byte that came in order, without a FIN.
    pub received: u32,
}

impl Look {
    /// Whether the peer has all that was sent.
    #[inline(always)]
    const fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.written
    }

    #[inline(always)]
    const fn is_read(&self) -> bool {
        !is_behind(self.received, self.read)
    }
}

/// Whether one sequence number is behind another one.
#[inline(always)]
const fn is_behind(seq: u32, other: u32) -> bool {
    seq.wrapping_sub(other) as i32 > 0
}

/// What is known of who spoke last.
mod phase {
    /// Nothing: the connection is older than the programs.
    pub(super) const UNSEEN: u32 = 0;
    /// Neither did.
    pub(super) const IDLE: u32 = 1;
    /// This end.
    pub(super) const SPOKE: u32 = 2;
    /// The peer.
    pub(super) const HEARD: u32 = 3;
    /// The peer, to which this end owes no answer, or none that could be told from others.
    pub(super) const QUIT: u32 = 4;
}

/// What an event ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No turn.
    Nothing,
    /// One with an answer.
    Answered {
        /// Nanoseconds from what the metric begins with: the last byte of what this end asked, the first
        /// of what the peer did.
        latency_ns: u64,
        /// Nanoseconds from the other end of the request: its first byte; its last one, or when data was
        /// read after that.
        other_ns: u64,
    },
    /// One that may have been several.
    Ambiguous,
    /// The peer spoke while it did not have all of what this end said, so that the turns of neither can
    /// be told.
    Overlapped,
}

/// How long data had waited that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    /// Nanoseconds since it came.
    pub latency_ns: u64,
    /// Nanoseconds of it since data was read before: no time is part of two waits.
    pub other_ns: u64,
}

/// What is remembered of a connection's turns; all zero of one of which nothing was seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turns {
    /// When the first send call of what this end says began, `CLOCK_MONOTONIC` like all others.
    first_ns: u64,
    /// When the last one began.
    begun_ns: u64,
    /// When the last one that sent something ended; written without the lock. 0 where that is not seen.
    ended_ns: u64,
    /// When the last one ended, whatever it did; likewise.
    returned_ns: u64,
    /// When the peer began to say what it says.
    heard_ns: u64,
    /// When the last of it came.
    heard_last_ns: u64,
    /// When data came behind `told`, 0 where none did.
    unread_ns: u64,
    /// When the last of what is left below `told` had come, 0 where nothing is.
    left_ns: u64,
    /// When data was read last.
    read_ns: u64,
    /// One of [`phase`].
    phase: u32,
    /// What it was before this end spoke.
    before: u32,
    /// 1 when it is not known yet whether the call sent anything that made this end the last to speak.
    unproven: u32,
    /// 1 when the answer to what this end says cannot be told from others.
    doubtful: u32,
    /// Turns to come that are not to be believed.
    suspect: u32,
    /// Zero.
    reserved: u32,
    /// 1 when the sequence numbers below are known.
    known: u32,
    /// Thread whose call began last, 0 none.
    caller: u32,
    /// `written` as the last send call began.
    begun: u32,
    /// `received` as data came last.
    heard: u32,
    /// Data below it was waited for, as far as anybody was told.
    told: u32,
    /// `read` as data was read last.
    read: u32,
}

impl Turns {
    /// Makes what is all zero that of a connection that has just begun.
    #[inline(always)]
    pub const fn open(&mut self) {
        self.phase = phase::IDLE;
    }

    /// At the first event the sequence numbers are what they are; data up to `heard` has come before.
    #[inline(always)]
    fn begin(&mut self, look: &Look, heard: u32) {
        if self.known == 0 {
            self.known = 1;
            self.begun = look.written;
            self.heard = heard;
            self.told = heard;
            self.read = look.read;
        }
    }

    /// A call that sent nothing does not make this end the last to speak.
    #[inline(always)]
    fn prove(&mut self, look: &Look) {
        if self.unproven != 0 {
            self.unproven = 0;
            if look.written == self.begun {
                // The attempt was told of as the answer.
                self.phase = if self.before == phase::HEARD { phase::QUIT } else { self.before };
            }
        }
    }

    /// A send call begins, of a thread whose number is not 0. Where this is told `repeatedly` in a call,
    /// the first time counts: any call that returned since may have been this one.
    ///
    /// An answer ends what the peer asked: `latency_ns` from its first byte, `other_ns` from the last or
    /// from when it was read.
    #[inline(always)]
    pub fn send_begins(
        &mut self,
        now_ns: u64,
        look: &Look,
        thread: u32,
        repeatedly: bool,
    ) -> Ended {
        self.begin(look, look.received);
        let goes_on = self.caller == thread && self.returned_ns < self.begun_ns;
        if repeatedly && goes_on && self.phase == phase::SPOKE {
            return Ended::Nothing;
        }
        self.prove(look);
        self.caller = thread;
        let spoke_ns = self.begun_ns.max(self.ended_ns);
        if now_ns.saturating_sub(spoke_ns.max(self.heard_last_ns)) >= QUIET_NS {
            self.suspect = 0;
        }
        self.begun_ns = now_ns;
        self.begun = look.written;
        let mut ended = Ended::Nothing;
        match self.phase {
            phase::SPOKE => return ended,
            phase::UNSEEN => {
                // What it said before is not known, so there is no telling what is answered next.
                self.phase = phase::IDLE;
                return ended;
            }
            // Who has not read all of a request does not answer it.
            phase::HEARD if !look.is_read() => {
                self.doubtful = 1;
                self.suspect = SUSPECT;
                ended = Ended::Ambiguous;
            }
            phase::HEARD if self.suspect != 0 => {
                self.doubtful = 1;
                ended = Ended::Ambiguous;
            }
            phase::HEARD => {
                self.doubtful = 0;
                ended = Ended::Answered {
                    latency_ns: now_ns.saturating_sub(self.heard_ns),
                    other_ns: now_ns.saturating_sub(self.heard_last_ns.max(self.read_ns)),
                };
            }
            _ => self.doubtful = u32::from(!look.is_acknowledged() || self.suspect != 0),
        }
        self.first_ns = now_ns;
        self.before = self.phase;
        self.phase = phase::SPOKE;
        self.unproven = 1;
        ended
    }

    /// A send call ends, which took that many bytes or failed with a negative errno. Not under the lock, so
    /// it writes what nobody else does.
    #[inline(always)]
    pub fn send_ends(&mut self, now_ns: u64, result: i32) {
        self.returned_ns = now_ns;
        if result > 0 {
            self.ended_ns = now_ns;
        }
    }

    /// Something came from the peer, whose acknowledgement has been taken in.
    ///
    /// Data ends what this end asked: `latency_ns` from its last byte, `other_ns` from the first.
    #[inline(always)]
    pub fn data_arrives(&mut self, now_ns: u64, look: &Look) -> Ended {
        self.begin(look, look.read);
        if !is_behind(look.received, self.heard) {
            return Ended::Nothing; // a FIN
        }
        self.heard = look.received;
        self.prove(look);
        if self.unread_ns == 0 {
            self.unread_ns = now_ns;
        }
        self.heard_last_ns = now_ns;
        match self.phase {
            phase::SPOKE => self.answered(now_ns, look),
            phase::IDLE if look.is_acknowledged() => {
                self.phase = phase::HEARD;
                self.heard_ns = now_ns;
                Ended::Nothing
            }
            // It may have begun before.
            phase::IDLE | phase::UNSEEN => {
                self.phase = phase::QUIT;
                Ended::Nothing
            }
            _ => Ended::Nothing,
        }
    }

    /// The peer speaks after this end.
    #[inline(always)]
    fn answered(&mut self, now_ns: u64, look: &Look) -> Ended {
        if !look.is_acknowledged() {
            self.phase = phase::QUIT;
            self.suspect = SUSPECT;
            return Ended::Overlapped;
        }
        self.suspect = self.suspect.saturating_sub(1);
        self.phase = phase::HEARD;
        self.heard_ns = now_ns;
        let latency_ns = now_ns.saturating_sub(self.asked_ns(now_ns, look));
        let spread_ns = self.begun_ns.saturating_sub(self.first_ns);
        if self.doubtful != 0 || spread_ns > latency_ns / SPREAD {
            return Ended::Ambiguous;
        }
        Ended::Answered { latency_ns, other_ns: now_ns.saturating_sub(self.first_ns) }
    }

    /// When the last byte of what this end said was sent.
    #[inline(always)]
    fn asked_ns(&self, now_ns: u64, look: &Look) -> u64 {
        let ended_ns = self.ended_ns;
        let nothing_since = look.written == self.begun && ended_ns >= self.first_ns;
        let is_over = ended_ns >= self.begun_ns && ended_ns <= now_ns;
        if !is_over {
            return if nothing_since { ended_ns } else { self.begun_ns };
        }
        let took_ns = ended_ns - self.begun_ns;
        let may_be_inside = took_ns < QUICK_CALL_NS && now_ns - ended_ns < took_ns;
        if may_be_inside { self.begun_ns } else { ended_ns }
    }

    /// Data was read, or looked at. Returns how long it had waited, once for what one call reads.
    #[inline(always)]
    pub fn data_is_read(&mut self, now_ns: u64, look: &Look) -> Option<Waited> {
        if self.known == 0 {
            self.begin(look, look.received);
            self.phase = if self.phase == phase::UNSEEN { phase::QUIT } else { self.phase };
            return None;
        }
        if look.read == self.read {
            return None; // MSG_PEEK
        }
        self.read = look.read;
        let before_ns = self.read_ns;
        self.read_ns = now_ns;
        let since = |came_ns: u64| Waited {
            latency_ns: now_ns.saturating_sub(came_ns),
            other_ns: now_ns.saturating_sub(came_ns.max(before_ns)),
        };
        let mut waited = None;
        if is_behind(look.read, self.told) {
            if self.unread_ns != 0 {
                waited = Some(since(self.unread_ns));
            }
            self.unread_ns = 0;
            self.told = look.received;
            self.left_ns = self.heard_last_ns;
        } else if self.left_ns != 0 && now_ns.saturating_sub(before_ns) >= SAME_READ_NS {
            waited = Some(since(self.left_ns));
        }
        if look.is_read() {
            self.left_ns = 0;
        }
        waited
    }
}
