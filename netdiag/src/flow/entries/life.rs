//! How old an entry of the connection tracking table is.

/// How long an entry has been in the table. CPUs tell in any order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// When it came into it, while it is there.
    began_ns: Option<u64>,
    /// When it was freed last; 0 before.
    ended_ns: u64,
    /// How long it had been there by then.
    pub(super) lived_ns: Option<u64>,
}

impl Life {
    /// It came into the table.
    pub(super) fn begin(&mut self, now_ns: u64) {
        match self.ended_ns.checked_sub(now_ns).filter(|lived| *lived > 0) {
            Some(lived) => self.lived_ns = Some(lived),
            None => (self.began_ns, self.lived_ns) = (self.began_ns.max(Some(now_ns)), None),
        }
    }

    /// It was freed.
    pub(super) fn end(&mut self, now_ns: u64) {
        self.ended_ns = self.ended_ns.max(now_ns);
        self.lived_ns = self.began_ns.and_then(|began| now_ns.checked_sub(began));
        self.began_ns = self.began_ns.filter(|began| *began > now_ns);
    }

    /// Its age, or that at its end; `told_since_ns` is from when on no end was told of many at once.
    pub(super) fn age_ns(&self, now_ns: u64, told_since_ns: u64) -> Option<u64> {
        let began = self.began_ns.filter(|began| *began >= told_since_ns);
        let alive = began.map(|began| now_ns.saturating_sub(began));
        if self.began_ns.is_some() { alive } else { self.lived_ns }
    }
}
