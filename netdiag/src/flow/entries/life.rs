//! How old an entry of the connection tracking table is.

/// How long an entry has been in the table. CPUs tell in any order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Life {
    /// When it came into it, while it is there.
    began_ns: Option<u64>,
    /// When it was freed last; 0 before.
    ended_ns: u64,
    /// How long it had been there by then.
    lived_ns: Option<u64>,
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

    /// How long it had been there when it was freed last; none while it is there, or where in between an
    /// end was told of many at once, at `blurred_ns` the last time: it may have been its own.
    pub(super) fn lived_ns(&self, blurred_ns: u64) -> Option<u64> {
        let lived = self.lived_ns?;
        (!(self.ended_ns - lived..self.ended_ns).contains(&blurred_ns)).then_some(lived)
    }

    /// Its age, or that at its end; see [`Self::lived_ns`].
    pub(super) fn age_ns(&self, now_ns: u64, blurred_ns: u64) -> Option<u64> {
        match self.began_ns {
            Some(began) => (began >= blurred_ns).then(|| now_ns.saturating_sub(began)),
            None => self.lived_ns(blurred_ns),
        }
    }
}
